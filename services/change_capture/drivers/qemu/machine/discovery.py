"""Finds the QMP sockets of VMs in the roots of an agent: people learn what is not protected.

Only sockets whose name ends with ``.qmp`` count. A connection is made to each and closed at once,
which says whether somebody listens there; nothing is asked. A socket of another name is left alone,
because a program may take a connection for more than it is.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from libs.errors import SourceError
from services.change_capture.drivers.local.roots import Root, Roots

SOCKET_SUFFIX = ".qmp"
#: Where sockets are, in a root that is the whole file system.
_RUN = Path("/run")
_TOP = Path("/")
#: What is looked at in a root: nobody shall hold an agent up by many files.
_DEPTH_MAX = 5
_ENTRY_COUNT_MAX = 20_000
#: VMs that are found in a root at most, so that no tenant crowds out another.
FOUND_COUNT_MAX = 64


@dataclass(frozen=True, slots=True)
class FoundMachine:
    """A QMP socket that somebody listens at."""

    #: Tenant of the root that it is in; `ALL_TENANTS` if it is open to all.
    tenant: str
    socket: Path


def find_machines(roots: Roots) -> list[FoundMachine]:
    """The VMs in all roots, each once; of a root at most `FOUND_COUNT_MAX`."""
    found = dict[tuple[str, Path], FoundMachine]()
    for root in roots.opened:
        count = 0
        for path in _sockets_in(root, roots):
            if count == FOUND_COUNT_MAX:
                break
            if _listens(roots, root.tenant, path):
                found.setdefault((root.tenant, path), FoundMachine(root.tenant, path))
                count += 1
    return sorted(found.values(), key=lambda one: (one.tenant, one.socket))


def _sockets_in(root: Root, roots: Roots) -> Iterator[Path]:
    top = _RUN if root.path == _TOP else root.path
    try:
        folder = roots.open_folder(root.tenant, top)
    except SourceError:  # a file or a device, or not there now
        return
    looked_at = 0
    try:
        for where, folders, files, _ in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
            if where.count(os.sep) >= _DEPTH_MAX:
                folders.clear()
            looked_at += len(folders) + len(files)
            if looked_at > _ENTRY_COUNT_MAX:
                return
            for name in sorted(files):
                if name.endswith(SOCKET_SUFFIX):
                    yield top / where / name
    finally:
        os.close(folder)


def _listens(roots: Roots, tenant: str, path: Path) -> bool:
    """Whether somebody listens at a socket that is open to the tenant."""
    try:
        found = roots.open_socket(tenant, path)
    except SourceError:
        return False
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.setblocking(False)
            probe.connect(f"/proc/self/fd/{found.descriptor}")
    except BlockingIOError:  # its queue is full, so somebody has made one
        return True
    except OSError:
        return False
    finally:
        found.close()
    return True
