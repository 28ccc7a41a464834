"""Other names for volumes and groups; what they name stays the same.

A volume is its number and id, in references, manifests and events alike. A name is a column that
people type. So a new name holds for the whole history at once: NAME@3 becomes NEW@3, and an open
session goes on and is sealed under the name that holds then. Manifests and events keep the name
of their time. The old name is free.

The new name is in the next checkpoint. A catalog that is rebuilt from manifests beyond it may find
a name given twice; `libs.catalogdb.recovery.applying` says who keeps it.
"""

from dataclasses import dataclass

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.volumes.locking import (
    LockedGroup,
    LockedVolume,
    lock_existing_group,
    lock_names,
    lock_volume,
    refuse_taken_name,
)
from libs.events.snapshots import GroupRenamed, VolumeRenamed


@dataclass(frozen=True, slots=True)
class Renamed:
    """The names that hold now."""

    #: None: only the group was meant.
    volume: str | None
    group: str


def rename(catalog: Catalog, tenant: str, name: str, new_name: str) -> Renamed:
    """Give a volume or a group another name; the same name again changes nothing.

    A volume that is alone in a group of its own name takes the group with it. A volume that was
    removed can be renamed, too, which frees its name.

    Raises:
        NotFoundError: the tenant has no such volume or group.
        ConflictError: a volume or group has the new name.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        volume = lock_volume(tx, tenant, name)
        group = volume.of if volume else lock_existing_group(tx, tenant, name)
        if name == new_name:
            return Renamed(volume.name if volume else None, group.group)
        refuse_taken_name(tx, tenant, new_name)
        entries = []
        if volume:
            entries.append(rename_volume(tx, tenant, volume, new_name))
        if group.group == name:
            entries.append(rename_group(tx, tenant, group, new_name))
        append(tx, "coordinator", entries)
        return Renamed(
            new_name if volume else None, new_name if group.group == name else group.group
        )


def rename_volume(tx: Tx, tenant: str, volume: LockedVolume, new_name: str) -> Entry:
    """Rename a volume in the caller's transaction; what to log of it."""
    tx.execute("UPDATE volume SET name = %s WHERE volume_no = %s", [new_name, volume.volume_no])
    event = VolumeRenamed(
        volume=volume.volume, group=volume.of.group_id, before=volume.name, name=new_name
    )
    return Entry(event, tenant, str(volume.of.group_id))


def rename_group(tx: Tx, tenant: str, group: LockedGroup, new_name: str) -> Entry:
    """Rename a group in the caller's transaction; what to log of it."""
    tx.execute("UPDATE volume_group SET name = %s WHERE group_no = %s", [new_name, group.group_no])
    event = GroupRenamed(group=group.group_id, before=group.group, name=new_name)
    return Entry(event, tenant, str(group.group_id))
