"""The sources of a group: which nodes write its volumes, and whether they need a barrier."""

from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.pool import Tx
from libs.catalogdb.rows import all_rows


@dataclass(frozen=True, slots=True)
class Follower:
    """Another node that writes a volume of a session than the one that captures it."""

    volume_no: int
    node: str
    credential: UUID | None  # of the node; None: nothing can be ordered from it
    rpc_url: str
    path: str
    driver: str


def needs_barrier(tx: Tx, group_no: int) -> bool:
    """Whether volumes must be cut together, or writes to one of them must be held.

    A volume alone that nothing holds is at one moment anyway, as far as anybody can tell. One that
    several nodes write is not.
    """
    row = tx.execute(
        """SELECT count(*) > 1 OR coalesce(bool_or(o.freeze_mount IS NOT NULL), false)
           FROM volume v JOIN source o USING (volume_no)
           WHERE v.group_no = %s AND v.removed_at IS NULL""",
        [group_no],
    ).fetchone()
    assert row is not None
    return bool(row[0])


def followers_of(tx: Tx, session: UUID) -> list[Follower]:
    """The followers of all volumes of a session, by name; they do not change while it is open."""
    return all_rows(
        tx,
        Follower,
        """SELECT p.volume_no, n.name AS node, n.credential, n.rpc_url, o.path, o.driver
           FROM part p JOIN source o USING (volume_no) JOIN node n ON n.node_no = o.node_no
           WHERE p.session = %s AND NOT o.lead ORDER BY n.name""",
        [session],
    )
