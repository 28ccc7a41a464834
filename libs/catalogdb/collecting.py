"""Collection: packs that nothing needs are condemned, deleted and dead for ever.

Nothing is collected while the catalog has not been reconciled with the store.
"""

from dataclasses import dataclass

from libs.catalogdb.pool import Catalog


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What collection has to do."""

    #: Whether the catalog agrees with the store.
    reconciled: bool
    #: Condemned packs whose objects are not deleted for certain, and their bytes.
    tombstones: int
    tombstone_bytes: int


def read_collection_state(catalog: Catalog) -> CollectionState:
    """How collection stands."""
    with catalog.transaction() as tx:
        row = tx.execute(
            """SELECT reconciled, count(pack_no), coalesce(sum(size_bytes), 0)::bigint
               FROM incarnation LEFT JOIN pack ON state = 'c' GROUP BY reconciled"""
        ).fetchone()
    assert row is not None
    return CollectionState(*row)
