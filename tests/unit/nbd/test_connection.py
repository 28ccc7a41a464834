"""The blocking client over real sockets."""

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from libs.errors import (
    BadInputError,
    DamagedDataError,
    NotFoundError,
    OutOfSpaceError,
    SourceError,
    UnavailableError,
)
from libs.nbd.connection.connection import NbdConnection, merged
from libs.nbd.connection.dialling import NbdAddress, describe, list_exports
from libs.nbd.export import BASE_ALLOCATION, STATE_HOLE, STATE_ZERO, Extent
from libs.nbd.layout import ErrorNumber
from libs.ranges import ByteRange
from libs.runtime.tls import ClientTls, ServerTls
from tests.support.certificates import Site
from tests.support.nbd_serving import BITMAP, NbdDisk, NbdServer, disk, nbd_server
from tests.unit.nbd.wire import BOTH

_SIZE = 8 << 20


@pytest.fixture
def served() -> NbdDisk:
    return disk(size_bytes=_SIZE)


@pytest.fixture
def server(tmp_path: Path, served: NbdDisk) -> Iterator[NbdServer]:
    with nbd_server(tmp_path / "nbd", served) as running:
        yield running
    assert running.violations == []


@pytest.fixture
def where(server: NbdServer) -> NbdAddress:
    return NbdAddress(f"unix:{server.path}", patience_seconds=20)


def read(connection: NbdConnection, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    connection.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_what_was_written_is_read(where: NbdAddress, served: NbdDisk) -> None:
    data = random.Random(1).randbytes(3 << 20)
    with NbdConnection(where, "disk") as connection:
        connection.write(4096, data, is_fua=True)
        connection.flush()
        connection.write_zeroes(8192, 4096)
        connection.trim(4096, 4096)
        data = bytes(8192) + data[8192:]
        assert read(connection, 4096, len(data)) == data
        assert read(connection, 0, 4096) == bytes(4096)
    assert served.data[4096 : 4096 + len(data)] == data
    assert served.flush_count == 2


def test_reads_go_into_many_buffers_at_once(where: NbdAddress, served: NbdDisk) -> None:
    served.data[:] = random.Random(2).randbytes(_SIZE)
    offsets = random.Random(3).sample(range(0, _SIZE - 70_000, 512), 100)
    buffers = [bytearray(random.Random(offset).randrange(1, 70_000)) for offset in offsets]
    with NbdConnection(where, "disk") as connection:
        connection.read_many(
            (offset, memoryview(buffer)) for offset, buffer in zip(offsets, buffers, strict=True)
        )
    for offset, buffer in zip(offsets, buffers, strict=True):
        assert buffer == served.data[offset : offset + len(buffer)]


def test_threads_share_a_connection(where: NbdAddress, served: NbdDisk) -> None:
    """Some write MiBs while others read: neither end may wait for the other for ever."""
    share = _SIZE // 8

    def work(number: int) -> bool:
        data = random.Random(number).randbytes(share)
        for _ in range(3):
            connection.write(number * share, data)
            if read(connection, number * share, share) != data:
                return False
            assert sum(one.length for one in connection.extents(BITMAP)) == _SIZE
        return True

    with NbdConnection(where, "disk", BOTH) as connection, ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_a_write_that_the_server_does_not_take_lets_replies_in(
    where: NbdAddress, served: NbdDisk
) -> None:
    """The server takes nothing before its replies are received, and nobody else receives them."""
    served.data[:] = random.Random(6).randbytes(_SIZE)
    before, written = bytes(served.data), random.Random(7).randbytes(_SIZE)
    buffers = [bytearray(1 << 20) for _ in range(8)]

    def reads() -> Iterator[tuple[int, memoryview]]:
        for number, buffer in enumerate(buffers):
            yield number << 20, memoryview(buffer)
        connection.write(0, written)

    with NbdConnection(where, "disk") as connection:
        connection.read_many(reads())
    assert b"".join(buffers) == before
    assert served.data == written


def test_extents_with_the_same_flags_are_one(where: NbdAddress, served: NbdDisk) -> None:
    served.write(8192, b"x" * 12288)
    with NbdConnection(where, "disk", BOTH) as connection:
        assert list(connection.extents(BITMAP)) == [
            Extent(0, 8192, 0),
            Extent(8192, 12288, 1),
            Extent(20480, _SIZE - 20480, 0),
        ]
        within = ByteRange(4096, 16384)
        hole = STATE_HOLE | STATE_ZERO
        assert list(connection.extents(BASE_ALLOCATION, within)) == [
            Extent(4096, 4096, hole),
            Extent(8192, 8192, 0),
        ]
        with pytest.raises(BadInputError, match="expected a context of"):
            connection.extents("qemu:dirty-bitmap:other")


def test_only_neighbours_with_the_same_flags_are_merged() -> None:
    apart = [Extent(0, 1, 1), Extent(2, 1, 1), Extent(3, 1, 0)]
    assert list(merged(apart)) == apart
    assert list(merged([])) == []


def test_errors_of_the_server_say_what_failed_where(where: NbdAddress, served: NbdDisk) -> None:
    served.data[:8192] = b"x" * 8192
    served.failures = {
        5000: ErrorNumber.EIO, 1 << 20: ErrorNumber.ENOSPC, 2 << 20: ErrorNumber.ESHUTDOWN
    }  # fmt: skip
    with NbdConnection(where, "disk") as connection:
        expected = (
            r"export 'disk': READ of 8192 bytes at 0: the server answered EIO at 5000: planted"
        )
        with pytest.raises(SourceError, match=expected):
            read(connection, 0, 8192)
        with pytest.raises(OutOfSpaceError, match="WRITE of 512 bytes at 1048576"):
            connection.write(1 << 20, bytes(512))
        with pytest.raises(BadInputError, match="expected a range within"):
            read(connection, _SIZE, 512)
        assert read(connection, 0, 4096) == b"x" * 4096
        with pytest.raises(UnavailableError, match="ESHUTDOWN"):
            read(connection, 2 << 20, 512)
        with pytest.raises(UnavailableError, match="it is shutting down"):
            read(connection, 0, 512)


def test_exports_are_found_without_entering_them(where: NbdAddress) -> None:
    assert list_exports(where) == (("disk", "the disk disk"),)
    found = describe(where, "disk")
    assert (found.size_bytes, found.contexts) == (_SIZE, BOTH)
    with pytest.raises(NotFoundError, match="no export 'other'"):
        describe(where, "other")


def test_an_export_or_a_context_that_is_missing_is_named(where: NbdAddress) -> None:
    with pytest.raises(NotFoundError, match="ERR_UNKNOWN: no export 'other'"):
        NbdConnection(where, "other")
    with pytest.raises(NotFoundError, match="no metadata context qemu:dirty-bitmap:gone"):
        NbdConnection(where, "disk", ["qemu:dirty-bitmap:gone"])


def test_nobody_at_the_address_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="is it running"):
        NbdConnection(NbdAddress(f"unix:{tmp_path}/nobody"), "disk")
    with pytest.raises(UnavailableError, match="is it running"):
        NbdConnection(NbdAddress("no address"), "disk")


def test_a_closed_connection_is_of_no_use(where: NbdAddress) -> None:
    connection = NbdConnection(where, "disk")
    connection.close()
    with pytest.raises(UnavailableError, match="closed here"):
        connection.flush()
    connection.close()


@contextlib.contextmanager
def deaf_server(path: Path, served: NbdDisk, after: int) -> Iterator[None]:
    """A server that forwards to a real one, and forwards no answers after so many bytes."""
    with (
        nbd_server(path.with_suffix(".real"), served) as real,
        socket.socket(socket.AF_UNIX) as ear,
    ):
        ear.bind(str(path))
        ear.listen()

        def forward() -> None:
            left = after
            client, _ = ear.accept()
            with client, socket.socket(socket.AF_UNIX) as upstream:
                upstream.connect(str(real.path))
                back = threading.Thread(target=answer, args=(client, upstream, left))
                back.start()
                while data := client.recv(1 << 16):
                    upstream.sendall(data)
                upstream.shutdown(socket.SHUT_RDWR)
                back.join()

        def answer(client: socket.socket, upstream: socket.socket, left: int) -> None:
            while data := upstream.recv(1 << 16):
                with contextlib.suppress(OSError):
                    client.sendall(data[:left])
                left = max(0, left - len(data))

        thread = threading.Thread(target=forward)
        thread.start()
        yield
        thread.join()


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path, served: NbdDisk) -> None:
    path = tmp_path / "deaf"
    with deaf_server(path, served, after=300), contextlib.ExitStack() as stack:
        where = NbdAddress(f"unix:{path}", patience_seconds=3)
        connection = stack.enter_context(NbdConnection(where, "disk"))
        served.data[:] = b"x" * _SIZE
        with pytest.raises(UnavailableError, match=r"took longer than 3 s"):
            read(connection, 0, 4096)
        with pytest.raises(UnavailableError, match=r"took longer than 3 s"):
            connection.flush()


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (b"", UnavailableError, "closed the connection within the handshake"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", DamagedDataError, "greeting: expected b'NBDMAGIC'"),
        (b"NBDMAGIC" + bytes.fromhex("00420281861253") * 2, DamagedDataError, "greeting: expected"),
        (b"NBDMAGICIHAVEOPT\0\2", DamagedDataError, "expected the fixed newstyle"),
    ],
)
def test_who_is_no_server_is_not_talked_to(
    tmp_path: Path, said: bytes, error: type[Exception], words: str
) -> None:
    path = tmp_path / "odd"
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(path))
        ear.listen()

        def answer() -> None:
            client, _ = ear.accept()
            with client:
                client.sendall(said)
                if said:
                    client.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(error, match=words):
            NbdConnection(NbdAddress(f"unix:{path}"), "disk")
        thread.join()


def test_everything_goes_through_tls(tmp_path: Path, served: NbdDisk) -> None:
    site = Site(tmp_path / "site")
    files = site.issue(["disks.example"])
    tls = ServerTls(files.certificate, files.key)
    data = random.Random(4).randbytes(3 << 20)
    with nbd_server(tmp_path / "nbd", served, tls=tls.current) as server:
        trusted = ClientTls(site.ca_file)
        where = NbdAddress(f"unix:{server.path}", trusted, "disks.example", 20)
        with NbdConnection(where, "disk", BOTH) as connection:
            connection.write(0, data)
            assert read(connection, 0, len(data)) == data
            assert len(list(connection.extents(BITMAP))) == 2
        assert list_exports(where) == (("disk", "the disk disk"),)
        with pytest.raises(UnavailableError, match="not trusted"):
            NbdConnection(NbdAddress(where.address, trusted, "other.example"), "disk")
        with pytest.raises(SourceError, match="ERR_TLS_REQD: this server requires TLS"):
            NbdConnection(NbdAddress(where.address), "disk")


def test_a_server_without_tls_is_not_talked_to_in_plain(tmp_path: Path, where: NbdAddress) -> None:
    trusted = ClientTls(Site(tmp_path / "site").ca_file)
    with pytest.raises(SourceError, match=r"STARTTLS refused with ERR_POLICY: .* no certificate"):
        NbdConnection(NbdAddress(where.address, trusted, "disks.example"), "disk")
