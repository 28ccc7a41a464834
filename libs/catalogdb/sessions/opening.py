"""What opening a session asks and writes besides its own row, in the transaction that opens it."""

import os
from uuid import UUID

from libs.catalogdb.pool import Tx
from libs.catalogdb.tenants import require_room
from libs.errors import NotFoundError, PausedError
from libs.ids import uuid7

#: Bytes of the secret that authenticates one capture's events and span connections.
TOKEN_SIZE_BYTES = 32


def require_admission(tx: Tx, tenant: str, group: str, group_no: int) -> None:
    """See to it that a group may begin a snapshot now. The caller has locked the group.

    Raises:
        PausedError: somebody has paused it; says who and why.
        NotFoundError: all its volumes were removed.
        OutOfSpaceError: its tenant has reached its quota.
    """
    row = tx.execute(
        """SELECT paused_by, paused_reason,
                  EXISTS (SELECT FROM volume v
                          WHERE v.group_no = g.group_no AND v.removed_at IS NULL)
           FROM volume_group g WHERE group_no = %s""",
        [group_no],
    ).fetchone()
    assert row is not None
    paused_by, reason, has_volumes = row
    if paused_by is not None:
        raise PausedError(
            f"group {group}: {paused_by} has paused it: {reason}; "
            f"`backcast volume resume {group}` ends that"
        )
    if not has_volumes:
        raise NotFoundError(
            f"group {group}: all volumes of it were removed from tenant {tenant}; "
            f"`backcast volume list --removed` shows them, `backcast volume add` takes one back"
        )
    require_room(tx, tenant)


def insert_parts(tx: Tx, session: UUID, group_no: int, base: UUID | None) -> None:
    """A part for each volume that the group has now, with its place as it is now."""
    volumes = tx.execute(
        """SELECT volume_no, node_no, path, freeze_mount, driver
           FROM volume JOIN source USING (volume_no)
           WHERE group_no = %s AND lead AND removed_at IS NULL""",
        [group_no],
    ).fetchall()
    for volume_no, node_no, path, freeze, driver in volumes:
        token = os.urandom(TOKEN_SIZE_BYTES)
        tx.execute(
            """INSERT INTO part (session, volume_no, node_no, path, freeze_mount, driver, capture,
                                 token, base_root, base_level, base_size_bytes)
               SELECT %s, %s, %s, %s, %s, %s, %s, %s,
                      b.root, coalesce(b.root_level, 0), coalesce(b.size_bytes, 0)
               FROM (VALUES (1)) one
               LEFT JOIN snapshot_volume b ON b.session = %s AND b.volume_no = %s""",
            [session, volume_no, node_no, path, freeze, driver, uuid7(), token, base, volume_no],
        )


def lock_live(tx: Tx, snapshot: UUID | None) -> UUID | None:
    """The snapshot if it is live; it stays so until the transaction ends.

    The session's row then pins it: retention must find either the row or this lock. A statement of
    its own, after the group was locked: a snapshot that was sealed while we waited for the group is
    not seen by the statement that waited.
    """
    live = tx.execute(
        "SELECT 1 FROM snapshot WHERE session = %s AND state = 'l' FOR SHARE", [snapshot]
    ).fetchone()
    return snapshot if live else None
