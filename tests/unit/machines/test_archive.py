"""The archive of a VM's definition."""

import io
import tarfile

import msgspec
import pytest

from libs.errors import BadInputError, DamagedDataError
from libs.machines.archive import FILES_SIZE_BYTES_MAX, pack_archive, unpack_archive
from libs.machines.definition import Definition, encode_definition
from tests.unit.machines.making import VARIABLES, disk, flash, made


def tar_of(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size, about.type = len(content), kind
            archive.addfile(about, io.BytesIO(content))
    return packed.getvalue()


def test_what_is_packed_is_unpacked() -> None:
    definition = made(tpm_state="/srv/tpm")
    files = {"flash1": VARIABLES, "tpm-state": b"t"}
    packed = pack_archive(definition, files)
    assert unpack_archive(packed) == (definition, files)
    assert pack_archive(definition, dict(reversed(files.items()))) == packed


def test_anybody_can_read_it() -> None:
    packed = pack_archive(made(), {"flash1": VARIABLES})
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["definition.json", "flash1"]


def test_files_that_are_too_large_are_refused() -> None:
    with pytest.raises(BadInputError, match="expected at most"):
        pack_archive(made(), {"flash1": bytes(FILES_SIZE_BYTES_MAX + 1)})


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "x86; rm -rf /"},
        {"architecture": "x86_64\n"},
        {"machine": "q35,pflash0=x"},
        {"uuid": "$(id)"},
        {"cpu_count": 0},
        {"disks": (disk("vd0", "virtio-blk-pci,drive=x"),)},
        {"disks": (disk("../../vd0"),)},
        {"disks": tuple(disk(f"vd{n}") for n in range(257))},
        {"flash": (flash(0, "/etc/shadow", is_kept=False),)},
        {"flash": (flash(0, "/usr/share/../../etc/x.fd", is_kept=False),)},
        {"flash": (flash(8, "/srv/x"),)},
        {"options": (("m", "x" * 5000),)},
    ],
)
def test_what_no_vm_has_is_neither_written_nor_read(changes: dict[str, object]) -> None:
    definition = made(**changes)
    with pytest.raises(BadInputError):
        pack_archive(definition, {"flash1": b""})
    with pytest.raises(DamagedDataError):
        unpack_archive(tar_of({"definition.json": msgspec.json.encode(definition), "flash1": b""}))


def definition() -> bytes:
    return encode_definition(made())


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"no tar" * 200,
        tar_of({}),
        tar_of({"definition.json": b"{}"}),
        tar_of({"definition.json": definition()}),
        tar_of({"definition.json": definition(), "../flash1": b""}),
        tar_of({"definition.json": definition(), "flash1": b""}, tarfile.SYMTYPE),
        bytes(70 << 20),
    ],
)
def test_what_is_no_archive_is_refused(packed: bytes) -> None:
    with pytest.raises(DamagedDataError):
        unpack_archive(packed)


def test_files_that_no_definition_has_are_left_out() -> None:
    packed = tar_of({"definition.json": definition(), "flash1": b"1", "/etc/passwd": b"x"})
    found, files = unpack_archive(packed)
    assert isinstance(found, Definition)
    assert files == {"flash1": b"1"}
