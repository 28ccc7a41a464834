"""A process that serves disks, reached through the roots of this agent: its QMP and its NBD server.

The NBD server's socket is beside the QMP socket and has its name with ``.nbd`` behind it. If the
process has no NBD server yet, it is told to have one there, and to end it when nobody needs it.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from libs.errors import SourceError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.qemu.names import ViewNames
from services.change_capture.drivers.qemu.qmp import (
    PATIENCE_SECONDS,
    QmpConnection,
    judged_socket,
    understanding,
)

_NBD_SUFFIX = ".nbd"
#: Copy-before-write that breaks the snapshot and not the guest's write came with it.
_VERSION_MIN = (7, 1)
#: Clients of exports in iothreads are safe since.
_IOTHREADS_SINCE = (9, 1)
#: An export that is told to go waits for what is in flight.
_GONE_SECONDS_MAX = 10.0


class DiskProcess:
    """A process behind a QMP socket. Thread-safe: each use connects anew.

    Args:
        roots: what may be reached.
        tenant: for whom.
        socket: path of the QMP socket.
        patience_seconds: longest wait for one answer.
    """

    def __init__(
        self, roots: Roots, tenant: str, socket: Path, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._roots = roots
        self.tenant = tenant
        self.socket = socket
        self._patience_seconds = patience_seconds

    @contextlib.contextmanager
    def qmp(self) -> Iterator[QmpConnection]:
        """A conversation.

        Raises:
            SourceError: the socket is not open to the tenant, or the process is too old.
            UnavailableError: nobody answers there.
            DamagedDataError: what answers is no QEMU.
        """
        found = self._roots.open_socket(self.tenant, self.socket)
        try:
            qmp = QmpConnection(found.descriptor, str(self.socket), self._patience_seconds)
        finally:
            found.close()
        with qmp:
            if qmp.version < _VERSION_MIN:
                raise SourceError(
                    f"QMP socket {self.socket}: QEMU {_text(qmp.version)} cannot keep a frozen "
                    f"view apart from the guest; expected {_text(_VERSION_MIN)} or newer"
                )
            yield qmp

    def require_served_safely(self, qmp: QmpConnection) -> None:
        """Refuse a process that an NBD client could bring down.

        Before 9.1, a client that leaves an export whose disk is served by an iothread ends the
        process, by an assertion that it runs in the main thread (seen with Debian's 7.2, which has
        the mend of CVE-2024-7409). No command says which thread serves a node.

        Raises:
            SourceError: it has iothreads.
        """
        if qmp.version >= _IOTHREADS_SINCE:
            return
        try:
            objects = qmp.execute("qom-list", path="/objects")
        except SourceError as err:
            if "not found" not in str(err):
                raise
            return  # qemu-storage-daemon has no place for objects while it has none
        with understanding("objects"):
            names = [str(one["name"]) for one in objects if one["type"] == "child<iothread>"]
        if names:
            raise SourceError(
                f"QMP socket {self.socket}: its process has iothreads ({', '.join(names)}), and "
                f"QEMU before {_text(_IOTHREADS_SINCE)} may end when a client of such a disk "
                f"leaves; run the VM without them, or capture its image with `scan` or `reflink`"
            )

    def start_nbd(self, qmp: QmpConnection) -> bool:
        """Let the process have an NBD server; whether it had none.

        Raises:
            SourceError: it cannot have one there.
        """
        address = {"type": "unix", "data": {"path": f"{self.socket}{_NBD_SUFFIX}"}}
        try:
            qmp.execute("nbd-server-start", addr=address)
        except SourceError as err:
            if "already running" not in str(err):
                raise
            return False
        return True

    def stop_nbd(self, qmp: QmpConnection) -> None:
        """End the NBD server that was started here, if it has no exports any more."""
        with contextlib.suppress(SourceError):
            if "nbd" not in exports_of(qmp).values():
                qmp.execute("nbd-server-stop")

    def flush(self, qmp: QmpConnection, node: str, names: ViewNames) -> None:
        """Let what a node has in caches reach its medium, while its guest writes on.

        QEMU does the same whenever it changes a graph, and lets the guest wait for it: measured,
        0.12 s with 128 MiB in caches. Done before, there is little left.

        Raises:
            BackcastError: the process does not do it.
        """
        add_export(qmp, names.flushing, node)
        try:
            with self.read_export(names.flushing) as nbd:
                nbd.flush()
        finally:
            delete_exports(qmp, [names.flushing])

    def read_export(self, name: str, contexts: Iterable[str] = ()) -> NbdConnection:
        """A connection to an export of the process.

        Raises:
            SourceError: its NBD server is not where it should be.
            BackcastError: as `NbdConnection`.
        """
        found = self._roots.open_socket(self.tenant, self.socket)
        nbd: int | None = None
        try:
            assert found.folder is not None
            nbd = judged_socket(found.folder, f"{self.socket.name}{_NBD_SUFFIX}")
            if nbd is None:
                raise SourceError(
                    f"QMP socket {self.socket}: its process has an NBD server elsewhere; let it "
                    f"listen at {self.socket}{_NBD_SUFFIX}, or have none"
                )
            return NbdConnection(NbdAddress(f"unix:/proc/self/fd/{nbd}"), name, contexts)
        finally:
            if nbd is not None:
                os.close(nbd)
            found.close()


def add_export(qmp: QmpConnection, name: str, node: str, *bitmaps: dict[str, str]) -> None:
    """Export a node for reading.

    Raises:
        SourceError: QEMU refuses.
    """
    qmp.execute(
        "block-export-add", type="nbd", id=name, name=name, node_name=node, writable=False,
        bitmaps=list(bitmaps),
    )  # fmt: skip


def exports_of(qmp: QmpConnection) -> dict[str, str]:
    """Id and type of each export of a process.

    Raises:
        BackcastError: it does not tell.
    """
    with understanding("exports"):
        return {str(one["id"]): str(one["type"]) for one in qmp.execute("query-block-exports")}


def delete_exports(qmp: QmpConnection, ids: Iterable[str]) -> None:
    """End exports, also if they are in use; returns when they are gone.

    Raises:
        SourceError: one does not go.
    """
    wanted = set(ids)
    for one in wanted:
        with contextlib.suppress(SourceError):  # it is going already
            qmp.execute("block-export-del", id=one, mode="hard")
    deadline = time.monotonic() + _GONE_SECONDS_MAX
    while left := wanted & exports_of(qmp).keys():
        if time.monotonic() > deadline:
            raise SourceError(f"export {', '.join(sorted(left))}: it does not end")
        time.sleep(0.01)


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
