"""News about sessions: it wakes requests that wait for them, and the loop that settles them."""

import threading
from uuid import UUID

from libs.rest.waiting import Bells


class SessionNews:
    """Thread-safe."""

    def __init__(self) -> None:
        #: Of the requests that wait for a session.
        self.bells: Bells[UUID] = Bells()
        self._lock = threading.Lock()
        self._told: set[UUID] = set()
        self._any = threading.Event()

    def tell(self, session: UUID) -> None:
        """Something about a session has changed."""
        self._note([session])
        self.bells.ring(session)

    def tell_all(self) -> None:
        """News may have been missed, of any session that somebody waits for."""
        self._note(self.bells.waited_for)
        self.bells.ring_all()

    def told(self, timeout_seconds: float) -> set[UUID]:
        """Sessions with news since the last call; waits for some until the time is over."""
        self._any.wait(timeout_seconds)
        self._any.clear()
        with self._lock:
            told, self._told = self._told, set()
        return told

    def _note(self, sessions: list[UUID]) -> None:
        with self._lock:
            self._told.update(sessions)
        self._any.set()
