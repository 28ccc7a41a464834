"""The parts of one session at one chunker: they share a pack, and are taken and finished together.

A snapshot of a group would otherwise cost the catalog as much as one of each of its volumes. What
is shared is what one process has: other parts of the session may be at other chunkers, and nobody
waits for those. Nothing here decides what counts. Each part has its attempt, and each transaction
asks for each attempt whether it is current.

A part that is through waits for the others: the session cannot be sealed before they are through
anyway. But it waits for some rounds only. Until it is finished, the session needs its agent, and
a crash loses what is in the pack that is still open.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from libs.catalogdb.sessions.session import SessionView
from services.chunker.packer import SharedPack

T = TypeVar("T")

#: Rounds of renewal, one a second, that a part which is through waits for others.
_ROUNDS_MAX = 5


@dataclass(frozen=True, slots=True)
class Reserved:
    """An attempt at a part whose capture has not begun, taken with another part's."""

    attempt: UUID
    view: SessionView


class SessionParts(Generic[T]):
    """Thread-safe. ``T`` is what is known of a part that is through.

    What a method returns is due: the caller finishes these parts, all at once. Each is returned
    once, when every part here is through, or has waited long enough.

    Args:
        view: the session.
    """

    def __init__(self, view: SessionView) -> None:
        self.view = view
        self.shared = SharedPack()
        #: By captures.
        self._reserved: dict[UUID, UUID] = {}
        #: Attempts, as the keys of what is through: one that was dropped may still be on a lane
        #: when its part has been begun anew.
        self._in_work: set[UUID] = set()
        self._through: dict[UUID, T] = {}
        self._rounds = 0
        self._lock = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether no part is here, nor expected."""
        with self._lock:
            return not (self._reserved or self._in_work or self._through)

    def reserve(self, attempts: Mapping[UUID, UUID]) -> None:
        """Expect captures, given their attempts."""
        with self._lock:
            self._reserved |= attempts

    def reserved(self) -> Mapping[UUID, UUID]:
        """Attempts by captures that have not begun."""
        with self._lock:
            return dict(self._reserved)

    def begin(self, capture: UUID, attempt: UUID) -> None:
        """A part is worked on."""
        with self._lock:
            self._reserved.pop(capture, None)
            self._in_work.add(attempt)

    def through(self, attempt: UUID, part: T) -> list[T]:
        """All of a part was handed to the packer."""
        with self._lock:
            if attempt in self._in_work:
                self._in_work.remove(attempt)
                self._through[attempt] = part
            return self._due()

    def leave(self, attempt: UUID) -> list[T]:
        """An attempt is not worked on here, or not any more; a later one of its part may be."""
        with self._lock:
            self._reserved = {
                capture: other for capture, other in self._reserved.items() if other != attempt
            }
            self._in_work.discard(attempt)
            self._through.pop(attempt, None)
            return self._due()

    def waited(self) -> list[T]:
        """A round is over."""
        with self._lock:
            self._rounds = self._rounds + 1 if self._through else 0
            return self._due() or (self._taken() if self._rounds >= _ROUNDS_MAX else [])

    def _due(self) -> list[T]:
        return [] if self._in_work or self._reserved else self._taken()

    def _taken(self) -> list[T]:
        self._rounds = 0
        through, self._through = list(self._through.values()), {}
        return through
