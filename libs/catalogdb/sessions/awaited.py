"""Whom an open session waits for: an agent, a chunker, or that a chunker takes its capture."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.rows import all_rows

#: An agent announces itself every 15 s: one that did not for so long is silent.
NODE_SILENT_SECONDS = 35.0


@dataclass(frozen=True, slots=True)
class AwaitedPart:
    """A volume of an open session that is not finished."""

    capture: UUID
    volume: str
    #: The node that captures it.
    node: str
    #: Name of the chunker that stores it; None: no chunker has taken it yet.
    chunker: str | None
    #: The session's volumes are not cut yet, so nothing is captured.
    before_cut: bool
    #: Since when the node's agent has not announced itself.
    node_silent_seconds: float

    def describe(self, *, is_agent_silent: bool) -> str:
        """Whom it waits for, for people.

        Args:
            is_agent_silent: nothing was heard of the capture from its agent.
        """
        if self.before_cut:
            return f"the agent of node {self.node}, at the barrier of volume {self.volume}"
        if is_agent_silent or self.node_silent_seconds > NODE_SILENT_SECONDS:
            return f"the agent of node {self.node}, which captures volume {self.volume}"
        if self.chunker is None:
            return (
                f"a chunker: none has taken the capture of volume {self.volume} yet (does one run, "
                f"and does Kafka?)"
            )
        return (
            f"chunker {self.chunker}, which stores volume {self.volume} from the agent of node "
            f"{self.node}"
        )


def awaited_parts(catalog: Catalog, session: UUID) -> list[AwaitedPart]:
    """The volumes of an open session that are not finished; none once it has ended."""
    with catalog.reading() as tx:
        return _awaited(tx, session)


def deadline_message(tx: Tx, session: UUID) -> str:
    """Why a session made no progress, as far as the catalog knows."""
    return (
        f"no progress before the deadline; it waited for {listed(_awaited(tx, session))}. The log "
        f"and /readyz of that service say what is wrong; then take the snapshot again"
    )


def listed(parts: Sequence[AwaitedPart], silent: Collection[UUID] = ()) -> str:
    """Whom all of them wait for, each once.

    Args:
        parts: what is not finished.
        silent: captures of which their agents have said nothing.
    """
    texts = [one.describe(is_agent_silent=one.capture in silent) for one in parts]
    return "; ".join(dict.fromkeys(texts)) or "a chunker that seals it"


def _awaited(tx: Tx, session: UUID) -> list[AwaitedPart]:
    return all_rows(
        tx,
        AwaitedPart,
        """SELECT p.capture, v.name AS volume, n.name AS node, a.chunker,
                  s.cut_attempt > 0 AND s.cut_at IS NULL AS before_cut,
                  extract(epoch FROM now() - n.seen_at)::float8 AS node_silent_seconds
           FROM session s JOIN part p USING (session) JOIN volume v USING (volume_no)
           JOIN node n USING (node_no) LEFT JOIN attempt a ON a.attempt = p.attempt
           WHERE s.session = %s AND s.state = 'o' AND p.state <> 'f' ORDER BY v.name""",
        [session],
    )
