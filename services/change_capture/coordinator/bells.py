"""Who waits for which session: news about one wakes those who wait for it, and nobody else."""

import contextlib
import threading
from collections.abc import Iterator
from uuid import UUID


class Bells:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[UUID, set[threading.Event]] = {}
        self._rung: set[UUID] = set()
        self._any = threading.Event()
        #: How often somebody was woken: grows with news, not with news times waiters.
        self.wake_count = 0

    @contextlib.contextmanager
    def waiting_for(self, session: UUID) -> Iterator[threading.Event]:
        """An event that is set by the first news about the session from here on."""
        bell = threading.Event()
        with self._lock:
            self._waiting.setdefault(session, set()).add(bell)
        try:
            yield bell
        finally:
            with self._lock:
                others = self._waiting[session]
                others.discard(bell)
                if not others:
                    del self._waiting[session]

    @property
    def waiting_count(self) -> int:
        """How many wait now."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def ring(self, session: UUID) -> None:
        """There is news about a session."""
        with self._lock:
            self._rung.add(session)
            waiting = self._waiting.get(session, set())
            self.wake_count += len(waiting)
            for bell in waiting:
                bell.set()
        self._any.set()

    def ring_all(self) -> None:
        """News may have been missed, of any session that somebody waits for."""
        with self._lock:
            sessions = list(self._waiting)
        for session in sessions:
            self.ring(session)
        self._any.set()

    def rung(self, timeout_seconds: float) -> set[UUID]:
        """Sessions with news since the last call; waits for some until the time is over."""
        self._any.wait(timeout_seconds)
        self._any.clear()
        with self._lock:
            rung, self._rung = self._rung, set()
        return rung
