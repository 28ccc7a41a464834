"""When the store is asked again, how long the waits are, and when it is given up."""

from collections.abc import Callable, Iterator

import pytest

from libs.errors import (
    BackcastError,
    DamagedDataError,
    ForbiddenError,
    NotFoundError,
    OutOfSpaceError,
    UnavailableError,
)
from libs.store.memory import MemoryStore
from libs.store.port import Body, ObjectStat
from libs.store.retrying import RetryingStore, RetryPolicy
from tests.support.clock import SleepingClock


class FailingStore(MemoryStore):
    """Every put takes ``seconds`` and raises the next of ``errors`` while there are any."""

    def __init__(self, clock: SleepingClock, *errors: BackcastError, seconds: float = 0.0) -> None:
        super().__init__()
        self._clock = clock
        self._errors = iter(errors)
        self._seconds = seconds
        self.bodies: list[bytes] = []

    def put(self, key: str, body: Body) -> None:
        self.bodies.append(bytes(body))
        self._clock.now += self._seconds
        error = next(self._errors, None)
        if error is not None:
            raise error
        super().put(key, body)


def retrying(
    inner: MemoryStore, clock: SleepingClock, policy: RetryPolicy | None = None
) -> RetryingStore:
    longest: Callable[[float, float], float] = lambda _, high: high  # noqa: E731 -- typed
    return RetryingStore(inner, policy, clock=lambda: clock.now, sleep=clock.sleep, uniform=longest)


def unavailable(count: int) -> list[BackcastError]:
    return [UnavailableError("down")] * count


def test_a_put_is_repeated_with_identical_bytes_and_growing_waits() -> None:
    clock = SleepingClock()
    inner = FailingStore(clock, *unavailable(4))
    retrying(inner, clock).put("key", bytearray(b"body"))
    assert inner.bodies == [b"body"] * 5
    assert clock.sleeps == [0.1, 0.2, 0.4, 0.8]
    assert inner.get("key") == b"body"


def test_waits_do_not_grow_beyond_their_limit() -> None:
    policy = RetryPolicy(wait_seconds_first=1, wait_seconds_max=3)
    assert [policy.wait_limit_seconds(failures) for failures in (1, 2, 3, 9)] == [1, 2, 3, 3]


def test_attempts_end_by_their_number() -> None:
    clock = SleepingClock()
    inner = FailingStore(clock, *unavailable(9))
    with pytest.raises(UnavailableError):
        retrying(inner, clock, RetryPolicy(attempts_max=3)).put("key", b"")
    assert len(inner.bodies) == 3


def test_no_attempt_begins_after_the_total_time() -> None:
    clock = SleepingClock()
    inner = FailingStore(clock, *unavailable(9), seconds=25)
    with pytest.raises(UnavailableError):
        retrying(inner, clock, RetryPolicy(total_seconds_max=60)).put("key", b"")
    assert len(inner.bodies) == 3  # at 0, 25.1 and 50.3 s
    assert clock.now - 1_000 < 60 + 25


@pytest.mark.parametrize(
    "error",
    [OutOfSpaceError("full"), ForbiddenError("no"), NotFoundError("?"), DamagedDataError("!")],
)
def test_what_cannot_be_mended_passes_at_once(error: BackcastError) -> None:
    clock = SleepingClock()
    with pytest.raises(type(error)):
        retrying(FailingStore(clock, error), clock).put("key", b"")
    assert clock.sleeps == []


class BreakingListStore(MemoryStore):
    """A listing breaks after ``length`` entries; counts how often one was begun."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self.begun = 0

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        self.begun += 1
        for count, entry in enumerate(super().list(prefix, start_after)):
            if count == self._length:
                raise UnavailableError("cut off")
            yield entry


def test_a_broken_listing_goes_on_where_it_was() -> None:
    clock = SleepingClock()
    inner = BreakingListStore(length=2)
    for number in range(7):
        inner.put(f"key/{number}", b"")
    policy = RetryPolicy(attempts_max=2)  # progress makes every break the first one
    listed = [entry.key for entry in retrying(inner, clock, policy).list("key/")]
    assert listed == [f"key/{number}" for number in range(7)]
    assert inner.begun == 4


def test_a_listing_without_progress_is_given_up() -> None:
    clock = SleepingClock()
    inner = BreakingListStore(length=0)
    inner.put("key", b"")
    with pytest.raises(UnavailableError):
        list(retrying(inner, clock, RetryPolicy(attempts_max=3)).list(""))
    assert inner.begun == 3
