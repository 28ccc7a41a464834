"""Manifests and packs of the bucket, each opened by the name under which it was asked for.

A store may give another object of ours than was asked for: somebody exchanged two, or copied one
over another. Both are intact, and only their names tell them apart. So whoever reads an object
opens it here, where what it says of itself, authenticated, is compared with what was asked for.
Wrapped keys (`libs.keys.vault`) and checkpoints (`libs.checkpoints.checkpoint`) are compared the
same way (`libs.store.layout.expect_object`).
"""

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from libs.errors import BadInputError, DamagedDataError
from libs.keys.keyring import DomainKeys
from libs.keys.vault import KeyVault
from libs.packs.frame import FrameCipher
from libs.packs.layout import Buffer
from libs.packs.manifest import Manifest, open_manifest, parse_manifest_header
from libs.packs.trailer import PackHeader, PackIndex, read_pack_index
from libs.ranges import ByteRange
from libs.store.layout import ManifestName, expect_object, manifest_object, pack_object

ReadRange = Callable[[ByteRange], Buffer]


class KnownPack(Protocol):
    """What the catalog knows of a pack."""

    @property
    def domain(self) -> UUID:
        """Whose items it holds."""
        ...

    @property
    def generation(self) -> UUID:
        """Its name."""
        ...

    @property
    def key_id(self) -> UUID:
        """Names the data key that it is sealed under."""
        ...

    @property
    def size_bytes(self) -> int:
        """Length of its object."""
        ...


def open_manifest_object(key: str, data: bytes, keys: DomainKeys) -> Manifest:
    """Verify and read the manifest that a store gave for ``key``.

    Raises:
        WrongKeyError: it was sealed under another key id.
        DamagedDataError: bytes were changed or cut, or it is another object's.
    """
    manifest = open_manifest(data, keys.key_id, keys.manifest_key())
    salt = parse_manifest_header(data).salt  # authenticated with all of the header
    said = ManifestName(
        manifest.tenant, manifest.group, manifest.sequence, manifest.session, salt.hex()
    )
    try:
        expect_object(key, manifest_object(said))
    except BadInputError as err:
        raise DamagedDataError(f"object {key}: says that it is {said}: {err}") from err
    return manifest


def read_known_pack(pack: KnownPack, read_range: ReadRange, vault: KeyVault) -> PackIndex:
    """Header, footer and trailer of a pack that the catalog knows.

    Args:
        pack: what the catalog knows of it.
        read_range: gives exactly the bytes of a range of the object.
        vault: gives the keys of domains.

    Raises:
        WrongKeyError: the key at hand is not that of the pack.
        DamagedDataError: the object is no intact pack, or another one.
    """
    expected = PackHeader(pack.domain, pack.generation, pack.key_id)

    def cipher_of(header: PackHeader) -> FrameCipher:
        expect_object(pack_object(pack.generation), pack_object(header.generation))
        if header != expected:
            raise DamagedDataError(
                f"object {pack_object(pack.generation)}: expected key {expected.key_id} of domain "
                f"{expected.domain}, its header says {header.key_id} of {header.domain}"
            )
        return _cipher(header, vault)

    return read_pack_index(pack.size_bytes, read_range, cipher_of)


def read_found_pack(
    generation: UUID, size_bytes: int, read_range: ReadRange, vault: KeyVault
) -> PackIndex:
    """The same of a pack of which only the name is known; domain and key are what it says.

    Raises: as `read_known_pack`.
    """

    def cipher_of(header: PackHeader) -> FrameCipher:
        expect_object(pack_object(generation), pack_object(header.generation))
        return _cipher(header, vault)

    return read_pack_index(size_bytes, read_range, cipher_of)


def _cipher(header: PackHeader, vault: KeyVault) -> FrameCipher:
    keys = vault.get(header.domain, header.key_id)
    return FrameCipher(header.generation, keys.pack_key(header.generation))
