"""What a snapshot by dirty bitmaps costs, from the command to the seal, on disks of two sizes.

Two processes of qemu-storage-daemon serve a sparse disk of 4 GiB and one of 1 TiB, with 1 GiB of
data each. Between two snapshots nothing changes, or 1 % of 4 GiB does, scattered in pieces of
64 KiB or of 4 KiB, which a guest writes over NBD.
"""

import json
import random
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.backcast import Backcast
from bench.measure import StepFailedError
from bench.reflink import (
    CHANGED_BYTES,
    CHANGES,
    DATA_CHUNKS,
    SIZES_BYTES,
    Passed,
    median,
)
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.packs.layout import CHUNK_SIZE_BYTES

_START_SECONDS_MAX = 10.0


def measure_qemu(repeat: int, folder: Path) -> dict[str, Passed]:
    """The median snapshot of each size and change.

    Args:
        repeat: snapshots of each.
        folder: where the images and the servers' data are; 8 GiB.

    Raises:
        StepFailedError: qemu-storage-daemon does not start.
    """
    with ExitStack() as opened:
        backcast = Backcast(folder, "minio")
        backcast.open()
        opened.callback(backcast.close)
        disks = {}
        for size in SIZES_BYTES:
            disks[size] = _Disk(backcast, size, folder)
            opened.callback(disks[size].close)
            disks[size].protect()
        return {
            f"{size}, {change}": median([disk.snapshot(piece) for _ in range(repeat)])
            for change, piece in CHANGES.items()
            for size, disk in disks.items()
        }


class _Disk:
    """A disk that is served, of which scattered pieces change."""

    def __init__(self, backcast: Backcast, size: str, folder: Path) -> None:
        self._backcast = backcast
        self._name = size.replace(" ", "-").lower()
        self._rng = random.Random(6)
        count = SIZES_BYTES[size] // CHUNK_SIZE_BYTES
        self._data = sorted(self._rng.sample(range(count), DATA_CHUNKS))
        image = folder / self._name
        with image.open("wb") as file:
            file.truncate(SIZES_BYTES[size])
            for index in self._data:
                file.seek(index * CHUNK_SIZE_BYTES)
                file.write(self._rng.randbytes(CHUNK_SIZE_BYTES))
        #: Sockets have short names.
        self._folder = tempfile.TemporaryDirectory(prefix="qemu")
        self._socket = Path(self._folder.name) / "qmp"
        self._process = subprocess.Popen(_command(image, self._socket))
        try:
            self._guest = self._connected()
        except BaseException:
            self.close()
            raise

    def protect(self) -> None:
        """Take the first snapshot."""
        self._backcast.backup(self._name, self._socket / "top", "--driver", "qemu")

    def snapshot(self, piece_bytes: int) -> Passed:
        """Change pieces of so many bytes, and take a snapshot."""
        if piece_bytes:
            for index in self._rng.sample(self._data, CHANGED_BYTES // piece_bytes):
                self._guest.write(index * CHUNK_SIZE_BYTES, self._rng.randbytes(piece_bytes))
        usage = self._backcast.backup(self._name, self._socket / "top")
        figures = [int(str(usage.reported[name])) for name in ("read_bytes", "stored_bytes")]
        return Passed(usage.wall_seconds, *figures)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _connected(self) -> NbdConnection:
        deadline = time.monotonic() + _START_SECONDS_MAX
        nbd = Path(f"{self._socket}.nbd")
        while not nbd.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise StepFailedError("qemu-storage-daemon does not start")
            time.sleep(0.05)
        return NbdConnection(NbdAddress(f"unix:{nbd}"), "top")


def _command(image: Path, socket: Path) -> list[str]:
    disk = {
        "driver": "raw",
        "node-name": "disk",
        "file": {"driver": "file", "filename": str(image)},
    }
    top = {"driver": "raw", "node-name": "top", "file": "disk"}
    return [
        "qemu-storage-daemon",
        "--blockdev", json.dumps(disk),
        "--blockdev", json.dumps(top),
        "--chardev", f"socket,id=qmp,path={socket},server=on,wait=off",
        "--monitor", "chardev=qmp",
        "--nbd-server", f"addr.type=unix,addr.path={socket}.nbd",
        "--export", "type=nbd,id=guest,node-name=top,writable=on",
    ]  # fmt: skip
