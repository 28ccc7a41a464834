"""What tells a volume from another one that is found under the same path later.

An identity decides whether a capture may use what is remembered of the one before. Two different
disks must never have the same one. The same disk should keep its own, over a restart of the machine
too; where it does not, one capture compares everything, which costs time and no correctness.

Today little rests on it. Fingerprints are compared with bytes that were read anyway, so even with
another disk's fingerprints a chunk only counts as unchanged if it is equal. A tracker that does not
read what it believes unchanged depends on it.

A **block device** is known by what it is made of, the part of it, its size, and what its content
calls itself:

* What it is made of is the name that its hardware or driver gives it (world-wide name, serial, UUID
  of device mapper or RAID, the file behind a loop device). A device number is no such name: the
  next disk gets it. Without any name it is this boot and the kernel's count of disks (`diskseq`),
  which no two disks of one boot share; after a restart everything is compared.
* Serials repeat: hypervisors give every disk in a slot the same one. So the size and the ids that
  partition table and file system carry belong to it too. They change when a disk is partitioned or
  formatted anew, not when a guest writes data.

A copy of a disk that is put into the same slot, with the same serial and the same ids in it, cannot
be told from it.

A **file** is known by its device, file system, inode number and time of birth: inode numbers are
used again. On a device with a name it is the name that counts, as device numbers move.
"""

import fcntl
import os
import struct
from pathlib import Path

from libs.runtime.libc import extended_status

#: Bytes at the start of a device in which ids are looked for.
CONTENT_SIZE_BYTES = 128 << 10
_DEVICES = Path("/sys/dev/block")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
#: Files in a disk's folder of sysfs that name it together, the best first: NVMe; SCSI; device
#: mapper; RAID; MMC; Ceph RBD; then serials, which are unique to one maker or one machine.
_NAMES = (
    ("wwid",),
    ("device/wwid",),
    ("dm/uuid",),
    ("md/uuid",),
    ("device/cid",),
    ("device/cluster_fsid", "device/pool_id", "device/image_id", "device/current_snap"),
    ("serial",),
    ("device/serial",),
)
#: kind, where its magic is, the magic, where its id is, bytes of the id.
_CONTENTS = (
    ("gpt", 512, b"EFI PART", 512 + 56, 16),
    ("gpt", 4096, b"EFI PART", 4096 + 56, 16),
    ("mbr", 510, b"\x55\xaa", 440, 4),
    ("ext", 1024 + 56, b"\x53\xef", 1024 + 104, 16),
    ("xfs", 0, b"XFSB", 32, 16),
    ("btrfs", 65536 + 64, b"_BHRfS_M", 65536 + 32, 16),
    ("luks", 0, b"LUKS\xba\xbe", 168, 40),
    ("lvm", 512, b"LABELONE", 512 + 32, 32),
    ("ntfs", 3, b"NTFS    ", 72, 8),
)
#: ioctl of Linux that says what is behind a loop device: struct loop_info64, which begins with
#: device, inode number, (rdevice) and offset, and is 232 bytes long.
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO = struct.Struct("=QQQQ200x")


def device_identity(descriptor: int, size_bytes: int, content: bytes) -> str:
    """The identity of an open block device.

    Args:
        descriptor: the device.
        size_bytes: its size.
        content: its first `CONTENT_SIZE_BYTES`.
    """
    folder = _folder(os.fstat(descriptor).st_rdev)
    start = _text(folder / "start") or "0"
    disk = folder.resolve().parent if (folder / "partition").exists() else folder
    made_of = _name(disk) or _file_of_loop(descriptor, disk) or _name_in_this_boot(disk)
    return f"block:{made_of}:{start}+{size_bytes}:{content_id(content)}"


def file_identity(descriptor: int) -> str:
    """The identity of an open regular file."""
    status = os.fstat(descriptor)
    medium = _name(_folder(status.st_dev)) or status.st_dev
    file_system = os.fstatvfs(descriptor).f_fsid
    born_ns = extended_status(descriptor).born_ns
    return f"file:{medium}:{file_system:x}:{status.st_ino}:{born_ns}"


def content_id(content: bytes) -> str:
    """The ids that partition table and file system carry; empty if none is known."""
    return ",".join(
        f"{kind}={content[at : at + size].hex()}"
        for kind, magic_at, magic, at, size in _CONTENTS
        if content[magic_at : magic_at + len(magic)] == magic
    )


def _folder(device: int) -> Path:
    return _DEVICES / f"{os.major(device)}:{os.minor(device)}"


def _name(disk: Path) -> str:
    """The name that hardware or driver gives a disk; empty if it has none."""
    for files in _NAMES:
        found = [_text(disk / file) for file in files]
        if all(found):
            return f"{files[-1]}={'/'.join(found)}"
    return ""


def _name_in_this_boot(disk: Path) -> str:
    """Before Linux 5.15 disks were not counted, and the number of the device has to do."""
    return f"boot={_text(_BOOT)}/{_text(disk / 'diskseq') or _text(disk / 'dev')}"


def _file_of_loop(descriptor: int, disk: Path) -> str:
    """The file behind a loop device; empty if it is none, or its file cannot be seen from here."""
    told = _text(disk / "loop/backing_file")
    if not told:
        return ""
    try:
        device, inode, _, offset = _LOOP_INFO.unpack(
            fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_LOOP_INFO.size))
        )
        # As a place only: whatever has the name now is neither read nor started.
        behind = os.open(told, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # deleted, or in another mount namespace
        return ""
    try:
        status = os.fstat(behind)
        # Another file may have the name now.
        if (_split(device), inode) != (_numbers(status.st_dev), status.st_ino):
            return ""
        return f"loop={file_identity(behind)}+{offset}"
    finally:
        os.close(behind)


def _numbers(device: int) -> tuple[int, int]:
    return os.major(device), os.minor(device)


def _split(device: int) -> tuple[int, int]:
    """Major and minor number of what the kernel has packed in its own way."""
    return (device >> 8) & 0xFFF, (device & 0xFF) | (device >> 12) & 0xFFF00


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").strip("\0 \n")
    except OSError:
        return ""
