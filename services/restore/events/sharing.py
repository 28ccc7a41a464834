"""Reads that several requests want at the same time are done once for all of them."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anyio import to_thread

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SharedReads(Generic[K, T]):
    """For one event loop.

    Whoever asks gets a read that has begun after it asked. It never joins one that is under way:
    that one may be past the news that the asker was woken for.

    Args:
        read: reads what a key names, in a thread. It must not change anything.
    """

    def __init__(self, read: Callable[[K], T]) -> None:
        self._read = read
        self._wanted: dict[K, _Wanted[T]] = {}
        #: Reads that were done, and those who were answered with them.
        self.read_count = self.answer_count = 0

    async def get(self, key: K) -> T:
        """What ``key`` names as it is now, or later; raises what the read raises."""
        wanted = self._wanted.setdefault(key, _Wanted())
        asked_at = wanted.begun_count
        wanted.asker_count += 1
        try:
            async with wanted.lock:  # whoever waits for it may be answered by who has it
                if not wanted.results or wanted.results[-1][0] <= asked_at:
                    wanted.begun_count += 1
                    number = wanted.begun_count
                    self.read_count += 1
                    wanted.results = [(number, await to_thread.run_sync(self._read, key))]
                self.answer_count += 1
                return wanted.results[-1][1]
        finally:
            wanted.asker_count -= 1
            if not wanted.asker_count:
                del self._wanted[key]


@dataclass(slots=True)
class _Wanted(Generic[T]):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asker_count: int = 0
    begun_count: int = 0
    #: The last read's number and result; none before the first.
    results: list[tuple[int, T]] = field(default_factory=list)
