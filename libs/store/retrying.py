"""Trying again: a wrapper with the port of what it wraps; the store waits nowhere else."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from libs.errors import OutOfSpaceError, UnavailableError
from libs.ranges import ByteRange
from libs.store.port import Body, ObjectStat, ObjectStore

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to try; each wait is random between 0 and its limit."""

    attempts_max: int = 8
    #: No attempt begins later than this after the first began; the one under way is not cut short.
    total_seconds_max: float = 60.0
    #: Limit of the first wait; it doubles with each attempt.
    wait_seconds_first: float = 0.1
    #: Where the doubling ends.
    wait_seconds_max: float = 10.0

    def wait_limit_seconds(self, failures: int) -> float:
        """The longest wait after ``failures`` (at least 1) failed attempts."""
        return float(min(self.wait_seconds_max, self.wait_seconds_first * 2 ** (failures - 1)))


class RetryingStore:
    """Repeats what failed with `UnavailableError`, with full jitter so that clients spread out.

    A put is repeated with the caller's own buffer, hence identical bytes: an earlier attempt that
    arrives late writes the same object once more. `OutOfSpaceError` passes at once, as space does
    not come back within seconds; so does every error that trying again cannot mend.
    """

    def __init__(
        self,
        inner: ObjectStore,
        policy: RetryPolicy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Wrap ``inner``.

        Args:
            inner: the store that makes the attempts.
            policy: 8 attempts within 60 s if None.
            clock: monotonic seconds.
            sleep: waits; a service passes one that wakes up when it is told to stop.
            uniform: random number between two bounds.
        """
        self._inner = inner
        self._policy = policy or RetryPolicy()
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform

    def put(self, key: str, body: Body) -> None:
        """See `ObjectStore.put`."""
        self._repeat(lambda: self._inner.put(key, body))

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        return self._repeat(lambda: self._inner.get(key))

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        """See `ObjectStore.get_range`."""
        return self._repeat(lambda: self._inner.get_range(key, wanted))

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        """See `ObjectStore.get_into`."""
        self._repeat(lambda: self._inner.get_into(key, wanted, buffer))

    def stat(self, key: str) -> ObjectStat | None:
        """See `ObjectStore.stat`."""
        return self._repeat(lambda: self._inner.stat(key))

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        """See `ObjectStore.list`; a listing that breaks goes on after the last key that it gave."""
        last = start_after
        entries = self._inner.list(prefix, last)
        attempts = self._attempts()
        while True:
            try:
                entry = next(entries, None)
            except UnavailableError as error:
                attempts.wait_or_raise(error)
                entries = self._inner.list(prefix, last)
                continue
            if entry is None:
                return
            last = entry.key
            attempts = self._attempts()  # there was progress: what failed before does not count
            yield entry

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._repeat(lambda: self._inner.delete(key))

    def _repeat(self, attempt: Callable[[], _Result]) -> _Result:
        attempts = self._attempts()
        while True:
            try:
                return attempt()
            except UnavailableError as error:
                attempts.wait_or_raise(error)

    def _attempts(self) -> "_Attempts":
        return _Attempts(self._policy, self._clock, self._sleep, self._uniform)


class _Attempts:
    """The failures of one operation so far."""

    def __init__(
        self,
        policy: RetryPolicy,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform
        self._began = clock()
        self._failures = 0

    def wait_or_raise(self, error: UnavailableError) -> None:
        """Wait before the next attempt, or raise ``error`` if there shall be none."""
        self._failures += 1
        wait_seconds = self._uniform(0.0, self._policy.wait_limit_seconds(self._failures))
        next_begins = self._clock() - self._began + wait_seconds
        if (
            isinstance(error, OutOfSpaceError)
            or self._failures >= self._policy.attempts_max
            or next_begins > self._policy.total_seconds_max
        ):
            raise error
        _log.warning("attempt %d failed, next in %.2f s: %s", self._failures, wait_seconds, error)
        self._sleep(wait_seconds)


_: type[ObjectStore] = RetryingStore
