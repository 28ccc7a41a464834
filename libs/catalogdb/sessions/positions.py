"""Where chunkers go on reading `block-changes`: kept here, never in Kafka.

A partition is read again from the beginning of the earliest capture whose session is still open;
what was stored before is found in the index, and captures of ended sessions are skipped, so reading
again is cheap and losing this position costs time only.
"""

from collections.abc import Mapping

from libs.catalogdb.idempotence import idempotent
from libs.catalogdb.pool import Catalog


@idempotent
def start_offset(catalog: Catalog, topic: str, partition: int) -> int | None:
    """Offset to begin at, or None: nothing is known, begin at the earliest record."""
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT least(
                   (SELECT next_offset FROM consumer_position WHERE topic = %s AND partition = %s),
                   (SELECT min(p.start_offset) FROM session s JOIN part p USING (session)
                    WHERE s.state = 'o' AND p.partition = %s))""",
            [topic, partition, partition],
        ).fetchone()
        stored = tx.execute(
            "SELECT next_offset FROM consumer_position WHERE topic = %s AND partition = %s",
            [topic, partition],
        ).fetchone()
    return int(row[0]) if row and row[0] is not None and stored else None


def store_offsets(catalog: Catalog, next_offsets: Mapping[tuple[str, int], int]) -> None:
    """Record that everything before an offset is finished; never moves backwards.

    Args:
        catalog: the catalog.
        next_offsets: by topic and partition.
    """
    partitions = sorted(next_offsets)  # one order, so that two of these never wait for each other
    with catalog.transaction() as tx:
        tx.execute(
            """INSERT INTO consumer_position (topic, partition, next_offset)
               SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[])
               ON CONFLICT (topic, partition) DO UPDATE
               SET next_offset = greatest(consumer_position.next_offset, excluded.next_offset)""",
            [
                [topic for topic, _ in partitions],
                [number for _, number in partitions],
                [next_offsets[partition] for partition in partitions],
            ],
        )
