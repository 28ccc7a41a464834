"""Manifests and packs are opened by name: another intact object under their key is refused."""

import dataclasses
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from libs.catalogdb.packs.location import PackLocation
from libs.errors import DamagedDataError
from libs.keys.keyring import DomainKeys
from libs.keys.opening import open_manifest_object, read_found_pack, read_known_pack
from libs.keys.vault import KeyVault
from libs.packs.layout import PACK_SIZE_BYTES_MAX
from libs.packs.manifest import Manifest, seal_manifest
from libs.packs.pack import PackBuilder
from libs.packs.trailer import PackIndex
from libs.ranges import ByteRange
from libs.store.layout import ManifestName, manifest_object, pack_object
from libs.store.memory import MemoryStore
from tests.golden.make_formats import KEK, KEYS, MANIFEST
from tests.unit.packs.building import frame_of

ROOT = Path(__file__).parents[3]
SALT = b"s" * 16
GENERATION, OTHER = uuid.UUID(int=0xA1), uuid.UUID(int=0xA2)
LATER = dataclasses.replace(KEYS, key_id=uuid.UUID(int=0xA3), data_key=b"l" * 32)


def sealed(manifest: Manifest, salt: bytes = SALT) -> tuple[str, bytes]:
    name = ManifestName(
        manifest.tenant, manifest.group, manifest.sequence, manifest.session, salt.hex()
    )
    return manifest_object(name), seal_manifest(manifest, KEYS.key_id, KEYS.manifest_key(), salt)


@pytest.mark.parametrize(
    "other",
    [
        sealed(dataclasses.replace(MANIFEST, tenant="other")),
        sealed(dataclasses.replace(MANIFEST, group=uuid.UUID(int=99))),
        sealed(dataclasses.replace(MANIFEST, sequence=MANIFEST.sequence + 1)),
        sealed(dataclasses.replace(MANIFEST, session=uuid.UUID(int=99))),
        sealed(MANIFEST, b"t" * 16),
    ],
    ids=["tenant", "group", "sequence", "session", "attempt"],
)
def test_exchanged_manifests_are_refused(other: tuple[str, bytes]) -> None:
    one = sealed(MANIFEST)
    assert open_manifest_object(*one, KEYS) == MANIFEST
    open_manifest_object(*other, KEYS)
    for key, data in ((one[0], other[1]), (other[0], one[1])):
        with pytest.raises(DamagedDataError, match="exchanged") as refused:
            open_manifest_object(key, data, KEYS)
        assert key in str(refused.value)


def pack(generation: uuid.UUID, keys: DomainKeys = KEYS) -> bytes:
    builder = PackBuilder(
        generation,
        keys.domain,
        keys.key_id,
        keys.pack_key(generation),
        bytearray(PACK_SIZE_BYTES_MAX),
    )
    frame, items = frame_of(b"chunk " * 100)
    slot = builder.reserve(frame, items)
    assert slot
    builder.fill(slot, frame)
    builder.close()
    return bytes(builder.finish())


@pytest.fixture
def vault() -> KeyVault:
    vault = KeyVault(MemoryStore(), KEK)
    for keys in (KEYS, LATER):
        vault.put(keys)
    return vault


def known(data: bytes, vault: KeyVault) -> PackIndex:
    location = PackLocation(1, GENERATION, KEYS.domain, KEYS.key_id, len(data), b"", (1,))
    return read_known_pack(location, _reader(data), vault)


def found(data: bytes, vault: KeyVault) -> PackIndex:
    return read_found_pack(GENERATION, len(data), _reader(data), vault)


def _reader(data: bytes) -> Callable[[ByteRange], bytes]:
    return lambda wanted: data[wanted.start : wanted.end]


def test_exchanged_packs_are_refused(vault: KeyVault) -> None:
    for read in (known, found):
        assert read(pack(GENERATION), vault).header.generation == GENERATION
        with pytest.raises(DamagedDataError, match="exchanged") as refused:
            read(pack(OTHER), vault)
        assert pack_object(GENERATION) in str(refused.value)


def test_a_pack_under_another_key_than_the_catalog_knows_is_refused(vault: KeyVault) -> None:
    data = pack(GENERATION, LATER)
    with pytest.raises(DamagedDataError, match="expected key"):
        known(data, vault)
    assert found(data, vault).header.key_id == LATER.key_id


def test_nothing_else_opens_these_objects() -> None:
    opens = re.compile(r"(?<!def )\b(?:open_manifest|read_pack_index)\(")
    files = [*ROOT.glob("libs/**/*.py"), *ROOT.glob("services/**/*.py")]
    opening = [
        file.relative_to(ROOT).as_posix() for file in files if opens.search(file.read_text())
    ]
    assert opening == ["libs/keys/opening.py"]
