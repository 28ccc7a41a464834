"""Which node a client means."""

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Node, find_node, list_nodes
from libs.errors import NotFoundError


def meant_node(catalog: Catalog, name: str | None) -> Node:
    """The node of this name; None means the only one.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    if name:
        return find_node(catalog, name)
    nodes = list_nodes(catalog)
    if len(nodes) == 1:
        return nodes[0]
    names = ", ".join(node.name for node in nodes) or "none has announced itself yet"
    raise NotFoundError(f"node: name the one that the path is on ({names})")
