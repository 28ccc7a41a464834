"""What an agent's announcement opens and resolves: it is not silent, and its disk may be full."""

from dataclasses import dataclass

from libs.catalogdb.log.log import Entry
from libs.catalogdb.notifications.opening import (
    EVERYBODY,
    Finding,
    Kind,
    is_compared,
    open_notification,
    resolve_notifications,
)
from libs.catalogdb.pool import Tx

#: With less of a disk free it is as good as full, and with more than the other it is not any more.
FULL_SHARE, ROOMY_SHARE = 0.05, 0.07


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Room on a file system."""

    free_bytes: int
    size_bytes: int

    @property
    def free_share(self) -> float:
        """0 to 1; 1 where there is no size."""
        return self.free_bytes / self.size_bytes if self.size_bytes else 1.0


def tell_announced(tx: Tx, node: str, disk: DiskSpace | None) -> list[Entry]:
    """An agent has announced itself, which is written already; what to append to the log."""
    about = f"node/{node}"
    # Mostly nothing is open and nothing is wrong: one look then, every few seconds for each node.
    is_open = tx.execute(
        """SELECT FROM notification WHERE (kind, about) IN ((%s, %s), (%s, %s)) LIMIT 1""",
        [Kind.NODE_SILENT, node, Kind.DISK_FULL, about],
    ).fetchone()
    is_full = disk is not None and disk.free_share < FULL_SHARE
    if (is_open is None and not is_full) or not is_compared(tx):
        return []
    told = resolve_notifications(tx, Kind.NODE_SILENT, [node], "its agent has announced itself")
    if is_full:
        told += open_notification(tx, _full(node, about))
    elif disk is not None and disk.free_share >= ROOMY_SHARE:
        told += resolve_notifications(tx, Kind.DISK_FULL, [about], "there is room again")
    return told


def _full(node: str, about: str) -> Finding:
    return Finding(
        kind=Kind.DISK_FULL,
        about=about,
        tenant=EVERYBODY,
        severity="warning",
        message=(
            f"node {node}: less than {FULL_SHARE:.0%} of the file system is free where its agent "
            f"keeps its state; when it is full, fingerprints are not saved and every snapshot "
            f"compares everything. Make room there"
        ),
        names={"node": node},
    )
