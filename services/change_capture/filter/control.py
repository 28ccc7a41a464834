"""The control socket of a filter: agents of this host give orders, and read frozen views.

Whoever may connect is this process's own user or root, as the kernel says (SO_PEERCRED). An agent
has a hold and a view by its connection: when that ends, so do they.
"""

import contextlib
import itertools
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from libs.errors import BackcastError, BadInputError, DamagedDataError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import large_buffer
from libs.runtime.threads import start_thread
from libs.spans.sockets import end
from libs.version import VERSION
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.filter.cuts import FilterCuts
from services.change_capture.filter.messages import (
    EXTENTS_MAX,
    READ_SIZE_BYTES_MAX,
    About,
    Answer,
    Ask,
    Bytes,
    ClaimCut,
    Claimed,
    CloseView,
    CutNow,
    Data,
    Done,
    FindData,
    FollowLead,
    ForgetVolume,
    HoldWrites,
    LeadCut,
    Leading,
    Order,
    ReadView,
    Released,
    ReleaseWrites,
    SettleSession,
    Taken,
    TakeOver,
    failed,
    receive_order,
    send,
)

log = logging.getLogger(__name__)

#: Connections at once: an agent has one, and one for each thread that reads.
_CONNECTIONS_MAX = 64
_CREDENTIALS = struct.Struct("3i")


class ControlServer:
    """Serves the control socket from threads until it is closed.

    Args:
        path: of the socket; what was there is replaced, as the volume's lock is ours.
        cuts: what is ordered about.
        give: hands over to a successor at the other end of a connection.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(
        self, path: Path, cuts: FilterCuts, give: Callable[[socket.socket, TakeOver], None]
    ) -> None:
        self.path = path
        self._cuts = cuts
        self._give = give
        self._identity = cuts.volume.disk.identity
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._is_closed = False
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Under another name first: whoever finds the socket finds one that is listened on.
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(part))
        part.chmod(0o600)
        self._listener.listen(_CONNECTIONS_MAX)
        part.replace(path)
        self._inode = path.stat().st_ino
        self._acceptor = start_thread("control", self._accept, daemon=True)

    def close(self) -> None:
        """End all connections. The socket's name goes, unless a successor has it."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    end(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as err:
                if not self._is_closed:
                    log.critical("control socket ended", extra={"detail": str(err)})
                return
            if not is_trusted(connection):
                connection.close()
                continue
            with self._lock:
                is_full = len(self._connections) >= _CONNECTIONS_MAX
                if not is_full:
                    self._connections.add(connection)
            if is_full:
                log.warning("control connection refused", extra={"count_max": _CONNECTIONS_MAX})
                connection.close()
            else:
                start_thread("control connection", self._serve, connection, daemon=True)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                agent = _Agent(connection, self._cuts, self._identity, self._give)
                try:
                    agent.serve()
                except (OSError, DamagedDataError) as err:
                    log.warning("control connection ended", extra={"detail": str(err)})
                finally:
                    self._cuts.end(agent)
        finally:
            with self._lock:
                self._connections.discard(connection)


class _Agent:
    """One connection; what it holds is held by this object."""

    def __init__(
        self,
        connection: socket.socket,
        cuts: FilterCuts,
        identity: str,
        give: Callable[[socket.socket, TakeOver], None],
    ) -> None:
        self._connection = connection
        self._give = give
        self._cuts = cuts
        self._identity = identity
        self._buffer = memoryview(large_buffer(READ_SIZE_BYTES_MAX))

    def serve(self) -> None:
        """Do orders until the agent leaves.

        Raises:
            DamagedDataError: it says what is no order.
            OSError: the connection broke.
        """
        while (order := receive_order(self._connection)) is not None:
            try:
                if isinstance(order, TakeOver):
                    self._give(self._connection, order)
                    return
                answer, content = self._do(order)
            except BackcastError as err:
                answer, content = failed(err), b""
            send(self._connection, answer, content)

    def _do(self, order: Order) -> tuple[Answer, bytes | memoryview]:
        match order:
            case Ask():
                return self._about(order), b""
            case ClaimCut():
                return self._claim(order)
            case ReadView():
                return Bytes(), self._read(order)
            case FindData():
                return self._data(order), b""
            case ReleaseWrites() | LeadCut():
                return self._barrier(order), b""
        self._change(order)
        return Done(), b""

    def _barrier(self, order: ReleaseWrites | LeadCut) -> Answer:
        if isinstance(order, ReleaseWrites):
            return Released(self._cuts.release(self))
        return Leading(self._cuts.sharing.lead(self, order.cut, order.key, order.followers))

    def _change(self, order: Order) -> None:
        """Do what has no answer but that it is done."""
        cuts = self._cuts
        match order:
            case FollowLead():
                cuts.sharing.follow(self, order.cut, order.key, order.node, order.address)
            case HoldWrites():
                cuts.hold(self, order.seconds)
            case CutNow():
                cuts.cut(self)
            case CloseView():
                cuts.end(self)
            case SettleSession():
                cuts.settle(order.volume, order.session, sealed=order.sealed)
            case ForgetVolume():
                cuts.forget(order.volume)
            case Taken():
                raise BadInputError("a successor says that it serves, and none was asked to")

    def _about(self, order: Ask) -> About:
        cuts, disk = self._cuts, self._cuts.volume.disk
        return About(
            path=str(disk.path),
            identity=self._identity,
            size_bytes=disk.size_bytes,
            epoch=cuts.epoch,
            view_count=cuts.view_count,
            broken=cuts.why_broken(order.token) if order.token else None,
            version=VERSION,
        )

    def _claim(self, order: ClaimCut) -> tuple[Answer, bytes]:
        found = self._cuts.claim(
            order.token, order.volume, order.session, order.base, is_trusted=order.is_trusted
        )
        if isinstance(found, TrackingLost):
            return Claimed(found.reason, found.message, has_bits=False), b""
        if found is None:
            return Claimed(None, "", has_bits=False), b""
        return Claimed(None, "", has_bits=True), found.packed()

    def _read(self, order: ReadView) -> memoryview:
        aligned = not (order.start % CHUNK_SIZE_BYTES or order.length % CHUNK_SIZE_BYTES)
        if not (aligned and order.start >= 0 and 0 < order.length <= READ_SIZE_BYTES_MAX):
            raise BadInputError(
                f"read of {order.length} bytes at {order.start}: expected multiples of "
                f"{CHUNK_SIZE_BYTES}, and {READ_SIZE_BYTES_MAX} bytes at most"
            )
        buffer = self._buffer[: order.length]
        self._cuts.view(order.token).read_into(order.start, buffer)
        return buffer

    def _data(self, order: FindData) -> Data:
        if order.start < 0 or order.start % CHUNK_SIZE_BYTES:
            raise BadInputError(f"data from byte {order.start}: expected a multiple of the chunk")
        found = self._cuts.view(order.token).data(order.start)
        extents = [(one.start, one.end) for one in itertools.islice(found, EXTENTS_MAX)]
        return Data(extents, extents[-1][1] if len(extents) == EXTENTS_MAX else None)


def is_trusted(connection: socket.socket) -> bool:
    """Whether this process's own user or root is at the other end, as the kernel says."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    if user in (0, os.geteuid()):
        return True
    log.warning("control connection refused", extra={"pid": process, "user": user})
    return False
