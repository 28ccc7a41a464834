"""Announces the chunker in the catalog, so that people learn there whether one runs and works."""

import contextlib
from collections.abc import Callable
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.chunkers import announce_chunker, forget_chunker
from libs.errors import BackcastError
from libs.runtime.health import Check, Health
from libs.runtime.loops import Loop

#: `libs.catalogdb.sessions.chunkers.CHUNKER_SILENT_SECONDS` is six times as long.
_INTERVAL_SECONDS = 5.0
_LOOP = "announce"


class Announcer:
    """For one loop. The process is ready once it was announced.

    Args:
        catalog: the catalog, in the chunker's role.
        chunker: this run of the process.
        name: of the chunker, for people.
        health: what is told of it.
        partitions: how many partitions it reads now.
    """

    def __init__(
        self,
        catalog: Catalog,
        chunker: UUID,
        name: str,
        health: Health,
        partitions: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._chunker = chunker
        self._name = name
        self._health = health
        self._partitions = partitions
        self._is_known = False

    def loop(self) -> Loop:
        """The loop that announces it."""
        return Loop(
            _LOOP, lambda _stop, _progressed: self.announce(), _INTERVAL_SECONDS, again_seconds=1.0
        )

    def announce(self) -> None:
        """Say that it runs, what it reads, and why it is not ready.

        Raises:
            UnavailableError: the catalog does not answer.
        """
        trouble = "; ".join(_told(self._health.ready()))
        self._is_known = False
        announce_chunker(self._catalog, self._chunker, self._name, self._partitions(), trouble)
        self._is_known = True
        self._health.started()

    def leave(self) -> None:
        """It ends in order. Where the catalog did not answer last, its row ends by its age."""
        if self._is_known:
            with contextlib.suppress(BackcastError):
                forget_chunker(self._catalog, self._chunker)


def _told(checks: list[Check]) -> list[str]:
    """What keeps it from its work. The start is over, and the catalog answers, once it is told."""
    wrong = [one for one in checks if not one.ok and (one.is_needed or one.is_server)]
    return [f"{one.name}: {one.reason}" for one in wrong if one.name not in ("startup", _LOOP)]
