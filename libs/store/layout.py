"""Where each kind of object lies in the bucket: the only place that spells object keys.

    packs/<first 2 hex of generation>/<generation, 32 hex>
    manifests/<tenant>/<group>/<sequence, 10 digits>-<session>-<suffix of the attempt>
    keys/<domain>/<key id>[-<fingerprint of the key-encryption key, 16 hex>]
    checkpoints/<incarnation, 10 digits>/<number, 20 digits>[-<part, 6 digits>]
    stores/<id of this store>

Numbers are padded so that a listing of one folder is in their order. Every function pair is
inverse: parsing accepts exactly what its writer writes, so a foreign object is never taken for one
of ours.
"""

import re
import uuid
from dataclasses import dataclass

from libs.errors import BadInputError, DamagedDataError
from libs.ids import check_name

PACKS_PREFIX = "packs/"
MANIFESTS_PREFIX = "manifests/"
KEYS_PREFIX = "keys/"
CHECKPOINTS_PREFIX = "checkpoints/"
STORES_PREFIX = "stores/"

#: Snapshots of one group, ever: 10 digits.
SEQUENCE_MAX = 10**10 - 1

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_PACK = re.compile(r"packs/([0-9a-f]{2})/(\1[0-9a-f]{30})")
_MANIFEST = re.compile(
    rf"manifests/([a-z0-9._-]+)/({_UUID})/((?!0{{10}})[0-9]{{10}})-({_UUID})-([a-z0-9]{{1,32}})"
)
_DOMAIN_KEY = re.compile(rf"keys/({_UUID})/({_UUID})(?:-([0-9a-f]{{16}}))?")
_CHECKPOINT = re.compile(r"checkpoints/([0-9]{10})/([0-9]{20})(?:-([0-9]{6}))?")
_STORE = re.compile(rf"stores/({_UUID})")
_SUFFIX = re.compile(r"[a-z0-9]{1,32}")


@dataclass(frozen=True, slots=True)
class ManifestName:
    """What the key of a manifest says."""

    tenant: str
    group: uuid.UUID
    #: Number of the snapshot in its group, from 1.
    sequence: int
    session: uuid.UUID
    #: 1 to 32 of a-z and 0-9; makes attempts of one session write different objects.
    suffix: str


@dataclass(frozen=True, slots=True)
class DomainKeyName:
    """What the key of a wrapped data key says."""

    domain: uuid.UUID
    key_id: uuid.UUID
    #: Fingerprint in hex of the key-encryption key that it was wrapped by anew; None: as it was
    #: first stored, wrapped by whichever was in use then.
    wrapped_by: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """What the key of a catalog checkpoint says."""

    incarnation: int
    #: Ascends within an incarnation; a number is never given to two contents.
    number: int
    #: From 0 for one of its parts; None for the head, which is written last.
    part: int | None = None


def pack_object(generation: uuid.UUID) -> str:
    """Key of the pack of this generation. 256 folders keep every folder small on file systems."""
    return f"packs/{generation.hex[:2]}/{generation.hex}"


def parse_pack_object(key: str) -> uuid.UUID:
    """The generation of a pack.

    Raises:
        BadInputError: not the key of a pack; so for the other parsers.
    """
    return uuid.UUID(hex=_match(_PACK, "pack", key)[2])


def manifest_folder(tenant: str, group: uuid.UUID | None = None) -> str:
    """Prefix of the manifests of a tenant, or of one group, which list in order of sequence."""
    folder = f"manifests/{check_name('tenant', tenant)}/"
    return folder if group is None else f"{folder}{group}/"


def manifest_object(name: ManifestName) -> str:
    """Key of a manifest.

    Raises:
        BadInputError: tenant, sequence or suffix out of bounds.
    """
    if not 1 <= name.sequence <= SEQUENCE_MAX or not _SUFFIX.fullmatch(name.suffix):
        raise BadInputError(
            f"manifest {name.sequence} with suffix {name.suffix!r}: expected a sequence of "
            f"1 to {SEQUENCE_MAX} and a suffix of 1 to 32 characters of a-z and 0-9"
        )
    folder = manifest_folder(name.tenant, name.group)
    return f"{folder}{name.sequence:010d}-{name.session}-{name.suffix}"


def parse_manifest_object(key: str) -> ManifestName:
    """What the key of a manifest says."""
    match = _match(_MANIFEST, "manifest", key)
    tenant = check_name("tenant", match[1])
    return ManifestName(tenant, uuid.UUID(match[2]), int(match[3]), uuid.UUID(match[4]), match[5])


def domain_key_object(name: DomainKeyName) -> str:
    """Key of the object that holds a wrapped data key."""
    key = f"{KEYS_PREFIX}{name.domain}/{name.key_id}"
    return key if name.wrapped_by is None else f"{key}-{name.wrapped_by}"


def parse_domain_key_object(key: str) -> DomainKeyName:
    """What the key of a wrapped data key's object says."""
    match = _match(_DOMAIN_KEY, "wrapped key", key)
    return DomainKeyName(uuid.UUID(match[1]), uuid.UUID(match[2]), match[3])


def checkpoint_object(name: CheckpointName) -> str:
    """Key of a catalog checkpoint's head or part; they list in order, a head before its parts."""
    key = f"{CHECKPOINTS_PREFIX}{name.incarnation:010d}/{name.number:020d}"
    return key if name.part is None else f"{key}-{name.part:06d}"


def parse_checkpoint_object(key: str) -> CheckpointName:
    """What the key of a checkpoint says."""
    match = _match(_CHECKPOINT, "checkpoint", key)
    return CheckpointName(int(match[1]), int(match[2]), int(match[3]) if match[3] else None)


def expect_object(asked: str, said: str) -> None:
    """Refuse an object of ours that is not the one that was asked for.

    Args:
        asked: key under which a store gave it.
        said: key of the object that it says it is, in what its encryption authenticates.

    Raises:
        DamagedDataError: they differ. The object is intact, and it is another.
    """
    if asked != said:
        raise DamagedDataError(
            f"object {asked}: says that it is {said}; objects of the bucket were exchanged: "
            f"restore this one from a copy of the bucket"
        )


def store_object(store_id: uuid.UUID) -> str:
    """Key of the object by which a bucket says which store it is."""
    return f"{STORES_PREFIX}{store_id}"


def parse_store_object(key: str) -> uuid.UUID:
    """Which store the object's bucket is."""
    return uuid.UUID(_match(_STORE, "store", key)[1])


def _match(pattern: re.Pattern[str], kind: str, key: str) -> re.Match[str]:
    match = pattern.fullmatch(key)
    if match is None:
        raise BadInputError(f"object key {key[:80]!r}: expected the key of a {kind}")
    return match
