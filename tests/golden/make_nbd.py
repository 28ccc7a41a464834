"""Transcripts of NBD with programs of others: `python -m tests.golden.make_nbd`.

Each line of a transcript is what one end said: "C" the client, "S" the server, then hexadecimal
digits. In some our client talked to a program, in others a program talked to our server. A
transcript that exists is not recorded again.

Needs `apt-get install qemu-utils nbdkit libnbd-bin`.
"""

import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.nbd.export import BASE_ALLOCATION, dirty_bitmap
from tests.support.nbd_serving import BLOCK_SIZE_BYTES, NbdDisk, disk, nbd_server
from tests.support.polling import SECONDS_MAX

FOLDER = Path(__file__).parent / "nbd"
SIZE_BYTES = 1 << 20

#: True: the client said it.
Transcript = list[tuple[bool, bytes]]


def use_bitmap(where: NbdAddress) -> object:
    """Ask QEMU for a dirty bitmap, and read what it names."""
    bitmap = dirty_bitmap("since")
    with NbdConnection(where, "disk", [BASE_ALLOCATION, bitmap]) as connection:
        extents = [list(connection.extents(name)) for name in (BASE_ALLOCATION, bitmap)]
        return extents, _read(connection, 131072, 1024), _read(connection, 0, 512)


def use_simple(where: NbdAddress) -> object:
    """Read and write where replies are simple."""
    with NbdConnection(where, "") as connection:
        connection.write(512, b"w" * 700, is_fua=True)
        connection.write_zeroes(600, 100)
        connection.trim(4096, 4096)
        connection.flush()
        return _read(connection, 0, 1400)


#: Name → what our client does with a program, and that program.
OURS: dict[str, Callable[[NbdAddress], object]] = {
    "our-client-with-qemu-nbd-7.2": use_bitmap,
    "our-client-with-nbdkit-1.32-without-structured-replies": use_simple,
}
#: Name → program that uses our server.
THEIRS: dict[str, list[str]] = {
    "nbdinfo-1.14-with-our-server": ["nbdinfo", "--map", "{uri}"],
    "qemu-io-7.2-with-our-server": [
        "qemu-io", "-f", "raw", "-c", "write -P 1 0 8k", "-c", "write -z 4k 4k",
        "-c", "discard 0 1k", "-c", "read 0 16k", "-c", "flush", "{uri}",
    ],
}  # fmt: skip


def read_transcript(name: str) -> Transcript:
    """A transcript that was recorded."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    return [(line.startswith("C"), bytes.fromhex(line[2:])) for line in lines]


def golden_disk() -> NbdDisk:
    """What our server has when programs use it."""
    made = disk(size_bytes=SIZE_BYTES)
    made.write(3 * BLOCK_SIZE_BYTES, b"d" * 5000)
    return made


def wait_until_listening(path: Path) -> None:
    """Until a server has bound its socket and listens."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {path}")


def _read(connection: NbdConnection, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    connection.read_into(offset, memoryview(buffer))
    return bytes(buffer)


@contextlib.contextmanager
def recorded(folder: Path, upstream: Path) -> Iterator[tuple[Path, Transcript]]:
    """A socket that forwards one connection, and what was said over it."""
    path, said = folder / "recorded", Transcript()
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(path))
        ear.listen()
        thread = threading.Thread(target=_forward, args=(ear, upstream, said))
        thread.start()
        yield path, said
        thread.join()


def _forward(ear: socket.socket, upstream: Path, said: Transcript) -> None:
    client, _ = ear.accept()
    with client, socket.socket(socket.AF_UNIX) as server:
        server.connect(str(upstream))

        def pump(source: socket.socket, target: socket.socket, *, is_client: bool) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 20):
                    said.append((is_client, data))
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        back = threading.Thread(target=pump, args=(server, client), kwargs={"is_client": False})
        back.start()
        pump(client, server, is_client=True)
        back.join()


@contextlib.contextmanager
def _program(name: str, folder: Path) -> Iterator[Path]:
    """The program that our client talks to, with an image of 1 MiB."""
    raw, image, path = folder / "disk.raw", folder / "disk.qcow2", folder / "program"
    raw.write_bytes(bytes(SIZE_BYTES))
    command = ["nbdkit", "-f", "--no-sr", "-U", str(path), "file", str(raw)]
    if "qemu" in name:
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, image], check=True)
        subprocess.run(["qemu-img", "bitmap", "--add", image, "since"], check=True)
        write = ["qemu-io", "-c", "write -P 7 128k 4k", "-c", "write -P 8 512k 64k", str(image)]
        subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["qemu-img", "bitmap", "--disable", image, "since"], check=True)
        command = ["qemu-nbd", "-t", "-k", str(path), "-r", "-B", "since", "-x", "disk", str(image)]
    server = subprocess.Popen(command)
    try:
        wait_until_listening(path)
        yield path
    finally:
        server.terminate()
        server.wait()


def _write(name: str, said: Transcript) -> None:
    FOLDER.mkdir(exist_ok=True)
    joined: Transcript = []
    for is_client, data in said:
        if joined and joined[-1][0] == is_client:
            joined[-1] = (is_client, joined[-1][1] + data)
        else:
            joined.append((is_client, data))
    lines = [f"{'C' if is_client else 'S'} {data.hex()}\n" for is_client, data in joined]
    (FOLDER / f"{name}.txt").write_text("".join(lines))


def main() -> None:
    """Record what is not there yet."""
    for name, use in OURS.items():
        if not (FOLDER / f"{name}.txt").exists():
            with tempfile.TemporaryDirectory() as where:
                folder = Path(where)
                with _program(name, folder) as path, recorded(folder, path) as (heard, said):
                    use(NbdAddress(f"unix:{heard}"))
                _write(name, said)
    for name, command in THEIRS.items():
        if not (FOLDER / f"{name}.txt").exists():
            with tempfile.TemporaryDirectory() as where:
                folder = Path(where)
                with (
                    nbd_server(folder / "nbd", golden_disk()) as server,
                    recorded(folder, server.path) as (heard, said),
                ):
                    uri = f"nbd+unix:///disk?socket={heard}"
                    subprocess.run([part.format(uri=uri) for part in command], check=True)
                _write(name, said)


if __name__ == "__main__":
    main()
