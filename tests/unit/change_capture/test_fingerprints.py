import os
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import OutOfSpaceError, UnavailableError
from services.change_capture.drivers.scan.fingerprints import (
    RECORD_SIZE_BYTES,
    ZERO_RECORD,
    FingerprintFile,
    FingerprintWriter,
    fingerprint_path,
    keep_only,
)

SESSION, IDENTITY = UUID(int=9), "file:1:2"
RECORDS = {0: b"a" * RECORD_SIZE_BYTES, 7: b"b" * RECORD_SIZE_BYTES, 3: b"c" * RECORD_SIZE_BYTES}


def written(path: Path, records: dict[int, bytes]) -> Path:
    writer = FingerprintWriter(path, SESSION, 1 << 30, IDENTITY)
    for region, record in records.items():
        writer.add(region, record)
    writer.finish()
    writer.discard()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "fp" / "one.fp", RECORDS)


def content(path: Path) -> dict[int, bytes] | None:
    file = FingerprintFile.open_for(path, SESSION, IDENTITY)
    if file is None:
        return None
    try:
        return {region: file.record(region) for region in file.regions()}
    finally:
        file.close()


@settings(deadline=None, max_examples=30)
@given(
    records=st.dictionaries(
        st.integers(0, 2**40),
        st.binary(min_size=1, max_size=16).map(lambda seed: (seed * 2048)[:RECORD_SIZE_BYTES]),
        max_size=8,
    )
)
def test_what_was_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, records: dict[int, bytes]
) -> None:
    path = written(tmp_path_factory.mktemp("fp") / "x.fp", records)
    assert content(path) == {at: record for at, record in records.items() if record != ZERO_RECORD}


def test_a_region_without_data_has_no_record_and_reads_as_zeros(path: Path) -> None:
    file = FingerprintFile.open_for(path, SESSION, IDENTITY)
    assert file is not None
    assert file.record(1) == ZERO_RECORD
    file.close()


def test_every_truncation_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        os.truncate(path, length)
        assert content(path) is None, length
        path.write_bytes(whole)


def test_every_flipped_byte_is_found(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert content(path) is None, at


def test_a_zeroed_block_is_found(path: Path) -> None:
    """What a file system may leave after a crash; read as 'was zero', changes would be missed."""
    whole = path.read_bytes()
    path.write_bytes(whole[:512] + bytes(512) + whole[1024:])
    assert content(path) is None


def test_appended_bytes_are_found(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    assert content(path) is None


def test_the_file_of_another_session_device_or_none_is_not_used(path: Path) -> None:
    assert FingerprintFile.open_for(path, uuid4(), IDENTITY) is None
    assert FingerprintFile.open_for(path, SESSION, "file:1:3") is None
    assert FingerprintFile.open_for(path.with_name("none"), SESSION, IDENTITY) is None
    assert FingerprintFile.open_for(path.parent, SESSION, IDENTITY) is None


def test_a_file_says_which_device_it_is_of(path: Path) -> None:
    assert FingerprintFile.identity_at(path, SESSION) == IDENTITY
    assert FingerprintFile.identity_at(path, uuid4()) is None
    assert FingerprintFile.identity_at(path.with_name("none"), SESSION) is None
    path.write_bytes(b"short")
    assert FingerprintFile.identity_at(path, SESSION) is None


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_refused_files_leave_no_descriptor_open(path: Path) -> None:
    before = open_files()
    for _ in range(20):
        FingerprintFile.open_for(path, uuid4(), IDENTITY)
    assert open_files() == before


def test_an_unfinished_file_is_never_seen_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.fp"
    writer = FingerprintWriter(path, SESSION, 1, IDENTITY)
    writer.add(0, RECORDS[0])
    assert content(path) is None
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_a_state_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(UnavailableError, match="state folder"):
        FingerprintWriter(Path("/proc/none/x.fp"), SESSION, 1, IDENTITY)


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.fp"
    path.with_suffix(".part").symlink_to("/dev/full")
    writer = FingerprintWriter(path, SESSION, 1, IDENTITY)
    writer.add(0, RECORDS[0])
    with pytest.raises(OutOfSpaceError, match=r"x\.part.*free space"):
        writer.finish()
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_only_the_named_sessions_are_kept(tmp_path: Path) -> None:
    volume, sessions = uuid4(), [uuid4() for _ in range(3)]
    paths = [fingerprint_path(tmp_path, volume, session) for session in sessions]
    for path in paths:
        written(path, RECORDS)
    keep_only(tmp_path, volume, {sessions[1]})
    assert [path.exists() for path in paths] == [False, True, False]
    keep_only(tmp_path, uuid4(), set())
