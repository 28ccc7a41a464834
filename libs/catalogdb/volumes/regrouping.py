"""Another group for a volume.

References are counted in the sequences of a group (`pack_use`), and a recovery point NAME@3 is the
third of a group. So the history of a volume can never leave its group. A volume that changes its
group therefore becomes a new one, with a number and id of its own: the volume of before is removed
and keeps its history under another name, and a volume of its name and place is added to the other
group. Its first snapshot there is a first one: it is read and counted as a whole, and stores what
is not there yet.

The history stays under the rule of the group that it was in, and later snapshots are kept by that
of the other group. Where the other group keeps fewer, or at fewer stores, regrouping shortens what
is kept of the volume, as a shorter rule would (`libs.catalogdb.snapshots.retention`). So it needs
the same right. A group that is made keeps everything, at as many stores as the one before.

Both groups change with their next snapshots. The group that it leaves must have no open session,
because that has a part of it. An open session of the group that it joins goes on without it.
"""

from dataclasses import dataclass

from libs.catalogdb.log.log import append
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.protected import Volume, insert_volume, read_volume, refuse_shared_name
from libs.catalogdb.snapshots.retention import Kept, read_kept
from libs.catalogdb.volumes.locking import (
    count_points,
    lock_names,
    lock_protected,
    refuse_taken_name,
    refuse_while_open,
)
from libs.catalogdb.volumes.removing import mark_removed
from libs.catalogdb.volumes.renaming import rename_group, rename_volume
from libs.catalogdb.volumes.sharing import copy_followers
from libs.errors import ForbiddenError
from libs.events.fields import NAME_LENGTH_MAX


@dataclass(frozen=True, slots=True)
class Regrouped:
    """A volume in another group."""

    volume: Volume
    #: Under which name its history up to now goes, in the group that it left; None: it was in this
    #: group already.
    kept_as: str | None
    #: Its recovery points there.
    points: int


def regroup(  # noqa: PLR0913 -- a volume, names for both of its parts, and how far the caller may go
    catalog: Catalog,
    tenant: str,
    name: str,
    group: str,
    by: str,
    kept_as: str | None = None,
    *,
    may_shorten: bool,
) -> Regrouped:
    """Put a volume into another group, which is made if need be.

    Args:
        catalog: the catalog.
        tenant: name of the tenant.
        name: the volume.
        group: name of the other group.
        by: name of whoever asks.
        kept_as: name for its history up to now; None: the first free one of NAME-1, NAME-2, …
        may_shorten: whether the caller may have fewer snapshots or copies kept than before.

    Raises:
        NotFoundError: the tenant has no such volume.
        ForbiddenError: the other group keeps less, and the caller may not do that.
        ConflictError: it was removed, a session of its group is open, or a name is taken.
        NotReconciledError: the catalog may have gone back in time.
    """
    with catalog.transaction() as tx:
        lock_names(tx, tenant)
        volume = lock_protected(tx, tenant, name)
        if volume.of.group == group:
            return Regrouped(read_volume(tx, tenant, name), None, 0)
        refuse_while_open(volume.of, "the volume cannot leave it")
        kept = read_kept(tx, volume.of.group_no)
        joined = _kept_of(tx, tenant, group)
        if joined and not may_shorten and not joined.keeps_all_of(kept):
            raise ForbiddenError(
                f"volume {name}: group {group} keeps {joined} instead of {kept}, as group "
                f"{volume.of.group} does; to put the volume there needs role delete, because that "
                f"may give recovery points up; whoever backs up may only keep more"
            )
        kept_as = kept_as or _free_name(tx, tenant, name)
        refuse_taken_name(tx, tenant, kept_as)
        entries = [rename_volume(tx, tenant, volume, kept_as)]
        if volume.of.group == name:
            entries.append(rename_group(tx, tenant, volume.of, kept_as))
        entries.append(mark_removed(tx, tenant, volume, by))
        refuse_shared_name(tx, tenant, name, group)
        place = volume.node, volume.path, volume.freeze, volume.driver
        insert_volume(tx, tenant, name, group, *place)
        copy_followers(tx, volume, tenant, name)
        if joined is None:
            _set_copies(tx, tenant, group, kept.copies)
        append(tx, "coordinator", entries)
        points = count_points(tx, volume.volume_no)
        return Regrouped(read_volume(tx, tenant, name), kept_as, points)


def _kept_of(tx: Tx, tenant: str, group: str) -> Kept | None:
    """What is kept of the group of this name; None: there is none yet."""
    row = tx.execute(
        """SELECT group_no FROM volume_group g JOIN tenant t USING (tenant_no)
           WHERE t.name = %s AND g.name = %s""",
        [tenant, group],
    ).fetchone()
    return read_kept(tx, row[0]) if row else None


def _set_copies(tx: Tx, tenant: str, group: str, copies: int) -> None:
    tx.execute(
        """UPDATE volume_group g SET copies = %s FROM tenant t
           WHERE t.tenant_no = g.tenant_no AND t.name = %s AND g.name = %s""",
        [copies, tenant, group],
    )


def _free_name(tx: Tx, tenant: str, name: str) -> str:
    taken = {
        row[0]
        for row in tx.execute(
            """SELECT v.name FROM volume v JOIN tenant t USING (tenant_no) WHERE t.name = %(tenant)s
               UNION SELECT g.name FROM volume_group g JOIN tenant t USING (tenant_no)
               WHERE t.name = %(tenant)s""",
            {"tenant": tenant},
        )
    }
    tails = (f"-{number}" for number in range(1, len(taken) + 2))
    names = (name[: NAME_LENGTH_MAX - len(tail)] + tail for tail in tails)
    return next(one for one in names if one not in taken)
