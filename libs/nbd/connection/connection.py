"""A client's connection to one export: blocking calls, which threads may make at once.

Whoever waits for a reply receives for all. While somebody else receives, the others wait for their
own reply. A thread whose request the server does not take yet receives meanwhile, if nobody else
does: a server that cannot send its replies takes no requests.
"""

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from libs.errors import (
    BackcastError,
    BadInputError,
    DamagedDataError,
    NotFoundError,
    OutOfSpaceError,
    SourceError,
    UnavailableError,
)
from libs.nbd.client.events import Enter, Negotiated
from libs.nbd.client.pending import Pending
from libs.nbd.client.session import RANGE_SIZE_BYTES_MAX
from libs.nbd.connection.dialling import NbdAddress, dial, give_up
from libs.nbd.export import Export, Extent
from libs.nbd.layout import CommandFlag, ErrorNumber
from libs.nbd.streams import Bytes
from libs.ranges import ByteRange

#: Reads of one call that are in flight at once. Measured: more do not help.
_DEPTH = 16


class NbdConnection:
    """An export of a server. Thread-safe.

    Args:
        where: the server.
        export: its name; the empty one is the server's default.
        contexts: metadata contexts that will be asked for; all must be there.

    Raises:
        UnavailableError: nobody answers there, or it cannot prove who it is.
        NotFoundError: the server has no such export, or it has not all contexts.
        SourceError: the server refuses something else.
        DamagedDataError: the server breaks the protocol.
        BadInputError: a name that the protocol does not allow.
    """

    def __init__(self, where: NbdAddress, export: str, contexts: Iterable[str] = ()) -> None:
        self._peer = str(where)
        self._what = f"{where}, export {export!r}"
        self._patience_seconds = where.patience_seconds
        #: Guards the session and what is below; notified when replies have come.
        self._state = threading.Condition()
        self._sending = threading.Lock()
        self._status_lock = threading.Lock()
        self._is_receiving = False
        self._broken: BackcastError | None = None
        wanted = tuple(contexts)
        self._wire, self._session, event = dial(where, Enter(export, wanted))
        assert isinstance(event, Negotiated)
        missing = [name for name in wanted if name not in event.contexts]
        if missing:
            self.close()
            raise NotFoundError(
                f"{self._what}: it has no metadata context {', '.join(missing)}; "
                f"`nbdinfo --list` shows those that it has"
            )
        #: What the server has said of the export.
        self.export: Export = event.export
        self._contexts = event.contexts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from ``offset`` on.

        Raises:
            BadInputError: beyond the export, or not aligned to its minimum block size.
            SourceError: the server cannot read them.
            UnavailableError: the connection is lost, or the server is too slow.
            DamagedDataError: the server breaks the protocol.
        """
        self.read_many([(offset, buffer)])

    def read_many(self, reads: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each buffer from its offset; several requests are in flight. Raises as `read_into`.

        After an error nothing is known of any buffer, and none is written to any more.
        """
        bound = self._session.payload_size_bytes_max
        flying: deque[Pending] = deque()
        try:
            for offset, buffer in reads:
                for begin in range(0, len(buffer), bound):
                    if len(flying) == _DEPTH:
                        self._wait(flying.popleft())
                    part = buffer[begin : begin + bound]
                    flying.append(self._ask(lambda s, o=offset + begin, p=part: s.read(o, p)))
            while flying:
                self._wait(flying.popleft())
        except BaseException:
            for pending in flying:  # they write to the caller's buffers
                with contextlib.suppress(BackcastError):
                    self._wait(pending)
            raise

    def write(self, offset: int, data: Bytes, *, is_fua: bool = False) -> None:
        """Write bytes from ``offset`` on.

        Raises:
            BadInputError: beyond the export, not aligned, or the export cannot be written.
            OutOfSpaceError: the server has no space.
            SourceError: the server cannot write them.
            UnavailableError: the connection is lost; nobody knows what was written.
            DamagedDataError: the server breaks the protocol.
        """
        bound, view = self._session.payload_size_bytes_max, memoryview(data)
        flags = CommandFlag.FUA if is_fua else 0
        for begin in range(0, len(view), bound):
            part = view[begin : begin + bound]
            self._do(lambda s, o=offset + begin, p=part: s.write(o, p, flags))

    def write_zeroes(self, offset: int, length: int, *, makes_holes: bool = True) -> None:
        """Make bytes zeros, without sending them. Raises as `write`."""
        flags = 0 if makes_holes else CommandFlag.NO_HOLE
        for begin in range(0, length, RANGE_SIZE_BYTES_MAX):
            size = min(RANGE_SIZE_BYTES_MAX, length - begin)
            self._do(lambda s, o=offset + begin, n=size: s.write_zeroes(o, n, flags))

    def trim(self, offset: int, length: int) -> None:
        """Say that bytes are needed no more; they are undefined then. Raises as `write`."""
        for begin in range(0, length, RANGE_SIZE_BYTES_MAX):
            size = min(RANGE_SIZE_BYTES_MAX, length - begin)
            self._do(lambda s, o=offset + begin, n=size: s.trim(o, n))

    def flush(self) -> None:
        """Let all writes that have returned reach stable storage. Raises as `write`."""
        self._do(lambda s: s.flush())

    def extents(self, context: str, within: ByteRange | None = None) -> Iterator[Extent]:
        """Extents of a metadata context, ascending; neighbours with the same flags are one.

        Args:
            context: one of those that were asked for.
            within: bytes of interest, by default the whole export.

        Raises:
            BadInputError: the context was not asked for, or the range is beyond the export.
            SourceError: the server does not tell them.
            UnavailableError: the connection is lost, or the server is too slow.
            DamagedDataError: the server breaks the protocol.
        """
        number = self._contexts.get(context)
        if number is None:
            raise BadInputError(
                f"{self._what}: expected a context of {', '.join(self._contexts)}, got {context!r}"
            )
        within = within or ByteRange(0, self.export.size_bytes)
        return merged(self._extents(number, within))

    def close(self) -> None:
        """Say goodbye if possible, and end the connection; whoever waits gets UnavailableError."""
        self._leave(UnavailableError(f"{self._peer}: it was closed here"))

    def _leave(self, reason: UnavailableError) -> None:
        with self._state:
            is_whole = self._broken is None
            self._broken = self._broken or reason
            if is_whole:
                self._session.leave()
            goodbye = self._session.take_output()
        if is_whole and self._sending.acquire(blocking=False):
            with contextlib.suppress(OSError):
                self._wire.send(goodbye, give_up)
            self._sending.release()
        self._wire.close()

    def _extents(self, number: int, within: ByteRange) -> Iterator[Extent]:
        at, end = within.start, within.end
        while at < end:
            size = min(RANGE_SIZE_BYTES_MAX, end - at)  # the server may tell less
            with self._status_lock:
                pending = self._do(lambda s, o=at, n=size: s.block_status(o, n))
            for extent in pending.extents(number):
                until = min(extent.end, end)
                if until > at:
                    yield Extent(at, until - at, extent.flags)
                    at = until

    def _do(self, ask: Callable[..., Pending]) -> Pending:
        return self._wait(self._ask(ask))

    def _ask(self, ask: Callable[..., Pending]) -> Pending:
        """Make a request and send it; waits while too many are in flight."""
        deadline = time.monotonic() + self._patience_seconds
        while True:
            with self._state:
                self._check()
                if self._session.can_ask:
                    pending = ask(self._session)
                    break
            self._receive(lambda: self._session.can_ask, deadline)
        self._send()
        return pending

    def _wait(self, pending: Pending) -> Pending:
        deadline = time.monotonic() + self._patience_seconds
        while not pending.is_done:
            self._receive(lambda: pending.is_done, deadline)
        if pending.error is ErrorNumber.ESHUTDOWN:  # the specification wants a goodbye then
            self._leave(UnavailableError(f"{self._peer}: it is shutting down"))
        if pending.error is not None:
            raise _failure(f"{self._what}: {pending!r}", pending)
        return pending

    def _receive(
        self, is_enough: Callable[[], bool], deadline: float, *, waits: bool = True
    ) -> None:
        """Receive once, or wait until another thread has; returns at once if it is enough."""
        with self._state:
            if is_enough():
                return
            self._check()
            if time.monotonic() > deadline:
                raise self._break(self._too_slow())
            if self._is_receiving:
                if waits:
                    self._state.wait(max(0.0, deadline - time.monotonic()))
                return
            self._is_receiving = True
            buffer, is_direct = self._session.buffer(), self._session.is_direct
        error: BackcastError | None = None
        try:
            count = self._wire.receive_into(buffer, is_whole=is_direct)
        except BlockingIOError:
            error = self._too_slow()
        except OSError as err:
            error = UnavailableError(f"{self._peer}: {err}")
        with self._state:
            self._is_receiving = False
            self._state.notify_all()
            if error is not None:
                raise self._break(error)
            self._take(count)

    def _take(self, count: int) -> None:
        """Understand what was received; the lock is held."""
        if not count:
            raise self._break(UnavailableError(f"{self._peer}: it closed the connection"))
        self._session.received(count)
        try:
            while self._session.next_reply() is not None:
                pass
        except DamagedDataError as err:
            self._break(err)
            raise

    def _send(self) -> None:
        with self._sending:
            while True:
                with self._state:
                    output = self._session.take_output()
                if not output:
                    return
                deadline = time.monotonic() + self._patience_seconds
                try:
                    self._wire.send(output, lambda d=deadline: self._wait_to_send(d))  # type: ignore[misc]  # a default binds the deadline
                except OSError as err:
                    with self._state:
                        raise self._break(UnavailableError(f"{self._peer}: {err}")) from err

    def _wait_to_send(self, deadline: float) -> None:
        """Until the server may take more; receives meanwhile, or the server may never do."""
        with self._state:
            self._check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._break(self._too_slow())
            is_receiving = self._is_receiving
        poll = select.poll()
        poll.register(self._wire, select.POLLOUT | (0 if is_receiving else select.POLLIN))
        # Another thread may begin or end to receive at any time, so this looks again soon.
        for _, found in poll.poll(min(left, 0.1) * 1000):
            if found & select.POLLIN and not found & select.POLLOUT:
                self._receive(lambda: False, deadline, waits=False)

    def _check(self) -> None:
        if self._broken is not None:
            raise type(self._broken)(str(self._broken))

    def _break(self, error: BackcastError) -> BackcastError:
        """The connection is of no use any more; the lock is held."""
        if self._broken is None:
            self._broken = error
            self._wire.close()
        self._state.notify_all()
        return error

    def _too_slow(self) -> UnavailableError:
        return UnavailableError(f"{self._peer}: it took longer than {self._patience_seconds:g} s")


def merged(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The same extents, with those that touch and have the same flags as one."""
    last: Extent | None = None
    for extent in extents:
        if last is not None and (last.end, last.flags) == (extent.offset, extent.flags):
            last = Extent(last.offset, last.length + extent.length, last.flags)
        else:
            if last is not None:
                yield last
            last = extent
    if last is not None:
        yield last


def _failure(what: str, pending: Pending) -> BackcastError:
    assert pending.error is not None
    message = f"{what}: the server answered {pending.error.name}"
    if pending.error_offset is not None:
        message += f" at {pending.error_offset}"
    if pending.message:
        message += f": {pending.message}"
    match pending.error:
        case ErrorNumber.ENOSPC:
            return OutOfSpaceError(message)
        case ErrorNumber.ESHUTDOWN:
            return UnavailableError(message)
    return SourceError(message)
