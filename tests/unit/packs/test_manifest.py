import dataclasses
import datetime as dt
import uuid

import msgspec
import pytest

from libs.errors import BadInputError, DamagedDataError, WrongKeyError
from libs.packs.manifest import (
    Manifest,
    VolumeEntry,
    manifest_mac,
    open_manifest,
    parse_manifest_header,
    seal_manifest,
)

KEY_ID = uuid.UUID(int=1)
KEY = b"m" * 32
SALT = b"s" * 16

VOLUME = VolumeEntry(
    volume=uuid.UUID(int=2),
    name="vm",
    volume_no=1,
    root=b"r" * 32,
    root_level=1,
    size_bytes=1 << 30,
    chunk_size_bytes=65536,
    changed_bytes=131072,
    read_bytes=1 << 30,
    source="/var/lib/images/vm.raw",
    node="node-1",
)
MANIFEST = Manifest(
    tenant="default",
    domains=(uuid.UUID(int=3),),
    group=uuid.UUID(int=4),
    group_name="vm",
    sequence=7,
    session=uuid.UUID(int=5),
    created_at=dt.datetime(2026, 11, 22, 10, 0, tzinfo=dt.UTC),
    base_session=uuid.UUID(int=6),
    consistency="quiet",
    volumes=(VOLUME, msgspec.structs.replace(VOLUME, name="data", root=None)),
    previous_mac=b"p" * 32,
)


def sealed(manifest: Manifest = MANIFEST) -> bytes:
    return seal_manifest(manifest, KEY_ID, KEY, SALT)


def test_manifest_opens_to_what_was_sealed() -> None:
    assert open_manifest(sealed(), KEY_ID, KEY) == MANIFEST
    first = dataclasses.replace(MANIFEST, base_session=None, previous_mac=None, volumes=())
    assert open_manifest(sealed(first), KEY_ID, KEY) == first


def test_header_says_in_clear_which_key_and_which_snapshot() -> None:
    header = parse_manifest_header(sealed())
    assert (header.key_id, header.tenant, header.group) == (KEY_ID, "default", MANIFEST.group)
    assert (header.session, header.sequence) == (MANIFEST.session, 7)
    assert b"/var/lib" not in sealed()


def test_retry_seals_identical_bytes() -> None:
    assert sealed() == sealed()


def test_chain_continues_with_the_mac_of_the_previous_manifest() -> None:
    previous = sealed()
    following = dataclasses.replace(MANIFEST, sequence=8, previous_mac=manifest_mac(previous))
    assert open_manifest(sealed(following), KEY_ID, KEY).previous_mac == previous[-32:]
    assert manifest_mac(sealed(following)) != manifest_mac(previous)


def test_every_flipped_bit_and_every_truncation_of_a_manifest_is_found() -> None:
    data = sealed()
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedDataError):
            open_manifest(flipped, KEY_ID, KEY)
    for length in range(len(data)):
        with pytest.raises(DamagedDataError):
            open_manifest(data[:length], KEY_ID, KEY)


def test_wrong_key_is_named() -> None:
    with pytest.raises(WrongKeyError, match=str(KEY_ID)):
        open_manifest(sealed(), uuid.UUID(int=9), KEY)
    with pytest.raises(DamagedDataError, match="MAC"):
        open_manifest(sealed(), KEY_ID, b"w" * 32)


def test_fields_that_a_reader_would_refuse_are_refused_by_the_writer() -> None:
    with pytest.raises(BadInputError, match="tenant or salt"):
        seal_manifest(MANIFEST, KEY_ID, KEY, b"short")
    with pytest.raises(BadInputError, match="tenant or salt"):
        sealed(dataclasses.replace(MANIFEST, tenant="x" * 64))
    with pytest.raises(BadInputError, match="root"):
        sealed(
            dataclasses.replace(MANIFEST, volumes=(msgspec.structs.replace(VOLUME, root=b"short"),))
        )
    huge = msgspec.structs.replace(VOLUME, source="x" * (17 << 20))
    with pytest.raises(BadInputError, match="split the group"):
        sealed(dataclasses.replace(MANIFEST, volumes=(huge,)))
