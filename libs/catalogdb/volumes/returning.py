"""A removed volume that is added again: the same one, with its number and history.

It returns to its group, whose sequences its history counts in, and to its place. If the head of the
group still has it, its next capture is relative to that head; otherwise it has no base and is
counted anew.
"""

from libs.catalogdb.log.log import Entry
from libs.catalogdb.pool import Tx
from libs.catalogdb.volumes.locking import LockedVolume, count_points, refuse_shared
from libs.catalogdb.volumes.placing import place
from libs.errors import ConflictError
from libs.events.snapshots import VolumeReturned


def take_back(  # noqa: PLR0913 -- a volume and a place
    tx: Tx,
    tenant: str,
    volume: LockedVolume,
    group: str | None,
    node: str,
    path: str,
    freeze: str | None,
    driver: str,
    *,
    is_shared: bool = False,
) -> Entry:
    """Protect a removed volume again, in the caller's transaction; what to log of it.

    Raises:
        ConflictError: it has recovery points and was at another place, so it may be another one; or
            it was in another group, or several nodes wrote it and ``is_shared`` is not said.
        NotFoundError: no such node.
    """
    if not is_shared:
        refuse_shared(volume, "it must be added with them, as `--node NODE:PATH` for each")
    points = count_points(tx, volume.volume_no)
    was_there = (volume.node, volume.path, volume.freeze) == (node, path, freeze)
    if points and not was_there:
        frozen = f" --freeze {volume.freeze}" if volume.freeze else ""
        raise ConflictError(
            f"volume {volume.name}: was removed from {volume.node}:{volume.path}, and {points} "
            f"recovery points go by this name. Is it the same volume? Add it there "
            f"(--node {volume.node} {volume.path}{frozen}), then `backcast volume move` it. Is it "
            f"another one? `backcast volume rename {volume.name} NEW` frees the name"
        )
    if group not in (None, volume.of.group):
        raise ConflictError(
            f"volume {volume.name}: was removed from group {volume.of.group}; add it without "
            f"--group, then `backcast volume regroup {volume.name} {group}`"
        )
    if not was_there or volume.driver != driver:
        place(tx, volume.volume_no, node, path, freeze, driver)
    if not was_there:
        tx.execute(
            "UPDATE volume SET moved_after = %s WHERE volume_no = %s",
            [volume.of.head_sequence, volume.volume_no],
        )
    tx.execute(
        "UPDATE volume SET removed_at = NULL, removed_by = NULL WHERE volume_no = %s",
        [volume.volume_no],
    )
    event = VolumeReturned(volume=volume.volume, group=volume.of.group_id, name=volume.name)
    return Entry(event, tenant, str(volume.of.group_id))
