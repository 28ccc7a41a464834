"""Records the progress of parts, which renews their sessions' deadlines, and read positions."""

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import closed_attempts, renew
from libs.catalogdb.sessions.positions import store_offset
from libs.kafka.consumer import Partition
from services.chunker.parts.attempts import Attempts
from services.chunker.parts.positions import Positions, kept_back


class Renewal:
    """Used by one thread.

    Args:
        catalog: the catalog, in the chunker's role.
        attempts: whose progress is recorded.
        positions: how far was read.
        session_deadline_seconds: time that progress gives a session.
    """

    def __init__(
        self,
        catalog: Catalog,
        attempts: Attempts,
        positions: Positions,
        session_deadline_seconds: float,
    ) -> None:
        self._catalog = catalog
        self._attempts = attempts
        self._positions = positions
        self._session_deadline_seconds = session_deadline_seconds
        self._stored: dict[Partition, int] = {}

    def look_after(self) -> None:
        """A round of a loop."""
        self._renew_all()
        self._store_positions()

    def _renew_all(self) -> None:
        """Record progress; let go of parts whose attempt somebody else has closed."""
        quiet = {}
        for attempt in self._attempts.all():
            progress = attempt.work.progress
            if failure := attempt.work.packs.failure:  # no lane may look for a long time
                self._attempts.give_up(attempt, failure)
            elif progress == attempt.renewed:
                quiet[attempt.id] = attempt
            elif renew(self._catalog, attempt.id, progress, self._session_deadline_seconds):
                attempt.renewed = progress
            else:
                self._attempts.let_go(attempt)
        for closed in closed_attempts(self._catalog, list(quiet)) if quiet else ():
            self._attempts.let_go(quiet[closed])

    def _store_positions(self) -> None:
        read = self._positions.read()  # before the attempts, as `kept_back` says
        begun = [(attempt.partition, attempt.start_offset) for attempt in self._attempts.all()]
        for partition, offset in kept_back(read, begun).items():
            if self._stored.get(partition) != offset:
                store_offset(self._catalog, partition.topic, partition.number, offset)
                self._stored[partition] = offset
