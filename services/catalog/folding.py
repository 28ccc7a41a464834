"""Folds what is over: ended sessions that nobody asks about, and old events that Kafka has.

Without it the catalog would grow with every snapshot that it ever took. What stays of a session is
said in `libs.catalogdb.sessions.folding`; of the log the last position of each topic, and up to
where it was folded.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from libs.catalogdb.log.log import fold_events
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.folding import fold_sessions
from libs.events.topics import RELAYED_TOPICS

log = logging.getLogger(__name__)

#: Sessions and events that are folded in one transaction.
_SESSION_COUNT, _EVENT_COUNT = 200, 5000


@dataclass(frozen=True, slots=True)
class FoldPolicy:
    """When what is over is folded."""

    #: Since a session was rejected, or its snapshot expired.
    session_grace_seconds: float
    #: Since an event happened.
    event_keep_seconds: float


class Folding:
    """Any number of them may run, in any process; each leaves alone what another works on.

    Args:
        catalog: the catalog, in the catalog service's role.
        policy: when something is folded.
        witness: returns when the store knows every decision that was made before the call.
    """

    def __init__(self, catalog: Catalog, policy: FoldPolicy, witness: Callable[[], None]) -> None:
        self._catalog = catalog
        self._policy = policy
        self._witness = witness

    def run(self, progressed: Callable[[], None]) -> None:
        """Fold all that may be folded.

        Raises:
            NotReconciledError: the catalog may have gone back in time.
            UnavailableError: catalog or store do not answer.
        """
        grace = self._policy.session_grace_seconds
        sessions = 0
        while folded := fold_sessions(self._catalog, grace, _SESSION_COUNT):
            sessions += folded
            progressed()
        self._witness()  # what the log is about to forget, a checkpoint has
        events = 0
        for topic in RELAYED_TOPICS:
            while folded := self._fold_events(topic):
                events += folded
                progressed()
        if sessions or events:
            log.info("folded", extra={"sessions": sessions, "events": events})

    def _fold_events(self, topic: str) -> int:
        return fold_events(self._catalog, topic, self._policy.event_keep_seconds, _EVENT_COUNT)
