"""Effects: every durable change that a process makes, numbered, with a fault at one of them.

An effect is a write or deletion in the object store, a catalog transaction that wrote something, a
record given to Kafka, or a change of an agent's state folder. Reading is no effect: a crash between
two effects leaves the same world wherever it falls.

A process that was killed is never heard of again: whatever its code still tries raises `Killed`.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from libs.catalogdb.pool import PATIENCE_SECONDS, Catalog, Tx
from libs.ranges import ByteRange
from libs.store.port import Body, ObjectStat, ObjectStore

T = TypeVar("T")


class Killed(BaseException):
    """The process is dead. No `except Exception` of its own code sees this."""

    def __init__(self, life: "Life") -> None:
        super().__init__(f"{life.name} is dead")
        self.life = life


class Life:
    """One run of a process, from its start to its death."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        #: A paused process: alive, silent, and replaced like a dead one until it wakes.
        self.asleep = False

    def check(self) -> None:
        """Raises Killed in a process that is dead."""
        if not self.alive:
            raise Killed(self)

    def end(self) -> None:
        """Kill it, in the middle of whatever it does."""
        self.alive = False
        raise Killed(self)


@dataclass(frozen=True)
class KilledBefore:
    """kill -9, out of memory, or power loss, just before a request leaves: nothing happened.

    For a transaction: its connection broke before COMMIT, and Postgres rolled it back.
    """

    number: int


@dataclass(frozen=True)
class KilledAfter:
    """The same, when the server has done it and before its answer is read: it happened.

    "Connection lost between COMMIT and its answer" and "500 after success" look like this too.
    """

    number: int


@dataclass(frozen=True)
class LandsLate:
    """The sender is dead, but its request lives on in a proxy, a kernel buffer or a retry queue.

    The store acts on it long after a successor has finished: a late PUT or DELETE. Effects that
    are no requests to the store cannot: there, this is `KilledBefore`.
    """

    number: int


@dataclass(frozen=True)
class Paused:
    """SIGSTOP, a suspended VM, swapping: the process stops before an effect, and goes on later.

    By then it has been replaced and its work is done. It does not know: its next transactions and
    requests arrive as if no time had passed (scenario 1).
    """

    number: int


Fault = KilledBefore | KilledAfter | LandsLate | Paused


class Effects:
    """Numbers the effects of a run from 0, in order, and lets faults strike at them.

    Several faults may be armed; each strikes once. Only one thread runs at a time: a paused process
    keeps its own thread, which waits.
    """

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        #: "process: effect", by number.
        self.trace: list[str] = []
        self.armed = False
        #: Requests that outlived their sender.
        self.late: list[Callable[[], object]] = []
        self.struck = 0
        #: Effects so far; those that are not transactions are counted before `arm`, too.
        self.total = 0
        self.pause: Pause | None = None
        #: Set when a process pauses, and when a step that ran on a thread of its own ends.
        self.turn = threading.Event()

    def arm(self, faults: Sequence[Fault]) -> None:
        """Count from here, and strike."""
        self._faults = list(faults)
        self.trace, self.late, self.struck, self.pause = [], [], 0, None
        self.armed = True

    def enter(self, life: Life) -> None:
        """Call it before anything that reaches another process."""
        life.check()
        if self.armed and self.pause is None and Paused(len(self.trace)) in self._faults:
            self.struck += 1
            self.pause = Pause(life)
            self.turn.set()
            self.pause.sleep()
            life.check()

    def perform(self, life: Life, what: str, act: Callable[[], T], *, is_request: bool) -> T:
        """Make one effect; it must be atomic and durable when ``act`` returns.

        Args:
            life: who makes it.
            what: what it is, without anything random, for the trace.
            act: makes it, also long after the caller is gone.
            is_request: whether it may land after the death of who sent it.
        """
        self.enter(life)
        fault = self.count(life, what)
        if fault and not isinstance(fault, KilledAfter):
            if isinstance(fault, LandsLate) and is_request:
                self.late.append(act)
            life.end()
        result = act()
        if fault:
            life.end()
        return result

    def count(self, life: Life, what: str) -> Fault | None:
        """Number an effect; what strikes at it, if anything."""
        self.total += 1
        if not self.armed:
            return None
        number = len(self.trace)
        self.trace.append(f"{life.name}: {what}")
        for fault in self._faults:
            if fault.number == number and not isinstance(fault, Paused):
                self.struck += 1
                return fault
        return None

    def land_late(self) -> None:
        """What outlived its sender arrives now."""
        late, self.late = self.late, []
        for act in late:
            act()


class Pause:
    """A process that stopped in the middle of a step, on a thread of its own."""

    def __init__(self, life: Life) -> None:
        self.life = life
        life.asleep = True
        self._awake = threading.Event()

    def sleep(self) -> None:
        """Called by the process: stop here."""
        self._awake.wait()
        self.life.asleep = False

    def wake(self) -> None:
        """Let it go on."""
        self._awake.set()


class WatchedStore:
    """The object store as one process reaches it."""

    def __init__(self, store: ObjectStore, life: Life, effects: Effects, which: str = "") -> None:
        self._store = store
        self._which = which
        self._life = life
        self._effects = effects

    def put(self, key: str, body: Body) -> None:
        content = bytes(body)  # borrowed: it must not change before it lands
        self._perform(f"PUT {self._which}{_kind(key)}", lambda: self._store.put(key, content))

    def delete(self, key: str) -> None:
        self._perform(f"DELETE {self._which}{_kind(key)}", lambda: self._store.delete(key))

    def get(self, key: str) -> bytes:
        self._effects.enter(self._life)
        return self._store.get(key)

    def get_range(self, key: str, wanted: ByteRange) -> bytes:
        self._effects.enter(self._life)
        return self._store.get_range(key, wanted)

    def get_into(self, key: str, wanted: ByteRange, buffer: memoryview) -> None:
        self._effects.enter(self._life)
        self._store.get_into(key, wanted, buffer)

    def stat(self, key: str) -> ObjectStat | None:
        self._effects.enter(self._life)
        return self._store.stat(key)

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectStat]:
        self._effects.enter(self._life)
        return self._store.list(prefix, start_after)

    def _perform(self, what: str, act: Callable[[], None]) -> None:
        self._effects.perform(self._life, what, act, is_request=True)


_: type[ObjectStore] = WatchedStore


class WatchedCatalog(Catalog):
    """The catalog as one process reaches it, over the connections of a shared pool."""

    def __init__(self, catalog: Catalog, life: Life, effects: Effects) -> None:
        self.patience_seconds = PATIENCE_SECONDS
        self._catalog = catalog
        self._life = life
        self._effects = effects

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Tx]:
        """See `Catalog.transaction`; an effect if it has written anything."""
        self._effects.enter(self._life)
        fault = None
        with self._catalog.transaction() as tx:
            yield tx
            if self._effects.armed and _has_written(tx):
                fault = self._effects.count(self._life, _transaction_name())
            if fault and not isinstance(fault, KilledAfter):
                self._life.end()
        if fault:
            self._life.end()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Tx]:
        """See `Catalog.reading`."""
        self._effects.enter(self._life)
        with self._catalog.reading() as tx:
            yield tx


def _has_written(tx: Tx) -> bool:
    """Whether the transaction has a number of its own: it wrote or locked something."""
    row = tx.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone()
    return bool(row and row[0])


def _transaction_name() -> str:
    """The function of libs/catalogdb whose transaction this is."""
    frame = sys._getframe(1)
    while frame.f_back and "libs/catalogdb" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_name


def _kind(key: str) -> str:
    return key.partition("/")[0]
