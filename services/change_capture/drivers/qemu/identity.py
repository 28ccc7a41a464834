"""What tells a disk that QEMU serves from another one that has its place later.

A bitmap is in the process, or in the disk's file: it goes where its bytes go, and never comes to
know of other bytes. So little rests on the identity. It finds out that somebody put a copy of a
file in the place of another, or another VM behind the same socket, and that a disk was resized: no
bitmap notes what a resize cut off.
"""

import contextlib
import os

from libs.errors import SourceError
from services.change_capture.drivers.local.identity import file_identity
from services.change_capture.drivers.qemu.graph import Node
from services.change_capture.drivers.qemu.place import DiskPlace
from services.change_capture.drivers.qemu.qmp import QmpConnection, understanding


def identity_of(qmp: QmpConnection, place: DiskPlace, node: Node) -> str:
    """The identity of a disk."""
    machine = ""
    with contextlib.suppress(SourceError):  # qemu-storage-daemon has none
        told = qmp.execute("query-uuid")
        with understanding("the VM"):
            machine = str(told["UUID"])
    return f"qemu:{machine}:{place.disk}:{node.driver}:{_file(node.filename)}+{node.size_bytes}"


def _file(name: str) -> str:
    """The identity of a file that this process sees, or its name, as QEMU has it."""
    try:
        # As a place only: whatever has the name is neither read nor started.
        found = os.open(name, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return name
    try:
        return f"{name}:{file_identity(found)}"
    finally:
        os.close(found)
