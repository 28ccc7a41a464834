"""Requests that wait for news, without a thread, a connection to Postgres or a share of the server.

Whoever waits has a **bell**, which is rung when something that it waits for may have changed. A
bell says nothing of what changed, so it may be rung once for much news, or for none. What counts is
what is read afterwards. Nothing is missed because the order is fixed here (`read_or_wait`): hang up
the bell, read, wait, read again. News before the reading is in what is read, and news after the
bell was hung up rings it.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from libs.rest.shares import claim_of

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Bell:
    """Of one request that waits. For its event loop; only a `Bells` rings it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._rung = False
        self._limit: asyncio.Timeout | None = None

    @property
    def waits(self) -> bool:
        """Whether somebody waits for it."""
        return self._limit is not None

    def ring(self) -> None:
        """Wake who waits, or let the next wait be none."""
        if self._limit and not self._rung and not self._limit.expired():
            self._limit.reschedule(self.loop.time())
        self._rung = True

    def silence(self) -> None:
        """Forget that it was rung, which whoever reads from here on will see."""
        self._rung = False

    async def wait(self, seconds: float, receive: Receive) -> None:
        """Return when it was rung, or the time is over.

        A task that waited for the client beside one that waits for the bell would cost twice the
        memory. So there is only the client to wait for, and the bell ends the time for that.

        Args:
            seconds: at most.
            receive: of the request, whose body has been read.

        Raises:
            ClientDisconnect: the client is gone.
        """
        if self._rung:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds) as limit:
                self._limit = limit
                try:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                finally:
                    self._limit = None
            raise ClientDisconnect


class Bells(Generic[K]):
    """Who waits for news of what. Any thread may ring; requests wait on their event loops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[K, set[Bell]] = {}
        self._closed = False
        #: How often somebody was woken: grows with news, not with news times waiters.
        self.wake_count = 0

    @property
    def waiting_count(self) -> int:
        """How many wait now, and do not read."""
        with self._lock:
            return sum(bell.waits for bells in self._waiting.values() for bell in bells)

    @property
    def closed(self) -> bool:
        """Whether nobody shall wait any more."""
        return self._closed

    @property
    def waited_for(self) -> list[K]:
        """What somebody waits for now."""
        with self._lock:
            return list(self._waiting)

    def ring(self, what: K) -> None:
        """There may be news of it."""
        with self._lock:
            self._ring(self._waiting.get(what, ()))

    def ring_all(self) -> None:
        """News may have been missed, of anything."""
        with self._lock:
            self._ring([bell for bells in self._waiting.values() for bell in bells])

    def close(self) -> None:
        """Let nobody wait any more: the process is about to end."""
        self._closed = True
        self.ring_all()

    @contextlib.contextmanager
    def hung_up(self, what: K) -> Iterator[Bell]:
        """A bell that the next news of ``what`` rings. It hangs while the context lasts."""
        bell = Bell()
        with self._lock:
            self._waiting.setdefault(what, set()).add(bell)
        try:
            yield bell
        finally:
            with self._lock:
                others = self._waiting[what]
                others.discard(bell)
                if not others:
                    del self._waiting[what]

    def _ring(self, bells: Iterable[Bell]) -> None:
        """Wake them, by one call for each event loop: it costs a system call."""
        by_loop: dict[asyncio.AbstractEventLoop, list[Bell]] = {}
        for bell in bells:
            by_loop.setdefault(bell.loop, []).append(bell)
            self.wake_count += 1
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended, with who waited there
                loop.call_soon_threadsafe(_ring_here, theirs)


async def read_or_wait(  # noqa: PLR0913 -- what it waits for, and how
    request: Request,
    bells: Bells[K],
    what: K,
    read: Callable[[], Awaitable[T]],
    enough: Callable[[T, int], bool],
    wait_seconds: float,
) -> T:
    """Read, and where that is not enough wait for news and read again, until the time is over.

    While it waits, the request has only its connection, and counts as a poll of its tenant and
    token. When its client goes away, it ends at once.

    Args:
        request: the request that waits.
        bells: where news is rung.
        what: the news that it waits for.
        read: reads the present state.
        enough: whether what was read is worth an answer; the number says how often news has come.
        wait_seconds: at most; with 0 it only reads.

    Returns:
        What was read last.

    Raises:
        TooManyRequestsError: too many of the tenant or token wait already.
        ClientDisconnect: the client is gone, so there is nobody to answer.
    """
    loop, news_count = asyncio.get_running_loop(), 0
    deadline = loop.time() + wait_seconds
    with bells.hung_up(what) as bell:
        while True:
            bell.silence()  # before reading: later news rings it again
            found = await read()
            left_seconds = deadline - loop.time()
            if left_seconds <= 0 or bells.closed or enough(found, news_count):
                return found
            async with _polling(request):
                await bell.wait(left_seconds, request.receive)
            news_count += 1


@contextlib.asynccontextmanager
async def _polling(request: Request) -> AsyncIterator[None]:
    claim = claim_of(request.scope)
    if claim is None:  # a server without tokens
        yield
        return
    async with claim.polling():
        yield


def _ring_here(bells: list[Bell]) -> None:
    for bell in bells:
        bell.ring()
