"""Another place for the same volume: another node, another path.

The volume keeps its history, but nothing that a tracker knows of the old place says what is at the
new one. So the place is changed together with `moved_after`: every session on a base up to that
sequence is not trusted (`SessionView.is_trusted`). Its agent compares everything with the base, the
chunker accepts nothing else, and the snapshot says that its tracking was lost. The next head is of
the new place, and is trusted again.

A session that is open reads the old place, so a move waits for its end.
"""

from libs.catalogdb.log.log import Entry, append
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Volume, read_volume
from libs.catalogdb.volumes.locking import (
    LockedVolume,
    lock_names,
    lock_protected,
    refuse_shared,
    refuse_while_open,
)
from libs.catalogdb.volumes.placing import place, refuse_same_path
from libs.errors import BadInputError
from libs.events.fields import MESSAGE_LENGTH_MAX
from libs.events.snapshots import VolumeMoved


def move(  # noqa: PLR0913 -- a place
    catalog: Catalog,
    tenant: str,
    name: str,
    node: str,
    path: str,
    freeze: str | None,
    *,
    again: bool = False,
    no_freeze: bool = False,
    driver: str | None = None,
) -> Volume:
    """Let a volume be read from another place from its next snapshot on.

    To the place where it is already, it moves not at all, and its trackers stay trusted.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: the volume.
        node: the node that has it now.
        path: its path there.
        freeze: mount point of the file system to freeze while it is cut, or None.
        again: although another volume of the tenant is there already.
        no_freeze: although something was frozen before, and ``freeze`` is None.
        driver: by which driver it is read from now on; None: by the same as before.

    Raises:
        BadInputError: something was frozen before, and nobody said what is to be from now on.
        NotFoundError: no such volume or node.
        ConflictError: it was removed, a session is open, other nodes write it, or another volume is
            at that place.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        volume = lock_protected(tx, tenant, name)
        driver = driver or volume.driver
        asked = node, path, freeze, driver
        if (volume.node, volume.path, volume.freeze, volume.driver) == asked:
            return read_volume(tx, tenant, name)
        if volume.freeze and not freeze and not no_freeze:
            raise BadInputError(
                f"volume {name}: {volume.freeze} is frozen while it is cut; say what is to be "
                f"frozen at the new place (--freeze), or that nothing is (--no-freeze)"
            )
        refuse_shared(volume, "it cannot move")
        refuse_while_open(volume.of, "the volume cannot move")
        if not again:
            refuse_same_path(tx, tenant, node, path, but=name)
        place(tx, volume.volume_no, *asked)
        if (volume.node, volume.path) != (node, path):
            tx.execute(
                "UPDATE volume SET moved_after = %s WHERE volume_no = %s",
                [volume.of.head_sequence, volume.volume_no],
            )
        append(tx, "coordinator", [_moved(tenant, volume, node, path, freeze)])
        return read_volume(tx, tenant, name)


def _moved(tenant: str, volume: LockedVolume, node: str, path: str, freeze: str | None) -> Entry:
    event = VolumeMoved(
        volume=volume.volume,
        group=volume.of.group_id,
        name=volume.name,
        node=node,
        path=path[:MESSAGE_LENGTH_MAX],
        freeze=freeze and freeze[:MESSAGE_LENGTH_MAX],
    )
    return Entry(event, tenant, str(volume.of.group_id))
