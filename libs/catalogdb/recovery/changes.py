"""What changed since the newest checkpoint, and the chain of checkpoints that the next builds on.

Triggers note the kind and key of each changed row in `checkpoint_change`, in the transaction that
changes it, with the id of that transaction. `checkpoint_link` has the chain: a base, then deltas.

Rule: *what the chain stands for equals the tables but for rows whose keys are dirty*, that is,
noted and carried by no link. A delta is read in one REPEATABLE READ transaction: the keys that are
dirty, and the rows of these keys. What it left out is as the chain has it, by the rule. Recording
it (`record_link`) keeps the rule:

* **Lost updates.** Recording clears only keys whose last note is of a transaction that the delta's
  snapshot saw. A change that commits between the reading and the recording has noted its key anew,
  with a transaction id that the snapshot did not see. One that has noted and not committed holds
  the note's lock: such a key is passed over (SKIP LOCKED) and sent again.
* **Crashes.** Keys are cleared only when the head is durable, in the transaction that records the
  link. A crash between the two leaves a checkpoint that stands by itself (what it builds on is
  there) and that no later one builds on; its keys are sent again.
* **Two services at once.** A link is recorded only if the chain is still the one that its delta
  was made for. The other one's checkpoint is durable nevertheless; its keys stay dirty.
* **Another incarnation.** `begin_incarnation` clears the chain, so that nothing that was written
  before is built upon: a catalog that went back has an earlier chain and earlier notes, and neither
  says what the store has. The next checkpoint is a base. A catalog whose life was not compared
  takes no number, so it writes nothing.

Keys stay noted with the link that carries them until the next base, because a delta that replaces
the last links of the chain must carry what they did (`libs.checkpoints.chain`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.recovery.checkpoint_rows import WRITTEN_KINDS, read_changes
from libs.checkpoints.checkpoint import Link
from libs.checkpoints.rows import GoneRow, Row


@dataclass(frozen=True, slots=True)
class RecordedLink:
    """A durable checkpoint of the catalog's chain."""

    link: Link
    #: Rows in its own parts.
    rows: int


def read_chain(tx: Tx) -> tuple[RecordedLink, ...]:
    """The chain that the next checkpoint may build on, the base first; empty: there is none."""
    links = tx.execute("SELECT number, digest, rows FROM checkpoint_link ORDER BY number")
    return tuple(
        RecordedLink(Link(number=number, digest=digest), rows) for number, digest, rows in links
    )


def count_dirty(tx: Tx) -> int:
    """How many keys changed since the chain's last link."""
    row = tx.execute("SELECT count(*) FROM checkpoint_change WHERE carried_by IS NULL").fetchone()
    assert row is not None
    return int(row[0])


def read_changes_after(tx: Tx, number: int) -> Iterator[Row | GoneRow]:
    """Rows that changed after a link of the chain, and removals, in the order of kinds."""
    for kind in WRITTEN_KINDS:
        keys = tx.execute(
            """SELECT key FROM checkpoint_change
               WHERE kind = %s AND (carried_by IS NULL OR carried_by > %s)
               ORDER BY key COLLATE "C" """,
            [kind, number],
        ).fetchall()
        yield from read_changes(tx, kind, [key for (key,) in keys])


def record_link(  # noqa: PLR0913 -- what it was made for, and what it is
    catalog: Catalog,
    incarnation: int,
    basis: Sequence[RecordedLink],
    kept: int,
    link: RecordedLink,
    moment: str,
) -> bool:
    """Record that a checkpoint is durable, and make it the last link of the chain.

    Args:
        catalog: the catalog.
        incarnation: which it was written in.
        basis: the chain as it was when the checkpoint was read.
        kept: how many links of it the checkpoint builds on; 0: it is a base.
        link: the checkpoint.
        moment: `pg_snapshot` of the transaction that read it.

    Returns:
        Whether it is a link of the chain now. False: another checkpoint was recorded meanwhile, or
        another incarnation began.
    """
    number = link.link.number
    with catalog.transaction() as tx:
        current = tx.execute(
            """UPDATE incarnation SET durable = greatest(durable, %s) WHERE number = %s
               RETURNING 1""",
            [number, incarnation],
        ).fetchone()
        if current is None or read_chain(tx) != tuple(basis):
            return False
        before = basis[kept - 1].link.number if kept else -1
        tx.execute("DELETE FROM checkpoint_link WHERE number > %s", [before])
        tx.execute(
            "INSERT INTO checkpoint_link (number, digest, rows) VALUES (%s, %s, %s)",
            [number, link.link.digest, link.rows],
        )
        if kept:
            tx.execute(
                """UPDATE checkpoint_change SET carried_by = %(number)s
                   WHERE (kind, key) IN (
                       SELECT kind, key FROM checkpoint_change
                       WHERE (carried_by IS NULL OR carried_by > %(before)s)
                         AND pg_visible_in_snapshot(changed_by, %(moment)s::pg_snapshot)
                       FOR UPDATE SKIP LOCKED)""",
                {"number": number, "before": before, "moment": moment},
            )
        else:
            tx.execute(
                """DELETE FROM checkpoint_change WHERE (kind, key) IN (
                       SELECT kind, key FROM checkpoint_change
                       WHERE pg_visible_in_snapshot(changed_by, %s::pg_snapshot)
                       FOR UPDATE SKIP LOCKED)""",
                [moment],
            )
        return True


def forget_chain(tx: Tx) -> None:
    """Nothing that was written so far is built upon: the next checkpoint is a base."""
    tx.execute("DELETE FROM checkpoint_link")
