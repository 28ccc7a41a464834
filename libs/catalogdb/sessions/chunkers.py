"""Which chunkers run, as they themselves say: facts for people, by which nothing is decided.

A chunker writes its row every few seconds. One that ends takes its row away, and one that was
killed leaves it: the row then says since when nobody has heard of it. Everybody's clock is that of
Postgres.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows

#: A chunker announces itself every 5 s, so this is six times in a row.
CHUNKER_SILENT_SECONDS = 30.0
#: A chunker that has just started, and a rebalance, need some seconds until partitions are read.
_IDLE_SECONDS_MAX = 30.0
#: Rows of chunkers that nobody has heard of for so long are of no interest any more.
_KEPT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ChunkerState:
    """A chunker that has announced itself lately."""

    name: str
    #: Of `block-changes`, that it reads now. None where others have all.
    partitions: int
    #: Why it is not ready; empty: it is.
    trouble: str
    silent_seconds: float
    #: For how long it has read none; None: it reads some.
    idle_seconds: float | None

    @property
    def is_heard(self) -> bool:
        """Whether it still runs, as far as anybody knows."""
        return self.silent_seconds <= CHUNKER_SILENT_SECONDS


def announce_chunker(
    catalog: Catalog, chunker: UUID, name: str, partitions: int, trouble: str
) -> None:
    """Say that a chunker runs, and forget those of its name that do not, and any after an hour.

    Calling it again does no harm. Chunkers that announce themselves at once do not wait for each
    other: a row that another one deletes is skipped.

    Args:
        catalog: the catalog, in the chunker's role.
        chunker: this run of the process.
        name: of the chunker, for people.
        partitions: how many it reads.
        trouble: why it is not ready; empty: it is.
    """
    with catalog.transaction() as tx:
        tx.execute(
            """INSERT INTO chunker AS c (chunker, name, partitions, trouble, idle_since)
               VALUES (%s, %s, %s, %s, CASE WHEN %s = 0 THEN now() END)
               ON CONFLICT (chunker) DO UPDATE SET partitions = excluded.partitions,
                   trouble = excluded.trouble, seen_at = excluded.seen_at,
                   idle_since = CASE WHEN excluded.partitions = 0
                                     THEN coalesce(c.idle_since, now()) END""",
            [chunker, name, partitions, trouble, partitions],
        )
        tx.execute(
            """DELETE FROM chunker WHERE chunker IN (
                   SELECT chunker FROM chunker
                   WHERE seen_at < now() - make_interval(secs => %s)
                      OR (name = %s AND seen_at < now() - make_interval(secs => %s))
                   FOR UPDATE SKIP LOCKED)""",
            [_KEPT_SECONDS, name, CHUNKER_SILENT_SECONDS],
        )


def forget_chunker(catalog: Catalog, chunker: UUID) -> None:
    """A chunker ends in order."""
    with catalog.transaction() as tx:
        tx.execute("DELETE FROM chunker WHERE chunker = %s", [chunker])


def read_chunkers(catalog: Catalog) -> list[ChunkerState]:
    """The chunkers that have announced themselves within the last hour, by name."""
    with catalog.reading() as tx:
        return all_rows(
            tx,
            ChunkerState,
            """SELECT name, partitions, trouble,
                      extract(epoch FROM now() - seen_at)::float8 AS silent_seconds,
                      extract(epoch FROM now() - idle_since)::float8 AS idle_seconds
               FROM chunker WHERE seen_at >= now() - make_interval(secs => %s)
               ORDER BY name, chunker""",
            [_KEPT_SECONDS],
        )


def why_none_reads(chunkers: Iterable[ChunkerState]) -> str:
    """Why nobody takes captures, for people; empty: somebody does."""
    known: Sequence[ChunkerState] = list(chunkers)
    heard = [one for one in known if one.is_heard]
    if not heard:
        last = min(known, key=lambda one: one.silent_seconds, default=None)
        which = f"{last.name} was last heard of {last.silent_seconds:.0f} s ago; " if last else ""
        return (
            f"no chunker runs: {which}no snapshot is sealed. Is one started, and does it reach "
            f"Postgres?"
        )
    if all((one.idle_seconds or 0.0) > _IDLE_SECONDS_MAX for one in heard):
        names = ", ".join(sorted({one.name for one in heard}))
        return (
            f"no chunker reads captures from Kafka ({names} runs): no snapshot is sealed. Does "
            f"Kafka run? The log of the chunker says more"
        )
    return ""
