"""What a node's look at its VMs opens and resolves: those that nobody protects."""

from collections.abc import Collection
from dataclasses import dataclass

from libs.catalogdb.log.log import append
from libs.catalogdb.notifications.opening import (
    EVERYBODY,
    Finding,
    Kind,
    is_compared,
    open_notification,
    resolve_notifications,
)
from libs.catalogdb.pool import Catalog, Tx


@dataclass(frozen=True, slots=True)
class SeenMachine:
    """A VM that an agent has found."""

    #: Whose root it is in; no tenant's name if it is open to all.
    tenant: str
    #: Path of its QMP socket.
    socket: str


def review_machines(catalog: Catalog, node: str, seen: Collection[SeenMachine]) -> None:
    """Tell of the VMs of a node that no volume leads to, and resolve what was told of others.

    A VM counts as protected if any volume's path leads through its socket. One that is switched off
    is not seen, so nothing is told of it. A tenant that there is none of is everybody: a node says
    what it likes.

    Args:
        catalog: the catalog, in the coordinator's role.
        node: name of the node.
        seen: all VMs that its agent has found now.
    """
    with catalog.transaction() as tx:
        if not is_compared(tx):
            return
        paths = protected_paths(tx, node)
        unprotected = [one for one in seen if not is_protected(one.socket, paths)]
        tenants = {name for (name,) in tx.execute("SELECT name FROM tenant").fetchall()}
        findings = {
            finding.about: finding
            for one in unprotected
            for finding in [_finding(node, one, one.tenant if one.tenant in tenants else EVERYBODY)]
        }
        opened = [
            entry
            for _, finding in sorted(findings.items())
            for entry in open_notification(tx, finding)
        ]
        over = [
            about
            for (about,) in tx.execute(
                "SELECT about FROM notification WHERE kind = %s AND names ->> 'node' = %s",
                [Kind.VM_UNPROTECTED, node],
            ).fetchall()
            if about not in findings
        ]
        reason = "a volume leads to it, or nobody listens at its socket any more"
        resolved = resolve_notifications(tx, Kind.VM_UNPROTECTED, over, reason)
        append(tx, "coordinator", [*opened, *resolved])


def protected_paths(tx: Tx, node: str) -> list[str]:
    """Paths of the volumes of a node that lead through QMP sockets."""
    rows = tx.execute(
        """SELECT o.path FROM source o JOIN node n USING (node_no) JOIN volume v USING (volume_no)
           WHERE n.name = %s AND o.driver = 'qemu' AND v.removed_at IS NULL""",
        [node],
    ).fetchall()
    return [path for (path,) in rows]


def is_protected(socket: str, paths: Collection[str]) -> bool:
    """Whether a volume's path leads through a socket."""
    return any(path.startswith(f"{socket}/") for path in paths)


def _finding(node: str, one: SeenMachine, tenant: str) -> Finding:
    return Finding(
        kind=Kind.VM_UNPROTECTED,
        about=f"vm/{node}{one.socket}",
        tenant=tenant,
        severity="warning",
        message=(
            f"VM at {one.socket} of node {node}: no volume leads to it; protect it "
            f"(`backcast vm add NAME --node {node} --qmp {one.socket}`), or give its socket a name "
            f"that does not end with .qmp"
        ),
        names={"node": node},
    )
