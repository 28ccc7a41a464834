"""Real QEMU processes that serve disks, and what a guest does to them."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy.local.process import wait_until
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from services.change_capture.drivers.qemu.qmp import QmpConnection

SECONDS_MAX = 30.0
_SECTOR_SIZE_BYTES = 512


def require_storage_daemon() -> None:
    """Skip where the program is missing; CI has it."""
    if not (shutil.which("qemu-storage-daemon") and shutil.which("qemu-img")):
        pytest.skip("needs qemu-storage-daemon and qemu-img (qemu-system-common, qemu-utils)")


class DiskServer:
    """A process with a QMP socket, which tests use beside the agent."""

    def __init__(self, folder: Path) -> None:
        #: Sockets have short names, and the folders of tests have long ones.
        self.folder = Path(tempfile.mkdtemp(prefix="qemu", dir="/tmp"))
        self.images = folder
        self.socket = self.folder / "vm.qmp"
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def qmp(self) -> Iterator[QmpConnection]:
        place = os.open(self.socket, os.O_PATH)
        try:
            with QmpConnection(place, str(self.socket)) as qmp:
                yield qmp
        finally:
            os.close(place)

    def do(self, command: str, **arguments: Any) -> Any:
        """Have one command carried out."""
        with self.qmp() as qmp:
            return qmp.execute(command, **arguments)

    def begin(self, *command: str) -> None:
        """Start the process, and wait for its QMP socket."""
        self.socket.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        assert wait_until(self._answers, SECONDS_MAX), (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def quit(self) -> None:
        """End it as an operator does: what it has is saved."""
        assert self._process is not None
        self.do("quit")
        self._process.wait(SECONDS_MAX)

    def kill(self) -> None:
        """End it as the kernel does when memory is short."""
        if self._process:
            self._process.kill()
            self._process.wait(SECONDS_MAX)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def bitmaps(self) -> list[str]:
        """Names of all bitmaps."""
        nodes = self.do("query-named-block-nodes", flat=True)
        return sorted(
            bitmap["name"]
            for node in nodes
            for bitmap in node.get("dirty-bitmaps", [])
            if "name" in bitmap
        )

    def nodes(self) -> list[str]:
        """Names of all nodes that somebody has named."""
        nodes = self.do("query-named-block-nodes", flat=True)
        return sorted(one["node-name"] for one in nodes if one["node-name"][0] != "#")

    def exports(self) -> list[str]:
        """Ids of all exports."""
        return sorted(one["id"] for one in self.do("query-block-exports"))

    def _answers(self) -> bool:
        try:
            self.do("query-version")
        except Exception:  # noqa: BLE001 -- it is not there yet
            return False
        return True


class StorageDaemon(DiskServer):
    """qemu-storage-daemon with one disk, `top` on `disk`, and a guest that is an NBD client.

    Args:
        folder: gets the image.
        kind: its format.
        size_bytes: its size.
    """

    def __init__(self, folder: Path, kind: str = "qcow2", size_bytes: int = 0) -> None:
        super().__init__(folder)
        self.kind = kind
        self.image = folder / f"disk.{kind}"
        self.volume = self.socket / "top"
        self.size_bytes = size_bytes
        made = ["qemu-img", "create", "-q", "-f", kind, str(self.image), str(size_bytes)]
        subprocess.run(made, check=True)
        self.start()

    def start(self) -> None:
        """Start the daemon, and plug the disk into the guest."""
        disk = {
            "driver": self.kind,
            "node-name": "disk",
            "discard": "unmap",
            "file": {"driver": "file", "filename": str(self.image), "discard": "unmap"},
        }
        top = {"driver": "raw", "node-name": "top", "file": "disk", "discard": "unmap"}
        self.begin(
            "qemu-storage-daemon",
            "--chardev", f"socket,id=qmp,path={self.socket},server=on,wait=off",
            "--monitor", "chardev=qmp",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket}.nbd,max-connections=64",
            "--blockdev", json.dumps(disk),
            "--blockdev", json.dumps(top),
        )  # fmt: skip
        self._plug_in()

    def resize(self, size_bytes: int) -> None:
        """Make the disk larger or smaller; NBD clients are told no other way than anew."""
        self.guest.close()
        self.do("block-export-del", id="guest", mode="hard")
        assert wait_until(lambda: "guest" not in self.exports(), SECONDS_MAX)
        self.size_bytes = -(-size_bytes // _SECTOR_SIZE_BYTES) * _SECTOR_SIZE_BYTES
        self.do("block_resize", node_name="top", size=self.size_bytes)
        self._plug_in()

    def quit(self) -> None:
        self.guest.close()
        super().quit()

    def kill(self) -> None:
        self.guest.close()
        super().kill()

    def _plug_in(self) -> None:
        self.do("block-export-add", type="nbd", id="guest", node_name="top", writable=True)
        self.guest = NbdConnection(NbdAddress(f"unix:{self.socket}.nbd"), "top")


def require_virtual_machines() -> None:
    """Skip where the program is missing; CI has it."""
    require_storage_daemon()
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs qemu-system-x86_64 (apt-get install qemu-system-x86)")


class VirtualMachine(DiskServer):
    """A VM under software emulation with disks ``vd0``, ``vd1`` …, each of its own image.

    Args:
        folder: gets the images.
        sizes_bytes: of its disks.
        has_iothread: whether a thread of their own does the work of the disks.
        options: further ones of its command line.
    """

    def __init__(
        self,
        folder: Path,
        *sizes_bytes: int,
        has_iothread: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder)
        for n, size_bytes in enumerate(sizes_bytes):
            made = ["qemu-img", "create", "-q", "-f", "qcow2", str(self.image(n)), str(size_bytes)]
            subprocess.run(made, check=True)
        self._count = len(sizes_bytes)
        self._has_iothread = has_iothread
        self._options = options
        self.start()

    def image(self, n: int) -> Path:
        return self.images / f"vd{n}.qcow2"

    def volume(self, n: int) -> Path:
        """The path that a disk has as a volume."""
        return self.socket / f"machine/peripheral/vd{n}"

    def start(self) -> None:
        """Switch it on. What is on its first disk boots; an empty one does nothing."""
        threads = ["-object", "iothread,id=io"] if self._has_iothread else []
        disks = []
        for n in range(self._count):
            node = {
                "driver": "qcow2",
                "node-name": f"disk{n}",
                "file": {"driver": "file", "filename": str(self.image(n))},
            }
            disks += ["-blockdev", json.dumps(node)]
            thread = ",iothread=io" if self._has_iothread else ""
            disks += ["-device", f"virtio-blk-pci,id=vd{n},drive=disk{n}{thread}"]
        self.begin(
            "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "32",
            "-nodefaults", "-display", "none", *threads, *disks,
            *self._options, "-qmp", f"unix:{self.socket},server=on,wait=off",
        )  # fmt: skip

    def plug_in(self, n: int, size_bytes: int) -> None:
        """Give the running VM another disk, at the bus of a device `virtio-scsi-pci,id=scsi`."""
        made = ["qemu-img", "create", "-q", "-f", "qcow2", str(self.image(n)), str(size_bytes)]
        subprocess.run(made, check=True)
        file = {"driver": "file", "filename": str(self.image(n))}
        self.do("blockdev-add", driver="qcow2", node_name=f"disk{n}", file=file)
        self.do("device_add", driver="scsi-hd", id=f"vd{n}", bus="scsi.0", drive=f"disk{n}")

    def pull_out(self, n: int) -> None:
        """Take a disk that was plugged in away from the running VM."""
        self.do("device_del", id=f"vd{n}")
        assert wait_until(lambda: f"vd{n}" not in self._devices(), SECONDS_MAX)

    def _devices(self) -> list[str]:
        """Ids of its devices. `query-block` may go on to tell of one that is gone."""
        return [one["name"] for one in self.do("qom-list", path="/machine/peripheral")]

    def write(self, n: int, start: int, length: int, byte: int) -> None:
        """Let a disk's device write bytes that are all the same."""
        device = f"/machine/peripheral/vd{n}/virtio-backend"
        command = f'qemu-io -d {device} "write -P {byte} {start} {length}"'
        said = self.do("human-monitor-command", command_line=command)
        assert not said, said  # what went well goes to its standard output


def numbering_program(first_sector: int, sector_count: int) -> bytes:
    """A boot sector whose guest writes sectors for ever, each full of its number, one by one.

    Write n, from 1 on, goes to sector ``first_sector + n % sector_count`` of the disk that booted.

    Args:
        first_sector: below 2**31.
        sector_count: a power of two.
    """
    counter, buffer, packet = (0x7E00).to_bytes(2, "little"), 0x8000, 0x7D00
    code = b"\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c"  # ax, ds, es, ss = 0; sp = 0x7c00
    code += b"\x66\xc7\x06" + counter + bytes(4)  # mov dword [counter], 0
    loop = len(code)
    code += b"\x66\xff\x06" + counter + b"\x66\xa1" + counter  # inc dword [counter]; mov eax, …
    code += b"\xbf" + buffer.to_bytes(2, "little") + b"\xb9\x80\x00\xf3\x66\xab"  # rep stosd
    code += b"\x66\x25" + (sector_count - 1).to_bytes(4, "little")  # and eax, …
    code += b"\x66\x05" + first_sector.to_bytes(4, "little")  # add eax, …
    code += b"\x66\xa3" + (packet + 8).to_bytes(2, "little")  # mov [packet + 8], eax
    code += b"\xb8\x00\x43\xb2\x80\xbe" + packet.to_bytes(2, "little")  # extended write, disk 0x80
    code += b"\xcd\x13"
    code += b"\xeb" + (loop - len(code) - 2).to_bytes(1, "little", signed=True)  # jmp loop
    about = b"\x10\x00\x01\x00" + buffer.to_bytes(4, "little") + bytes(8)  # one sector
    return code.ljust(packet - 0x7C00, b"\0") + about.ljust(254, b"\0") + b"\x55\xaa"
