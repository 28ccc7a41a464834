"""Which life of the catalog this is, and whether it may decide anything (scenario 12).

Postgres may come back in an earlier state: an asynchronous fail-over, yesterday's dump, a copied
data directory. The catalog cannot know that by itself, so two things are required before it acts:

* *compared*: this life of the server was compared with the checkpoints in the store. Any restart,
  promotion or load of a dump begins another life (`catalog_life()` in the schema). Until then
  nothing is appended to the log.
* *reconciled*: the catalog knows what the store knows. Until then no session is opened or sealed
  and nothing is condemned or swept. Restores go on.

Order of a new incarnation: its number is claimed in the store → `begin_incarnation` (one
transaction: number, positions, every open session rejected) → reconciled step by step → a
checkpoint is durable → `finish_reconciling`. A crash after any step leaves a catalog that is not
reconciled, and the catalog service goes on when it starts.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from libs.catalogdb.connecting import connect
from libs.catalogdb.pool import Catalog, Tx, translated
from libs.catalogdb.recovery.changes import (
    RecordedLink,
    count_dirty,
    read_chain,
    read_changes_after,
)
from libs.catalogdb.recovery.checkpoint_rows import read_rows
from libs.catalogdb.rows import one_row
from libs.checkpoints.rows import GoneRow, Row
from libs.errors import NotReconciledError

_NOT_COMPARED = (
    "catalog: its Postgres was started, promoted or restored since it was compared with the "
    "store; the catalog service does that within seconds, if it runs and reaches the store, unless "
    "it waits for a person: `backcast catalog status` says for what"
)
_NOT_RECONCILED = (
    "catalog: it went back in time and is being reconciled with the store; restores go on, other "
    "work waits. `backcast catalog status` says how far it is"
)


@dataclass(frozen=True, slots=True)
class Incarnation:
    """The catalog's row about itself."""

    number: int
    #: Whether this life of the server was compared with the store.
    compared: bool
    reconciled: bool
    #: Number of the newest checkpoint that was begun, and of the newest one known to be durable.
    checkpoint: int
    durable: int
    #: Whether nothing was ever decided in this catalog.
    empty: bool
    #: Whether it is another server, database or table than at the last comparison.
    moved: bool


def require_compared(tx: Tx) -> None:
    """Refuse to act in a life of the server that was not compared with the store.

    Raises:
        NotReconciledError: it was not; trying again later may help.
    """
    row = tx.execute("SELECT life = catalog_life() FROM incarnation").fetchone()
    if not (row and row[0]):
        raise NotReconciledError(_NOT_COMPARED)


def require_reconciled(tx: Tx) -> None:
    """Refuse to act in a catalog that may be older than the store. Call it first.

    The row stays locked until the transaction ends, so a new incarnation begins before it or after
    it, never beside it.

    Raises:
        NotReconciledError: not compared or not reconciled; trying again later may help.
    """
    _require(
        tx.execute("SELECT life = catalog_life(), reconciled FROM incarnation FOR SHARE").fetchone()
    )


def is_whole(tx: Tx) -> bool:
    """Whether the catalog knows what the store knows. What is read afterwards has all of it.

    Locks nothing, for readers of all roles.
    """
    row = tx.execute("SELECT life = catalog_life() AND reconciled FROM incarnation").fetchone()
    return bool(row and row[0])


def require_whole(tx: Tx) -> None:
    """Refuse to conclude anything from what was not found: the catalog may not have it yet.

    Look again afterwards: it may have come meanwhile. Locks nothing, for readers of all roles.

    Raises:
        NotReconciledError: as `require_reconciled`.
    """
    _require(tx.execute("SELECT life = catalog_life(), reconciled FROM incarnation").fetchone())


def _require(row: tuple[bool, bool] | None) -> None:
    """Refuse unless this life of the server was compared, and the catalog is reconciled."""
    if not (row and row[0]):
        raise NotReconciledError(_NOT_COMPARED)
    if not row[1]:
        raise NotReconciledError(_NOT_RECONCILED)


def read_incarnation(catalog: Catalog) -> Incarnation:
    """The catalog's row about itself."""
    with catalog.transaction() as tx:
        found = one_row(
            tx,
            Incarnation,
            """SELECT number, life = catalog_life() AS compared, reconciled, checkpoint, durable,
                      NOT EXISTS (SELECT FROM domain) AND NOT EXISTS (SELECT FROM event_log)
                          AS empty,
                      split_part(life, ' ', 1) <> split_part(catalog_life(), ' ', 1) AS moved
               FROM incarnation""",
        )
    assert found is not None
    return found


def record_comparison(catalog: Catalog) -> None:
    """This life of the server was compared with the store, and is not behind it."""
    with catalog.transaction() as tx:
        tx.execute("UPDATE incarnation SET life = catalog_life()")


@dataclass(frozen=True, slots=True)
class CatalogState:
    """A moment of the catalog, to be written as a checkpoint. Valid within `reading_state`."""

    incarnation: int
    number: int
    #: Last position per topic.
    positions: dict[str, int]
    #: The chain that this checkpoint may build on; empty: it must be a base.
    chain: tuple[RecordedLink, ...]
    #: How many rows changed since the chain's last link.
    dirty: int
    #: `pg_snapshot` of the moment.
    moment: str
    tx: Tx

    def rows_after(self, kept: int) -> Iterator[Row | GoneRow]:
        """What changed after so many links of the chain; 0: all rows."""
        if not kept:
            return read_rows(self.tx)
        return read_changes_after(self.tx, self.chain[kept - 1].link.number)


def begin_checkpoint(catalog: Catalog) -> int:
    """Take the number of a new checkpoint; a crash after it leaves a number that is never used.

    Raises:
        NotReconciledError: this life of the server was not compared with the store. Its state may
            be an earlier one than that of the newest checkpoint.
    """
    with catalog.transaction() as tx:
        require_compared(tx)
        row = tx.execute(
            "UPDATE incarnation SET checkpoint = checkpoint + 1 RETURNING checkpoint"
        ).fetchone()
    assert row is not None
    return int(row[0])


@contextlib.contextmanager
def reading_state(catalog: Catalog, number: int) -> Iterator[CatalogState | None]:
    """The catalog at one moment at which ``number`` was the newest number taken.

    None if somebody has taken a later one: of two checkpoints the one with the higher number is
    then always of the later moment, without any lock.
    """
    with catalog.transaction() as tx:
        tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = tx.execute("SELECT number, checkpoint FROM incarnation").fetchone()
        assert row is not None
        if row[1] != number:
            yield None
            return
        positions = dict(tx.execute("SELECT topic, last FROM log_position").fetchall())
        moment = tx.execute("SELECT pg_current_snapshot()::text").fetchone()
        assert moment is not None
        yield CatalogState(
            row[0], number, positions, read_chain(tx), count_dirty(tx), moment[0], tx
        )


def doubt_new(dsn: str) -> None:
    """A catalog in which nothing was decided yet waits until it was compared with its store.

    Args:
        dsn: connection of the owner, who has just set it up: its store may have a history.
    """
    with translated(), connect(dsn) as tx:
        tx.execute(
            """UPDATE incarnation SET life = split_part(catalog_life(), ' ', 1) || ' 0'
               WHERE NOT EXISTS (SELECT FROM domain) AND NOT EXISTS (SELECT FROM event_log)"""
        )
