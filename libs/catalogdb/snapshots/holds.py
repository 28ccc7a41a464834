"""Holds: a person or program forbids a snapshot to expire, until it says otherwise."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import all_rows, one_row
from libs.errors import NotFoundError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.snapshots import HoldPlaced, HoldReleased


@dataclass(frozen=True, slots=True)
class Hold:
    """One owner's hold on a snapshot."""

    session: UUID
    owner: str
    reason: str
    placed_at: datetime


def place_hold(catalog: Catalog, tenant: str, session: UUID, owner: str, reason: str) -> Hold:
    """Hold a live snapshot; holding it again gives another reason.

    Raises:
        NotFoundError: the tenant has no live snapshot of this id.
    """
    with catalog.transaction() as tx:
        # As leases lock it: an expiry is through, or waits and then finds the hold.
        snapshot = tx.execute(
            """SELECT g.group_id FROM snapshot s JOIN volume_group g USING (group_no)
               JOIN tenant t USING (tenant_no)
               WHERE s.session = %s AND t.name = %s AND s.state = 'l' FOR SHARE OF s""",
            [session, tenant],
        ).fetchone()
        if snapshot is None:
            raise NotFoundError(
                f"snapshot {session}: tenant {tenant} has no live snapshot of this id"
            )
        reason = reason[:MESSAGE_LENGTH_MAX]
        hold = one_row(
            tx,
            Hold,
            """INSERT INTO hold (session, owner, reason) VALUES (%s, %s, %s)
               ON CONFLICT (session, owner) DO UPDATE SET reason = excluded.reason
               RETURNING session, owner, reason, placed_at""",
            [session, owner, reason],
        )
        assert hold is not None
        event = HoldPlaced(session=session, group=snapshot[0], owner=owner, reason=reason)
        append(tx, "catalog", [Entry(event, tenant, str(snapshot[0]), session)])
        return hold


def release_hold(catalog: Catalog, tenant: str, session: UUID, owner: str) -> bool:
    """Give up an owner's hold; whether there was one."""
    with catalog.transaction() as tx:
        released = tx.execute(
            """DELETE FROM hold h
               USING snapshot s JOIN volume_group g USING (group_no) JOIN tenant t USING (tenant_no)
               WHERE h.session = %s AND h.owner = %s AND s.session = h.session AND t.name = %s
               RETURNING g.group_id""",
            [session, owner, tenant],
        ).fetchone()
        if released is None:
            return False
        event = HoldReleased(session=session, group=released[0], owner=owner)
        append(tx, "catalog", [Entry(event, tenant, str(released[0]), session)])
        return True


def list_holds(catalog: Catalog, tenant: str) -> list[Hold]:
    """The holds on the tenant's snapshots, oldest first."""
    with catalog.transaction() as tx:
        return all_rows(
            tx,
            Hold,
            """SELECT h.session, h.owner, h.reason, h.placed_at
               FROM hold h JOIN snapshot s USING (session) JOIN volume_group g USING (group_no)
               JOIN tenant t USING (tenant_no) WHERE t.name = %s ORDER BY h.placed_at, h.owner""",
            [tenant],
        )
