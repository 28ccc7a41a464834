"""Volumes that are protected no more, and those that are taken back.

Removing writes no more than a mark. From then on no session has a part of the volume. Its recovery
points stay, under the same name, until they expire as those of its group do; holds stand. If the
group has other volumes, it goes on: its newer snapshots are without this volume and count for the
rule, so in the end the last point of this volume expires, too. If it has none, no snapshot comes
any more: the newest that the rule keeps by number stay, and nobody can expire the last good one.
The row keeps the name, so the name cannot be
given to another volume while the history goes by it; renaming the removed volume frees the name.

The references of the volume stay open while the group's head has it. The next seal of the group
ends them (`libs.catalogdb.sessions.sealing`), so that expiry finds what they held.

An open session has a part of the volume, so a removal waits for its end.
"""

from dataclasses import dataclass

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.volumes.locking import (
    LockedVolume,
    count_points,
    lock_names,
    lock_volume,
    refuse_while_open,
)
from libs.errors import NotFoundError
from libs.events.snapshots import VolumeRemoved


@dataclass(frozen=True, slots=True)
class Removed:
    """A volume that is protected no more."""

    name: str
    group: str
    #: Its live recovery points.
    points: int


def remove(catalog: Catalog, tenant: str, name: str, by: str) -> Removed:
    """Protect a volume no more; what was removed before stays so.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: the volume.
        by: name of whoever asks.

    Raises:
        NotFoundError: the tenant has no such volume.
        ConflictError: a session of its group is open.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        volume = lock_volume(tx, tenant, name)
        if volume is None:
            raise NotFoundError(
                f"volume {name}: tenant {tenant} has none of this name; `backcast volume list` "
                f"shows them"
            )
        points = count_points(tx, volume.volume_no)
        if not volume.is_removed:
            refuse_while_open(volume.of, "the volume cannot be removed")
            append(tx, "coordinator", [mark_removed(tx, tenant, volume, by)])
        return Removed(name, volume.of.group, points)


def mark_removed(tx: Tx, tenant: str, volume: LockedVolume, by: str) -> Entry:
    """Protect a volume no more, in the caller's transaction; what to log of it."""
    tx.execute(
        "UPDATE volume SET removed_at = now(), removed_by = %s WHERE volume_no = %s",
        [by, volume.volume_no],
    )
    event = VolumeRemoved(volume=volume.volume, group=volume.of.group_id, name=volume.name, by=by)
    return Entry(event, tenant, str(volume.of.group_id))
