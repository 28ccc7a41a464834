"""Where a node's agent can be reached and which process it is, as it announces itself."""

from libs.catalogdb.log.log import append
from libs.catalogdb.notifications.nodes import DiskSpace, tell_announced
from libs.catalogdb.pool import Catalog, Tx
from libs.catalogdb.protected import Node
from libs.errors import ConflictError


def announce_node(
    catalog: Catalog,
    node: Node,
    known: Node | None = None,
    version: str = "",
    disk: DiskSpace | None = None,
) -> None:
    """Record where a node's agent can be reached and which process it is.

    What was open because it was silent is resolved by the same transaction.

    It is also done in a catalog that is not reconciled, so that agents are there when it is. A
    credential that is claimed there by a name without one gives way to what a checkpoint says.

    Args:
        catalog: the catalog.
        node: as it announces itself.
        known: the node as the caller has judged it; None: there was none of this name.
        version: of its agent.
        disk: room where the agent keeps its state; None: it does not say.

    Raises:
        ConflictError: the catalog knows something else of the node by now; look again.
    """
    with catalog.transaction() as tx:
        if _heard_again(tx, node, version, disk):
            return
        values = (node.rpc_url, node.span_address, node.boot, node.credential, version)
        if known is None:
            recorded = tx.execute(
                """INSERT INTO node (name, rpc_url, span_address, boot, credential, version)
                   VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING name""",
                [node.name, *values],
            ).fetchone()
        else:
            recorded = tx.execute(
                """UPDATE node SET rpc_url = %s, span_address = %s, boot = %s, credential = %s,
                                   version = %s, seen_at = now()
                   WHERE name = %s AND rpc_url = %s AND span_address = %s AND boot = %s
                     AND credential IS NOT DISTINCT FROM %s AND forgotten_at IS NULL
                   RETURNING name""",
                [
                    *values,
                    node.name,
                    known.rpc_url,
                    known.span_address,
                    known.boot,
                    known.credential,
                ],
            ).fetchone()
        if recorded is not None:
            append(tx, "coordinator", tell_announced(tx, node.name, disk))
    if recorded is None:
        raise ConflictError(f"node {node.name}: it has changed meanwhile; announce it again")


def heard_again(catalog: Catalog, node: Node, version: str, disk: DiskSpace | None = None) -> bool:
    """Note that a node was heard that is as the catalog knows it; False: it is not."""
    with catalog.transaction() as tx:
        return _heard_again(tx, node, version, disk)


def _heard_again(tx: Tx, node: Node, version: str, disk: DiskSpace | None) -> bool:
    heard = tx.execute(
        """UPDATE node SET seen_at = now(), version = %s
           WHERE name = %s AND rpc_url = %s AND span_address = %s AND boot = %s
             AND credential IS NOT DISTINCT FROM %s""",
        [version, node.name, node.rpc_url, node.span_address, node.boot, node.credential],
    )
    if heard.rowcount:
        append(tx, "coordinator", tell_announced(tx, node.name, disk))
    return bool(heard.rowcount)
