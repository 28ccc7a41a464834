"""Records the progress of parts, which renews their sessions' deadlines, and read positions."""

from collections.abc import Mapping
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import PartInWork, PartProgress, closed_attempts, renew
from libs.catalogdb.sessions.positions import store_offsets
from libs.kafka.consumer import Partition
from services.chunker.parts.attempts import Attempt, Attempts
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
        self._attempts.finish_waiting()
        self._store_positions()

    def _renew_all(self) -> None:
        """Record progress; let go of parts whose attempt somebody else has closed."""
        advanced, quiet = {}, {}
        for attempt in self._attempts.all():
            progress = attempt.work.progress
            if failure := attempt.work.packs.failure:  # no lane may look for a long time
                self._attempts.give_up(attempt, failure)
            elif progress == attempt.renewed:
                quiet[attempt.id] = attempt
            else:
                advanced[attempt.id] = (attempt, progress)
        if advanced:
            self._renew(advanced)
        reserved = self._attempts.all_reserved()
        looked_at = [*quiet, *reserved]
        for closed in closed_attempts(self._catalog, looked_at) if looked_at else ():
            if closed in quiet:
                self._attempts.let_go(quiet[closed])
            else:
                self._attempts.forget_reserved(closed)

    def _renew(self, advanced: Mapping[UUID, tuple[Attempt, PartProgress]]) -> None:
        parts = [
            PartInWork(attempt.id, attempt.begun, progress)
            for attempt, progress in advanced.values()
        ]
        stale = renew(self._catalog, parts, self._session_deadline_seconds)
        for attempt, progress in advanced.values():
            if attempt.id in stale:
                self._attempts.let_go(attempt)
            else:
                attempt.renewed = progress

    def _store_positions(self) -> None:
        read = self._positions.read()  # before the attempts, as `kept_back` says
        begun = [(attempt.partition, attempt.start_offset) for attempt in self._attempts.all()]
        if self._positions.read() is not read:
            # Parts may be gone that nobody has ended: a rebalance took their partitions away. Of
            # one that was taken with another part, the catalog may not know yet where it begins.
            return  # the next round stores what was read
        moved = {
            partition: offset
            for partition, offset in kept_back(read, begun).items()
            if self._stored.get(partition) != offset
        }
        if moved:
            store_offsets(
                self._catalog, {(at.topic, at.number): offset for at, offset in moved.items()}
            )
            self._stored |= moved
