"""Reads that several want are done once, and nobody gets one that began before it asked."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from libs.errors import UnavailableError
from services.restore.events.sharing import SharedReads

SECONDS_MAX = 20


class Place:
    """What is read: the number of the read. A read waits until it may go on."""

    def __init__(self, *, open_: bool = False) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(1000 if open_ else 0)
        self.value = "old"
        self.failures = 0

    def read(self, key: str) -> str:
        found = f"{key} {self.value}"
        self.begun.release()
        assert self.go_on.acquire(timeout=SECONDS_MAX)
        if self.failures:
            self.failures -= 1
            raise UnavailableError("catalog: away")
        return found


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, SECONDS_MAX))


async def begun(place: Place) -> None:
    assert await asyncio.to_thread(place.begun.acquire, timeout=SECONDS_MAX)


def test_who_asks_while_a_read_is_under_way_gets_the_next_one() -> None:
    async def work() -> None:
        place = Place()
        reads = SharedReads(place.read)
        first = asyncio.create_task(reads.get("a"))
        await begun(place)
        place.value = "new"
        others = [asyncio.create_task(reads.get("a")) for _ in range(100)]
        elsewhere = asyncio.create_task(reads.get("b"))
        await begun(place)
        place.go_on.release(10)
        assert await first == "a old"
        assert set(await asyncio.gather(*others)) == {"a new"}
        assert await elsewhere == "b new"
        assert (reads.read_count, reads.answer_count) == (3, 102)

    run(work())


def test_a_read_that_fails_is_made_again_for_the_next() -> None:
    async def work() -> None:
        place = Place(open_=True)
        place.failures = 1
        reads = SharedReads(place.read)
        found = await asyncio.gather(*(reads.get("a") for _ in range(3)), return_exceptions=True)
        assert isinstance(found[0], UnavailableError)
        assert found[1:] == ["a old", "a old"]
        assert reads.read_count == 2

    run(work())


def test_who_gives_up_takes_nothing_from_the_others() -> None:
    async def work() -> None:
        place = Place()
        reads = SharedReads(place.read)
        first = asyncio.create_task(reads.get("a"))
        await begun(place)
        second, third = (asyncio.create_task(reads.get("a")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        place.go_on.release(10)
        assert await third == "a old"
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(asyncio.CancelledError):
            await second

    run(work())
