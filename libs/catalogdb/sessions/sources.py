"""The sources of a group: which nodes write its volumes, and whether they need a barrier."""

from libs.catalogdb.pool import Tx
from libs.errors import ConflictError


def needs_barrier(tx: Tx, group_no: int) -> bool:
    """Whether volumes must be cut together, or writes to one of them must be held.

    A volume alone that nothing holds is at one moment anyway, as far as anybody can tell.

    Raises:
        ConflictError: several nodes write one of the volumes, which no driver can capture yet.
    """
    volumes = tx.execute(
        """SELECT v.name, count(*), bool_or(o.freeze_mount IS NOT NULL)
           FROM volume v JOIN source o USING (volume_no)
           WHERE v.group_no = %s AND v.removed_at IS NULL GROUP BY v.name""",
        [group_no],
    ).fetchall()
    for name, count, _ in volumes:
        if count > 1:
            raise ConflictError(
                f"volume {name}: {count} nodes write it, and the driver `scan` can capture only "
                f"what one node writes; remove the others, or wait for a driver that can"
            )
    return len(volumes) > 1 or any(held for _, _, held in volumes)
