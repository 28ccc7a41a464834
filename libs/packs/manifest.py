"""Manifests: one object per sealed snapshot that says all that is needed to restore it.

A header in clear (which key, whose, which place in the group's history), a body that is compressed
and encrypted, and a MAC over both. The body names the MAC of the group's previous manifest, so the
history of a group is a chain that can be neither reordered nor have a link exchanged by whoever
lacks the key. A manifest alone does not prove that its snapshot was acknowledged: the catalog's
commit decides that.

Nonce: zero, because the key of each object is its own, derived from the session and the caller's
    salt.
"""

import datetime as dt
import hmac
import uuid
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from libs.errors import BadInputError, DamagedDataError, WrongKeyError
from libs.packs.frame import ZSTD_LEVEL
from libs.packs.layout import (
    GCM_TAG_SIZE_BYTES,
    KEY_SIZE_BYTES,
    MANIFEST_BODY_SIZE_BYTES_MAX,
    MANIFEST_HEADER,
    MANIFEST_MAC_SIZE_BYTES,
    MANIFEST_MAGIC,
    MANIFEST_READABLE_VERSIONS,
    MANIFEST_SALT_SIZE_BYTES,
    MANIFEST_VERSION,
    TENANT_SIZE_BYTES_MAX,
    Buffer,
)

_NONCE = bytes(12)
_ZEROS = bytes(5)

Count = Annotated[int, msgspec.Meta(ge=0)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class VolumeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One volume of a snapshot."""

    volume: uuid.UUID
    name: str
    #: The volume's number in the catalog that sealed the snapshot. The format calls it "lineage".
    volume_no: Count = msgspec.field(name="lineage")
    #: Root of the block map; None: the volume is all zeros.
    root: Digest | None
    root_level: Count
    size_bytes: Count
    chunk_size_bytes: Count
    changed_bytes: Count
    read_bytes: Count
    #: What was read, for people: device or path.
    source: str
    #: Name of the node whose agent read it.
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A sealed snapshot of a group."""

    tenant: str
    #: The domain that each tag of the block maps stands for; number 0 is the tenant's own.
    domains: tuple[uuid.UUID, ...]
    group: uuid.UUID
    group_name: str
    #: Position in the group's history: 1 is the first.
    sequence: Count
    session: uuid.UUID
    created_at: dt.datetime
    #: Session of the snapshot that the change set is relative to; None: complete capture.
    base_session: uuid.UUID | None
    consistency: Literal["frozen", "quiet", "unvouched", "fuzzy"]
    volumes: tuple[VolumeEntry, ...]
    #: MAC of the group's previous manifest; None for the first.
    previous_mac: Digest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestHeader:
    """What a manifest says in clear; not to be trusted before `open_manifest`."""

    tenant: str
    key_id: uuid.UUID
    group: uuid.UUID
    session: uuid.UUID
    sequence: int
    salt: bytes
    stored_size_bytes: int
    plain_size_bytes: int
    #: Length of the header itself.
    size_bytes: int


def seal_manifest(manifest: Manifest, key_id: uuid.UUID, manifest_key: bytes, salt: bytes) -> bytes:
    """The object's bytes; the same for the same arguments.

    Args:
        manifest: what to seal.
        key_id: names the data key that ``manifest_key`` is derived from.
        manifest_key: 32 bytes.
        salt: 16 random bytes, drawn once per object: another content needs another salt.

    Raises:
        BadInputError: a field is out of range, or the manifest exceeds
            MANIFEST_BODY_SIZE_BYTES_MAX.
    """
    tenant = manifest.tenant.encode()
    plain = _encoder.encode(manifest)
    try:
        _decoder.decode(plain)  # what a reader would refuse is never written
    except msgspec.MsgspecError as err:
        raise BadInputError(f"manifest of session {manifest.session}: {err}") from err
    if not 0 < len(tenant) <= TENANT_SIZE_BYTES_MAX or len(salt) != MANIFEST_SALT_SIZE_BYTES:
        raise BadInputError(f"manifest of tenant {manifest.tenant!r}: bad length of tenant or salt")
    if len(plain) > MANIFEST_BODY_SIZE_BYTES_MAX:
        raise BadInputError(
            f"manifest of session {manifest.session}: {len(plain)} bytes, at most "
            f"{MANIFEST_BODY_SIZE_BYTES_MAX} fit; split the group"
        )
    compressed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(plain)
    header = MANIFEST_HEADER.pack(
        MANIFEST_MAGIC,
        MANIFEST_VERSION,
        len(tenant),
        _ZEROS,
        key_id.bytes,
        manifest.group.bytes,
        manifest.session.bytes,
        salt,
        manifest.sequence,
        len(compressed) + GCM_TAG_SIZE_BYTES,
        len(plain),
    )
    header += tenant
    body = _body_cipher(manifest_key, manifest.session, salt).encrypt(_NONCE, compressed, header)
    return header + body + _mac(manifest_key, header + body)


def parse_manifest_header(data: Buffer) -> ManifestHeader:
    """Read a manifest's header, to learn which key opens it: lengths are checked, truth is not.

    Raises:
        DamagedDataError: these are not the bytes of one manifest of a version that can be read.
    """
    if len(data) < MANIFEST_HEADER.size:
        raise DamagedDataError(f"manifest of {len(data)} bytes: cut off within its header")
    magic, version, tenant_size, zeros, key_id, group, session, salt, sequence, stored, plain = (
        MANIFEST_HEADER.unpack_from(data)
    )
    if (magic, zeros) != (MANIFEST_MAGIC, _ZEROS) or version not in MANIFEST_READABLE_VERSIONS:
        raise DamagedDataError(
            f"manifest: expected {MANIFEST_MAGIC!r} version 1 to {MANIFEST_VERSION}, got "
            f"{magic!r} version {version}"
        )
    body_at = MANIFEST_HEADER.size + tenant_size
    if (
        not 0 < tenant_size <= TENANT_SIZE_BYTES_MAX
        or not 0 < plain <= MANIFEST_BODY_SIZE_BYTES_MAX
        or len(data) != body_at + stored + MANIFEST_MAC_SIZE_BYTES
    ):
        raise DamagedDataError(
            f"manifest of {len(data)} bytes: its header says {tenant_size} of tenant, {stored} of "
            f"body, {plain} when expanded"
        )
    return ManifestHeader(
        tenant=bytes(data[MANIFEST_HEADER.size : body_at]).decode(errors="replace"),
        key_id=uuid.UUID(bytes=key_id),
        group=uuid.UUID(bytes=group),
        session=uuid.UUID(bytes=session),
        sequence=sequence,
        salt=salt,
        stored_size_bytes=stored,
        plain_size_bytes=plain,
        size_bytes=body_at,
    )


def open_manifest(data: Buffer, key_id: uuid.UUID, manifest_key: bytes) -> Manifest:
    """Verify and read a manifest; comparing ``previous_mac`` with the previous one is the caller's.

    Raises:
        WrongKeyError: it was sealed under another key id.
        DamagedDataError: bytes were changed, cut or exchanged.
    """
    header = parse_manifest_header(data)
    name = f"manifest {header.sequence} of session {header.session}"
    if header.key_id != key_id:
        raise WrongKeyError(f"{name}: sealed under key {header.key_id}, got key {key_id}")
    data = bytes(data)
    if not hmac.compare_digest(
        manifest_mac(data), _mac(manifest_key, data[:-MANIFEST_MAC_SIZE_BYTES])
    ):
        raise DamagedDataError(
            f"{name}: its MAC does not match: damaged, altered, or another data key"
        )
    sealed = data[header.size_bytes : -MANIFEST_MAC_SIZE_BYTES]
    cipher = _body_cipher(manifest_key, header.session, header.salt)
    try:
        compressed = cipher.decrypt(_NONCE, sealed, data[: header.size_bytes])
        # zstandard allocates what the zstd header says: look before.
        if zstandard.frame_content_size(compressed) != header.plain_size_bytes:
            raise DamagedDataError(
                f"{name}: its body does not expand to {header.plain_size_bytes} bytes"
            )
        plain = zstandard.ZstdDecompressor().decompress(compressed, allow_extra_data=False)
        manifest = _decoder.decode(plain)
    except (InvalidTag, zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise DamagedDataError(f"{name}: its body cannot be read: {err}") from err
    said = (header.tenant, header.group, header.session, header.sequence)
    if said != (manifest.tenant, manifest.group, manifest.session, manifest.sequence):
        raise DamagedDataError(f"{name}: header and body name different snapshots")
    return manifest


def manifest_mac(data: Buffer) -> bytes:
    """The 32 bytes that the next manifest of the group names as ``previous_mac``."""
    return bytes(data[-MANIFEST_MAC_SIZE_BYTES:])


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(Manifest)


def _body_cipher(manifest_key: bytes, session: uuid.UUID, salt: bytes) -> AESGCM:
    info = b"backcast manifest body 1" + session.bytes
    return AESGCM(HKDF(hashes.SHA256(), KEY_SIZE_BYTES, salt, info).derive(manifest_key))


def _mac(manifest_key: bytes, content: bytes) -> bytes:
    mac_key = HKDF(hashes.SHA256(), KEY_SIZE_BYTES, None, b"backcast manifest mac 1").derive(
        manifest_key
    )
    return blake3(content, key=mac_key).digest()
