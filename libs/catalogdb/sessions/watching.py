"""What coordinators look after: which parts are open, how far agents have read, what has ended.

Each function is one transaction for many sessions, so that the work of a round does not grow with
the number of sessions times the number of their news.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows
from libs.catalogdb.sessions.session import notify_session
from libs.ids import NodeIdentity


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A volume of an open session that is not finished: what a coordinator must look after."""

    session: UUID
    capture: UUID
    node: str
    #: Which credential of the node counts.
    credential: UUID | None
    rpc_url: str
    #: Its barrier was left by whoever worked at it: somebody must begin a newer attempt.
    barrier_left: bool
    #: Its barrier has not come to a cut that counts: there is no capture yet.
    before_cut: bool


def open_parts(catalog: Catalog) -> tuple[set[UUID], list[OpenPart]]:
    """All open sessions, and their volumes that are not finished, oldest session first."""
    sessions: set[UUID] = set()
    parts: list[OpenPart] = []

    def add(session: UUID, capture: UUID | None, **columns: Any) -> None:
        sessions.add(session)
        if capture:  # a session whose parts are all finished has a row without one
            parts.append(OpenPart(session, capture, **columns))

    with catalog.reading() as tx:
        all_rows(
            tx,
            add,
            """SELECT s.session, p.capture, n.name AS node, n.credential, n.rpc_url,
                      (s.cut_attempt > 0 AND s.cut_at IS NULL AND s.cut_until < now()) IS TRUE
                          AS barrier_left,
                      s.cut_attempt > 0 AND s.cut_at IS NULL AS before_cut
               FROM session s LEFT JOIN part p ON p.session = s.session AND p.state <> 'f'
               LEFT JOIN node n USING (node_no) WHERE s.state = 'o' ORDER BY s.opened_at""",
        )
    return sessions, parts


def ended_sessions(catalog: Catalog, sessions: Collection[UUID]) -> set[UUID]:
    """Of these sessions, those that have ended."""
    with catalog.reading() as tx:
        rows = tx.execute(
            "SELECT session FROM session WHERE session = ANY(%s) AND state <> 'o'",
            [list(sessions)],
        ).fetchall()
    return {row[0] for row in rows}


def report_reads(catalog: Catalog, read_bytes: Mapping[UUID, int], deadline_seconds: float) -> None:
    """Move deadlines: an agent has read on, though it may have found nothing to publish.

    Args:
        catalog: the catalog.
        read_bytes: how far each capture is; one that has not advanced changes nothing.
        deadline_seconds: time that progress gives a session.
    """
    captures = list(read_bytes)
    with catalog.transaction() as tx:
        advanced = tx.execute(
            # In one order, as chunkers renew parts, so that nobody waits for who waits.
            """UPDATE part p SET read_bytes = r.read_bytes
               FROM (SELECT capture, r.read_bytes
                     FROM part JOIN unnest(%s::uuid[], %s::bigint[]) AS r (capture, read_bytes)
                          USING (capture)
                     WHERE state <> 'f' AND part.read_bytes < r.read_bytes
                     ORDER BY capture FOR UPDATE OF part) r
               WHERE p.capture = r.capture RETURNING p.session""",
            [captures, [read_bytes[capture] for capture in captures]],
        ).fetchall()
        sessions = sorted({row[0] for row in advanced})
        if sessions:
            tx.execute(
                """UPDATE session SET deadline = now() + make_interval(secs => %s)
                   WHERE session IN (SELECT session FROM session
                                     WHERE session = ANY(%s) AND state = 'o'
                                     ORDER BY session FOR UPDATE)""",
                [deadline_seconds, sessions],
            )
        for session in sessions:
            notify_session(tx, session)


@dataclass(frozen=True, slots=True)
class CaptureOutcome:
    """How the session of a capture has ended."""

    sealed: bool
    #: Why it was rejected; None if it was sealed or is not known.
    reject_code: str | None


@dataclass(frozen=True, slots=True)
class CapturesHeard:
    """What the catalog knows of captures that nodes have spoken of."""

    #: Session of each capture that goes on.
    sessions: Mapping[UUID, UUID]
    #: Of the others. One that nobody knows was not sealed, and neither was one of another node.
    outcomes: Mapping[UUID, CaptureOutcome]


def captures_heard(
    catalog: Catalog, captures: Sequence[tuple[NodeIdentity, UUID]]
) -> CapturesHeard:
    """What is known of captures, each with the node that speaks of it and its credential.

    A node learns and says nothing of captures that are not its own.
    """
    with catalog.reading() as tx:
        rows = tx.execute(
            """SELECT c.capture, s.session, s.state, s.reject_code
               FROM unnest(%s::text[], %s::uuid[], %s::uuid[]) AS c (node, credential, capture)
               LEFT JOIN (part p JOIN node n USING (node_no))
                 ON p.capture = c.capture AND n.name = c.node
                    AND n.credential IS NOT DISTINCT FROM c.credential
               LEFT JOIN session s USING (session)""",
            [
                [node.name for node, _ in captures],
                [node.credential for node, _ in captures],
                [capture for _, capture in captures],
            ],
        ).fetchall()
    return CapturesHeard(
        {capture: session for capture, session, state, _ in rows if state == "o"},
        {
            capture: CaptureOutcome(state == "s", code)
            for capture, _, state, code in rows
            if state != "o"
        },
    )
