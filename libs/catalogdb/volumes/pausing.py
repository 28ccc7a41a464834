"""Groups that take no snapshots for a while, because somebody said so.

A paused group opens no sessions; one that is open goes on. Retention gives up none of its recovery
points meanwhile, as it would otherwise, by their age and with nothing new, down to those that it
keeps at any age. A person still expires them by name.

The lock of the group orders a pause against sessions that open, and against expiry.
"""

from dataclasses import dataclass
from datetime import datetime

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog
from libs.catalogdb.rows import one_row
from libs.catalogdb.volumes.locking import lock_existing_group, lock_names
from libs.events.snapshots import GroupPaused, GroupResumed


@dataclass(frozen=True, slots=True)
class Pause:
    """Whether a group is paused."""

    group: str
    #: Its volumes that are protected.
    volumes: list[str]
    by: str | None
    reason: str | None
    at: datetime | None


def pause(catalog: Catalog, tenant: str, name: str, by: str, reason: str) -> Pause:
    """Let a group take no snapshots until it is resumed; another reason replaces the first one.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: of the group, or of one of its volumes.
        by: name of whoever asks, 1 to 63 characters.
        reason: for people, 1 to 2000 characters.

    Raises:
        NotFoundError: the tenant has no such volume or group.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        group = lock_existing_group(tx, tenant, name)
        changed = tx.execute(
            """UPDATE volume_group SET paused_at = now(), paused_by = %(by)s,
                                       paused_reason = %(reason)s
               WHERE group_no = %(group)s
                 AND (paused_by, paused_reason) IS DISTINCT FROM (%(by)s, %(reason)s)""",
            {"group": group.group_no, "by": by, "reason": reason},
        )
        if changed.rowcount:
            event = GroupPaused(group=group.group_id, by=by, reason=reason)
            append(tx, "coordinator", [Entry(event, tenant, str(group.group_id))])
    return read_pause(catalog, tenant, group.group)


def resume(catalog: Catalog, tenant: str, name: str, by: str) -> Pause:
    """End the pause of a group; one that is not paused stays as it is. Raises as `pause` does."""
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        group = lock_existing_group(tx, tenant, name)
        if group.paused_by is not None:
            tx.execute(
                """UPDATE volume_group SET paused_at = NULL, paused_by = NULL, paused_reason = NULL
                   WHERE group_no = %s""",
                [group.group_no],
            )
            event = GroupResumed(group=group.group_id, by=by)
            append(tx, "coordinator", [Entry(event, tenant, str(group.group_id))])
    return read_pause(catalog, tenant, group.group)


def read_pause(catalog: Catalog, tenant: str, group: str) -> Pause:
    """Whether a group is paused now."""
    with catalog.transaction() as tx:
        found = one_row(
            tx,
            Pause,
            """SELECT g.name AS group, g.paused_by AS by, g.paused_reason AS reason,
                      g.paused_at AS at,
                      ARRAY(SELECT v.name FROM volume v WHERE v.group_no = g.group_no
                            AND v.removed_at IS NULL ORDER BY v.name) AS volumes
               FROM volume_group g JOIN tenant t USING (tenant_no)
               WHERE t.name = %s AND g.name = %s""",
            [tenant, group],
        )
    assert found is not None  # groups are never deleted
    return found
