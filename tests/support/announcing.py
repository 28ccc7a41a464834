"""Nodes that announce themselves, and get credentials and lose them, without any agent."""

from uuid import UUID

from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.nodes.enrolment import enrol, forget_node, invite, known_node
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Node
from libs.ids import NodeIdentity


def announce(catalog: Catalog, node: Node) -> None:
    """A node is at an address and of a boot, whatever was known of it."""
    found = known_node(catalog, node.name)
    announce_node(catalog, node, found[0] if found else None)


def enrol_anew(catalog: Catalog, name: str, credential: UUID) -> None:
    """A node has another credential from now on."""
    found = known_node(catalog, name)
    invitation = invite(catalog, name, 1, 60).invitation
    enrol(catalog, invitation, NodeIdentity(name, credential), found[0] if found else None)


def enrol_and_forget(catalog: Catalog, name: str, credential: UUID) -> None:
    """A node has had a credential and has none."""
    enrol_anew(catalog, name, credential)
    forget_node(catalog, name)
