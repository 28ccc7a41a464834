"""Notes on snapshots: what people want to remember about a recovery point.

A snapshot never changes. Its note is beside it: in the catalog, in an event, and in the next
checkpoint. It decides nothing, and goes with the snapshot.
"""

from uuid import UUID

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.errors import NotFoundError
from libs.events.snapshots import SnapshotNoted


def note_snapshot(catalog: Catalog, tenant: str, session: UUID, by: str, note: str | None) -> None:
    """Write a note on a live snapshot, in the place of the one that it has; the same one is none.

    Args:
        catalog: the catalog.
        tenant: whose snapshot.
        session: the snapshot.
        by: name of whoever asks, 1 to 63 characters.
        note: for people, at most 2000 characters; None: no note any more.

    Raises:
        NotFoundError: the tenant has no live snapshot of this id.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        require_reconciled(tx)
        row = tx.execute(
            """SELECT g.group_id, s.sequence, s.note IS NOT DISTINCT FROM %s
               FROM snapshot s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
               WHERE s.session = %s AND t.name = %s AND s.state = 'l' FOR UPDATE OF s""",
            [note, session, tenant],
        ).fetchone()
        if row is None:
            raise NotFoundError(
                f"snapshot {session}: tenant {tenant} has no live snapshot of this id"
            )
        group, sequence, is_same = row
        if is_same:
            return
        tx.execute("UPDATE snapshot SET note = %s WHERE session = %s", [note, session])
        event = SnapshotNoted(session=session, group=group, sequence=sequence, by=by, note=note)
        append(tx, "catalog", [Entry(event, tenant, str(group), session)])
