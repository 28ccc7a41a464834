"""Beginning and finishing an incarnation; `libs.catalogdb.recovery.incarnation` has the order."""

from uuid import UUID

from libs.catalogdb.log.log import append
from libs.catalogdb.notifications.opening import Kind, resolve_others
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.changes import forget_chain
from libs.catalogdb.sessions.session import reject
from libs.catalogdb.sessions.telling import tell_rejected
from libs.events.positions import positions_begin


def begin_incarnation(catalog: Catalog, number: int) -> None:
    """Begin an incarnation: nothing is decided until it is reconciled, and no position is reused.

    The number must be claimed in the store before. Attempts of open sessions close with all their
    pins, so nothing that chunkers still do is registered; the sessions themselves may turn out to
    be sealed. Harmless if repeated.
    """
    with catalog.transaction() as tx:
        begun = tx.execute(
            """UPDATE incarnation SET number = %s, life = catalog_life(), reconciled = false,
                      checkpoint = 0, durable = 0
               WHERE number < %s""",
            [number, number],
        )
        if not begun.rowcount:  # this life of the server is a later one of the same incarnation
            tx.execute("UPDATE incarnation SET life = catalog_life()")
            return
        forget_chain(tx)
        tx.execute(
            """WITH closed AS (UPDATE attempt SET open = false WHERE open RETURNING attempt)
               DELETE FROM pin WHERE owner IN (SELECT attempt FROM closed)"""
        )
        # What was seen, or accepted, in the forgotten time was another state of things.
        tx.execute("DELETE FROM suspect")
        tx.execute("DELETE FROM halt")
        tx.execute("UPDATE log_position SET last = greatest(last, %s)", [positions_begin(number)])
        reason = "the catalog went back in time; what is suspect is looked at anew"
        append(tx, "catalog", resolve_others(tx, Kind.BRAKE_ENGAGED, [], reason))


def reject_forgotten(catalog: Catalog) -> list[UUID]:
    """Reject the sessions that are still open after everything was taken back; their ids."""
    message = "the catalog went back in time while the snapshot was made; take it again"
    with catalog.transaction() as tx:
        rows = tx.execute(
            """SELECT session FROM session JOIN volume_group USING (group_no)
               WHERE state = 'o' ORDER BY tenant_no"""
        )
        sessions = [row[0] for row in rows]
        told = [reject(tx, session, "catalog-went-back", message) for session in sessions]
        rejected = [entry for entries in told for entry in entries]
        append(tx, "catalog", rejected)
    tell_rejected(rejected)
    return sessions


def finish_reconciling(catalog: Catalog) -> None:
    """The catalog knows what the store knows: sessions, collection and sweeps may go on."""
    with catalog.transaction() as tx:
        tx.execute("UPDATE incarnation SET reconciled = true")
