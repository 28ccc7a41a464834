"""A session's barrier in the catalog: whose attempt it is, and whether its cut counts.

The nodes hold, cut and release for one attempt. Attempts are claimed here, one after another, and
the cut counts once it is recorded here: from then on, and not before, captures may be ordered
(scenario 18). A coordinator that is late finds that its attempt is no longer the current one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import all_rows
from libs.events.fields import HoldMeans
from libs.events.snapshots import BarrierNode, BarrierReached


@dataclass(frozen=True, slots=True)
class BarrierEvidence:
    """What one node confirmed of the barrier; times are those of its own clock."""

    node: str
    means: HoldMeans
    held_at: datetime
    cut_at: datetime
    released_at: datetime
    unbroken: bool


def claim_cut(catalog: Catalog, session: UUID, barrier_seconds: float) -> int | None:
    """Begin a newer attempt at the barrier of an open session that nobody works at any more.

    Args:
        catalog: the catalog.
        session: the session.
        barrier_seconds: for so long the attempt is the caller's alone.

    Returns:
        The attempt; None if the cut is recorded, the session has ended or needs no barrier, or the
        time of the attempt before is not over.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = tx.execute(
            """UPDATE session SET cut_attempt = cut_attempt + 1,
                                  cut_until = now() + make_interval(secs => %s)
               WHERE session = %s AND state = 'o' AND cut_attempt > 0 AND cut_at IS NULL
                 AND cut_until < now() RETURNING cut_attempt""",
            [barrier_seconds, session],
        ).fetchone()
        return None if row is None else int(row[0])


def record_cut(
    catalog: Catalog,
    session: UUID,
    attempt: int,
    evidence: Sequence[BarrierEvidence],
    deadline_seconds: float,
) -> bool:
    """Make the cut of an attempt count. Recording it again is harmless.

    Returns:
        False if the attempt is not the current one, or the session has ended: the cut is void.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = tx.execute(
            """SELECT s.cut_at, g.group_id, t.name
               FROM session s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
               WHERE s.session = %s AND s.state = 'o' AND s.cut_attempt = %s FOR UPDATE OF s""",
            [session, attempt],
        ).fetchone()
        if row is None or not evidence or not all(one.unbroken for one in evidence):
            return False
        recorded_at, group, tenant = row
        if recorded_at is not None:
            return True
        tx.execute(
            """UPDATE session SET cut_at = now(), deadline = now() + make_interval(secs => %s)
               WHERE session = %s""",
            [deadline_seconds, session],
        )
        for one in evidence:
            tx.execute(
                """INSERT INTO barrier_node (session, node_no, means, held_at, cut_at, released_at,
                                             unbroken)
                   SELECT %s, node_no, %s, %s, %s, %s, %s FROM node WHERE name = %s""",
                [
                    session,
                    one.means,
                    one.held_at,
                    one.cut_at,
                    one.released_at,
                    one.unbroken,
                    one.node,
                ],
            )
        nodes = tuple(_event_node(one) for one in evidence)
        event = BarrierReached(session=session, group=group, attempt=attempt, nodes=nodes)
        append(tx, "coordinator", [Entry(event, tenant, str(group), session)])
        return True


def barrier_evidence(catalog: Catalog, session: UUID) -> list[BarrierEvidence]:
    """What the nodes of a session confirmed, by node; nothing if it needed no barrier."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            BarrierEvidence,
            """SELECT n.name AS node, means, held_at, cut_at, released_at, unbroken
               FROM barrier_node JOIN node n USING (node_no) WHERE session = %s ORDER BY n.name""",
            [session],
        )


def _event_node(one: BarrierEvidence) -> BarrierNode:
    return BarrierNode(
        node=one.node,
        means=one.means,
        held_at_us=_microseconds(one.held_at),
        cut_at_us=_microseconds(one.cut_at),
        released_at_us=_microseconds(one.released_at),
        unbroken=one.unbroken,
    )


def _microseconds(at: datetime) -> int:
    return max(0, int(at.timestamp() * 1_000_000))
