"""NBD with programs that others wrote: our client reads from them, they read from our server."""

import contextlib
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import SourceError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress, describe, list_exports
from libs.nbd.export import BASE_ALLOCATION, Extent, dirty_bitmap
from libs.runtime.tls import ClientTls, ServerTls
from tests.golden.make_nbd import wait_until_listening
from tests.support.certificates import Site
from tests.support.nbd_serving import BITMAP, NbdDisk, NbdServer, disk, nbd_server

_SIZE = 16 << 20
_DATA = random.Random(7).randbytes(1 << 20)


def needs(*programs: str) -> None:
    """Skip where a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"missing: {', '.join(missing)}; apt-get install qemu-utils nbdkit libnbd-bin")


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def running(path: Path, *command: str | Path) -> Iterator[NbdAddress]:
    """A server as a process of its own, on a socket that it has bound before we go on."""
    server = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE)
    try:
        wait_until_listening(path)
        yield NbdAddress(f"unix:{path}")
    finally:
        server.terminate()
        server.communicate()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An image whose second MiB are data, and the rest a hole."""
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(_SIZE)
        file.seek(1 << 20)
        file.write(_DATA)
    return image


def read(connection: NbdConnection, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    connection.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def _check_disk(where: NbdAddress, export: str, image: Path) -> None:
    """What a client needs of any server."""
    with NbdConnection(where, export, [BASE_ALLOCATION]) as connection:
        assert connection.export.size_bytes == _SIZE
        assert read(connection, 0, _SIZE) == image.read_bytes()
        extents = list(connection.extents(BASE_ALLOCATION))
        assert sum(extent.length for extent in extents) == _SIZE
        assert [extent for extent in extents if not extent.flags] == [Extent(1 << 20, 1 << 20, 0)]
        connection.write(3 << 20, _DATA[:70_000] + bytes(2704), is_fua=True)
        connection.write_zeroes(1 << 20, 8192)
        connection.trim(8 << 20, 8192)
        connection.flush()
        assert read(connection, 3 << 20, 70_000) == _DATA[:70_000]
        assert read(connection, 1 << 20, 8192) == bytes(8192)
    assert image.read_bytes()[3 << 20 : (3 << 20) + 70_000] == _DATA[:70_000]


def test_our_client_uses_qemu_nbd(tmp_path: Path, raw: Path) -> None:
    needs("qemu-nbd")
    path = tmp_path / "nbd"
    options = ["--persistent", "--discard=unmap", "-f", "raw", "-x", "disk", "-D", "a disk"]
    with running(path, "qemu-nbd", "-k", path, *options, raw) as where:
        _check_disk(where, "disk", raw)
        assert list_exports(where) == (("disk", "a disk"),)
        found = describe(where, "disk")
        assert (found.size_bytes, found.contexts) == (_SIZE, (BASE_ALLOCATION,))


def test_our_client_reads_a_dirty_bitmap_of_qemu(tmp_path: Path, raw: Path) -> None:
    needs("qemu-nbd", "qemu-img", "qemu-io")
    image, path = tmp_path / "disk.qcow2", tmp_path / "nbd"
    run("qemu-img", "convert", "-O", "qcow2", raw, image)
    run("qemu-img", "bitmap", "--add", image, "since")
    run("qemu-io", "-c", "write -P 7 5M 4k", "-c", "write -P 8 9M 128k", image)
    run("qemu-img", "bitmap", "--disable", image, "since")
    bitmap = dirty_bitmap("since")
    options = ["--persistent", "-r", "-B", "since", "-f", "qcow2"]
    with (
        running(path, "qemu-nbd", "-k", path, *options, image) as where,
        NbdConnection(where, "", [BASE_ALLOCATION, bitmap]) as connection,
    ):
        dirty = [extent for extent in connection.extents(bitmap) if extent.flags]
        assert dirty == [Extent(5 << 20, 65536, 1), Extent(9 << 20, 131072, 1)]
        buffers = [bytearray(extent.length) for extent in dirty]
        connection.read_many(
            (extent.offset, memoryview(buffer))
            for extent, buffer in zip(dirty, buffers, strict=True)
        )
        assert buffers == [b"\7" * 4096 + bytes(61440), b"\10" * 131072]


@pytest.mark.parametrize("options", [[], ["--no-sr"]], ids=["structured", "simple"])
def test_our_client_uses_nbdkit(tmp_path: Path, raw: Path, options: list[str]) -> None:
    needs("nbdkit")
    path = tmp_path / "nbd"
    command = ["nbdkit", "-f", *options, "-U", path, "file", raw]
    with running(path, *command) as where:
        if not options:
            _check_disk(where, "", raw)
        with NbdConnection(where, "") as connection:
            assert read(connection, 0, _SIZE) == raw.read_bytes()
            connection.write(512, _DATA[:1024])
            assert read(connection, 512, 1024) == _DATA[:1024]


def test_our_client_reads_errors_of_nbdkit(tmp_path: Path) -> None:
    needs("nbdkit")
    path = tmp_path / "nbd"
    failing = ["--filter=error", "null", "1M", "error-pread=ENOMEM", "error-pread-rate=100%"]
    with (
        running(path, "nbdkit", "-f", "-U", path, *failing) as where,
        NbdConnection(where, "") as connection,
        pytest.raises(SourceError, match="READ of 4096 bytes at 0: the server answered ENOMEM"),
    ):
        read(connection, 0, 4096)


def test_our_client_uses_nbdkit_by_tls(tmp_path: Path, raw: Path) -> None:
    needs("nbdkit")
    site, path = Site(tmp_path / "site"), tmp_path / "nbd"
    files = site.issue(["disks.example"])
    for name, file in (
        ("ca-cert.pem", site.ca_file),
        ("server-cert.pem", files.certificate),
        ("server-key.pem", files.key),
    ):
        shutil.copy(file, tmp_path / name)
    tls = ["--tls=require", f"--tls-certificates={tmp_path}"]
    with running(path, "nbdkit", "-f", *tls, "-U", path, "file", raw) as plain:
        where = NbdAddress(plain.address, ClientTls(site.ca_file), "disks.example")
        with NbdConnection(where, "") as connection:
            assert read(connection, 0, _SIZE) == raw.read_bytes()
            connection.write(0, _DATA)
            assert read(connection, 0, len(_DATA)) == _DATA


@pytest.fixture
def served() -> NbdDisk:
    made = disk(size_bytes=_SIZE)
    made.write(1 << 20, _DATA)
    return made


@pytest.fixture
def server(tmp_path: Path, served: NbdDisk) -> Iterator[NbdServer]:
    with nbd_server(tmp_path / "nbd", served, disk("other")) as made:
        yield made
    assert made.violations == []


@pytest.fixture
def uri(server: NbdServer) -> str:
    return f"nbd+unix:///disk?socket={server.path}"


def test_nbdinfo_understands_our_server(server: NbdServer, uri: str) -> None:
    needs("nbdinfo")
    (found,) = json.loads(run("nbdinfo", "--json", uri))["exports"]
    assert (found["export-name"], found["export-size"]) == ("disk", _SIZE)
    assert found["description"] == "the disk disk"
    assert found["contexts"] == [BASE_ALLOCATION, BITMAP]
    assert found["can_multi_conn"]
    assert found["can_df"]
    assert found["can_fast_zero"]
    assert not found["is_read_only"]
    listed = json.loads(run("nbdinfo", "--list", "--json", f"nbd+unix:///?socket={server.path}"))
    assert [one["export-name"] for one in listed["exports"]] == ["disk", "other"]


@pytest.mark.parametrize(("context", "flags"), [(BASE_ALLOCATION, 0), (BITMAP, 1)])
def test_nbdinfo_maps_our_contexts(uri: str, context: str, flags: int) -> None:
    needs("nbdinfo")
    found = json.loads(run("nbdinfo", "--json", f"--map={context}", uri))
    (extent,) = [extent for extent in found if extent["type"] == flags]
    assert (extent["offset"], extent["length"]) == (1 << 20, 1 << 20)


def test_nbdcopy_copies_to_and_from_our_server(
    tmp_path: Path, served: NbdDisk, uri: str, raw: Path
) -> None:
    needs("nbdcopy")
    copy = tmp_path / "copy.raw"
    run("nbdcopy", "--requests=16", uri, copy)
    assert copy.read_bytes() == served.data
    with raw.open("r+b") as file:
        file.write(_DATA[:5000])
    run("nbdcopy", "--flush", raw, uri)
    assert raw.read_bytes() == served.data
    assert served.flush_count


def test_qemu_img_finds_our_server_identical(tmp_path: Path, uri: str, raw: Path) -> None:
    needs("qemu-img")
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, uri)
    converted = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, converted)
    assert "identical" in run("qemu-img", "compare", "-F", "raw", converted, uri)
    run("qemu-img", "convert", "-n", "-f", "qcow2", "-O", "raw", converted, uri)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, uri)
    mapped = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri))
    assert [(one["start"], one["length"]) for one in mapped if one["data"]] == [(1 << 20, 1 << 20)]


def test_qemu_io_exercises_every_command_of_our_server(served: NbdDisk, uri: str) -> None:
    needs("qemu-io")
    commands = [
        "write -P 1 0 64k", "write -f -P 2 64k 4k", "write -z 1M 64k", "discard 1088k 64k",
        "flush", "read -P 1 0 64k", "read -P 2 64k 4k", "read -P 0 1M 128k", "aio_read 0 1M",
        "aio_write -P 3 4M 2M", "aio_flush", "read -P 3 4M 2M",
    ]  # fmt: skip
    told = run("qemu-io", "-f", "raw", *(part for one in commands for part in ("-c", one)), uri)
    assert "failed" not in told
    assert served.data[:65536] == b"\1" * 65536
    assert served.data[4 << 20 : 6 << 20] == b"\3" * (2 << 20)
    assert served.flush_count >= 3


def test_nbdinfo_comes_by_tls(tmp_path: Path, served: NbdDisk) -> None:
    needs("nbdinfo")
    site, folder = Site(tmp_path / "site"), tmp_path / "trusted"
    files = site.issue(["localhost"])
    folder.mkdir()
    shutil.copy(site.ca_file, folder / "ca-cert.pem")
    tls = ServerTls(files.certificate, files.key)
    with nbd_server(tmp_path / "nbd-tls", served, tls=tls.current) as server:
        query = f"socket={server.path}&tls-certificates={folder}&tls-hostname=localhost"
        told = json.loads(run("nbdinfo", "--json", f"nbds+unix:///disk?{query}"))
    assert told["TLS"]
    assert told["exports"][0]["export-size"] == _SIZE
