"""The rows that a change of a volume or group locks first, and what it then knows of them.

Order of locks: the tenant, so that names are given one at a time; then the group, as sessions and
expiry do. A session that is open then was seen, and none opens before the change is committed.
"""

from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.pool import Tx
from libs.catalogdb.recovery.incarnation import require_reconciled
from libs.catalogdb.rows import one_row
from libs.errors import ConflictError, NotFoundError


@dataclass(frozen=True, slots=True)
class LockedGroup:
    """A group whose row is locked."""

    group_no: int
    group_id: UUID
    group: str
    head_sequence: int
    paused_by: str | None
    #: Its open session, or None.
    session: UUID | None


@dataclass(frozen=True, slots=True)
class LockedVolume:
    """A volume whose group is locked."""

    volume_no: int
    volume: UUID
    name: str
    is_removed: bool
    node: str
    path: str
    freeze: str | None
    driver: str
    #: Other nodes that write it, as NODE:PATH, by name.
    followers: tuple[str, ...]
    of: LockedGroup


def lock_names(tx: Tx, tenant: str) -> None:
    """Lock the tenant: names of its volumes and groups are given one at a time.

    Raises:
        NotFoundError: there is none of this name.
        NotReconciledError: the catalog may have gone back in time.
    """
    require_reconciled(tx)
    if not tx.execute("SELECT 1 FROM tenant WHERE name = %s FOR UPDATE", [tenant]).fetchone():
        raise NotFoundError(f"tenant {tenant}: there is none of this name")


def lock_group(tx: Tx, tenant: str, name: str) -> LockedGroup | None:
    """Lock the group of this name, or the group of the volume of this name; None: there is none."""
    row = tx.execute(
        """SELECT g.group_no FROM volume_group g JOIN tenant t USING (tenant_no)
           WHERE t.name = %(tenant)s
             AND (g.name = %(name)s OR EXISTS (SELECT FROM volume v WHERE v.group_no = g.group_no
                                               AND v.name = %(name)s))
           FOR UPDATE OF g""",
        {"tenant": tenant, "name": name},
    ).fetchone()
    # A statement of its own: what others committed while the first one waited is seen.
    if row is None:
        return None
    return one_row(
        tx,
        LockedGroup,
        """SELECT group_no, group_id, name AS group, head_sequence, paused_by,
                  (SELECT session FROM session s
                   WHERE s.group_no = g.group_no AND s.state = 'o') AS session
           FROM volume_group g WHERE group_no = %s""",
        [row[0]],
    )


def lock_existing_group(tx: Tx, tenant: str, name: str) -> LockedGroup:
    """Lock the group of a volume or group.

    Raises:
        NotFoundError: the tenant has neither.
    """
    found = lock_group(tx, tenant, name)
    if found is None:
        raise NotFoundError(
            f"{name}: tenant {tenant} has no volume or group of this name; "
            f"`backcast volume list` shows what there is"
        )
    return found


def lock_volume(tx: Tx, tenant: str, name: str) -> LockedVolume | None:
    """Lock the group of the volume of this name; None: the tenant has no such volume."""
    if not _exists(tx, tenant, name):
        return None
    of = lock_existing_group(tx, tenant, name)
    return one_row(
        tx,
        lambda followers, **columns: LockedVolume(of=of, followers=tuple(followers), **columns),
        """SELECT v.volume_no, v.volume_id AS volume, v.name, v.removed_at IS NOT NULL
                  AS is_removed, n.name AS node, o.path, o.freeze_mount AS freeze,
                  o.driver,
                  ARRAY(SELECT fn.name || ':' || f.path FROM source f JOIN node fn USING (node_no)
                        WHERE f.volume_no = v.volume_no AND NOT f.lead
                        ORDER BY fn.name) AS followers
           FROM volume v JOIN tenant t USING (tenant_no)
           JOIN source o ON o.volume_no = v.volume_no AND o.lead JOIN node n USING (node_no)
           WHERE t.name = %s AND v.name = %s""",
        [tenant, name],
    )


def lock_protected(tx: Tx, tenant: str, name: str) -> LockedVolume:
    """Lock the group of a volume that is protected.

    Raises:
        NotFoundError: the tenant has no such volume.
        ConflictError: it was removed.
    """
    found = lock_volume(tx, tenant, name)
    if found is None:
        raise NotFoundError(
            f"volume {name}: tenant {tenant} has none of this name; `backcast volume list` shows "
            f"them"
        )
    if found.is_removed:
        raise ConflictError(
            f"volume {name}: was removed; `backcast volume add {name} {found.path}` takes it back"
        )
    return found


def refuse_shared(volume: LockedVolume, what: str) -> None:
    """Refuse what can only be done with a volume that one node writes.

    Raises:
        ConflictError: several nodes write it.
    """
    if volume.followers:
        others = " and ".join(volume.followers)
        raise ConflictError(
            f"volume {volume.name}: other nodes write it, too ({others}), so {what}; let them "
            f"leave first: `backcast volume leave {volume.name} --node NODE`"
        )


def refuse_while_open(group: LockedGroup, what: str) -> None:
    """Refuse a change that an open session of the group could not bear.

    Raises:
        ConflictError: a session is open; says what to do.
    """
    if group.session:
        raise ConflictError(
            f"group {group.group}: session {group.session} is taking a snapshot of it now, so "
            f"{what}; wait for it, or end it: `backcast session cancel {group.session}`"
        )


def count_points(tx: Tx, volume_no: int) -> int:
    """How many live snapshots have the volume."""
    row = tx.execute(
        """SELECT count(*) FROM snapshot s JOIN volume v USING (group_no)
           JOIN snapshot_volume p USING (session, volume_no)
           WHERE v.volume_no = %s AND s.state = 'l'""",
        [volume_no],
    ).fetchone()
    assert row is not None
    return int(row[0])


def refuse_taken_name(tx: Tx, tenant: str, name: str) -> None:
    """Refuse a name that a volume or a group has.

    Raises:
        ConflictError: one has it; a removed one keeps its name as long as it is there.
    """
    row = tx.execute(
        """SELECT 'volume', v.removed_at IS NOT NULL FROM volume v JOIN tenant t USING (tenant_no)
           WHERE t.name = %(tenant)s AND v.name = %(name)s
           UNION ALL
           SELECT 'group', false FROM volume_group g JOIN tenant t USING (tenant_no)
           WHERE t.name = %(tenant)s AND g.name = %(name)s LIMIT 1""",
        {"tenant": tenant, "name": name},
    ).fetchone()
    if row:
        kind, is_removed = row
        removed = "removed " if is_removed else ""
        raise ConflictError(
            f"{name}: a {removed}{kind} of tenant {tenant} has this name; choose another, or give "
            f"that one another: `backcast volume rename {name} NEW`"
        )


def _exists(tx: Tx, tenant: str, name: str) -> bool:
    found = tx.execute(
        """SELECT 1 FROM volume v JOIN tenant t USING (tenant_no)
           WHERE t.name = %s AND v.name = %s""",
        [tenant, name],
    )
    return found.fetchone() is not None
