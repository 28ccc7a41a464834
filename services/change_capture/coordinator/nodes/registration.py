"""Who is which node, and where: judges enrolments and announcements for the catalog.

A credential proves the name. It does not prove the address, and it may be stolen. So an address is
recorded only if the agent that answers there is this node's, of the boot that was announced; and a
node is not moved while the process at its old address answers.
"""

import logging
from uuid import UUID

from libs.catalogdb.nodes.announcing import announce_node, heard_again
from libs.catalogdb.nodes.enrolment import enrol, known_node
from libs.catalogdb.notifications.machines import SeenMachine, review_machines
from libs.catalogdb.notifications.nodes import DiskSpace
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import NO_BOOT, Node
from libs.errors import BackcastError, ConflictError, UnauthenticatedError, UnavailableError
from libs.ids import NodeIdentity
from libs.keys.nodes import NodeKey
from services.change_capture.coordinator.agents import AgentAddress, Agents
from services.change_capture.coordinator.nodes.addresses import AgentNetworks
from services.change_capture.rpc import EnrolmentRequest, NodeAnnouncement

log = logging.getLogger(__name__)


class Registration:
    """Enrols nodes and takes their announcements. Thread-safe.

    Args:
        catalog: the catalog, in the coordinator's role.
        agents: asks agents who they are.
        key: makes credentials.
        networks: where agents may be.
    """

    def __init__(
        self, catalog: Catalog, agents: Agents, key: NodeKey, networks: AgentNetworks
    ) -> None:
        self._catalog = catalog
        self._agents = agents
        self._key = key
        self._networks = networks

    def enrol(self, invitation: UUID, request: EnrolmentRequest) -> str:
        """Exchange an invitation for the credential of a node, which is returned as a text.

        Raises:
            BadInputError: no name of a node.
            ForbiddenError: the invitation is spent, too old, or for another name.
            ConflictError: it is for new nodes and the name is not new, or the node's agent answers.
        """
        credential = self._key.credential(request.node, request.credential)
        node = NodeIdentity(request.node, request.credential)
        found = known_node(self._catalog, node.name)
        known = found[0] if found else None
        if known and known.credential != node.credential:
            self._refuse_if_it_answers(known, "enrolled anew")
        enrol(self._catalog, invitation, node, known)
        log.info("node enrolled", extra={"node": node.name})
        return credential.text

    def announce(self, caller: NodeIdentity, announced: NodeAnnouncement) -> None:
        """Record where a node's agent can be reached and which process it is, and its VMs.

        Raises:
            BadInputError: no agent may have such an address.
            UnauthenticatedError: the credential does not count (any more).
            ConflictError: the node's agent still answers at another address.
            UnavailableError: the agent cannot be reached at the address, or another one answers.
        """
        self._record(caller, announced)
        if announced.vms is not None:
            seen = [SeenMachine(one.tenant, one.socket) for one in announced.vms]
            review_machines(self._catalog, caller.name, seen)

    def _record(self, caller: NodeIdentity, announced: NodeAnnouncement) -> None:
        node = Node(
            caller.name,
            announced.rpc_url,
            announced.span_address,
            announced.boot,
            caller.credential,
        )
        free, size = announced.state_free_bytes, announced.state_size_bytes
        disk = None if free is None or size is None else DiskSpace(free, size)
        if heard_again(self._catalog, node, announced.version, disk):
            return
        known = self._known(caller)
        self._networks.require_url(node.rpc_url)
        self._networks.require_host_port(node.span_address)
        if known and known.rpc_url != node.rpc_url:
            self._refuse_if_it_answers(known, f"moved to {node.rpc_url}")
        self._confirm(node)
        announce_node(self._catalog, node, known, announced.version, disk)
        about = {"node": node.name, "url": node.rpc_url, "boot": str(node.boot)}
        log.info("node announced", extra=about)

    def _known(self, caller: NodeIdentity) -> Node | None:
        """The node that calls, as the catalog knows it; None: nobody has had the name."""
        found = known_node(self._catalog, caller.name)
        if found is None:
            return None
        known, forgotten = found
        if forgotten:
            raise UnauthenticatedError(
                f"node {caller.name}: it was forgotten, and its credential with it; "
                f"`backcast node invite {caller.name}` lets it enrol again"
            )
        if known.credential not in (None, caller.credential):
            raise UnauthenticatedError(
                f"node {caller.name}: another credential counts by now; "
                f"`backcast node invite {caller.name}` lets it enrol again"
            )
        return known

    def _refuse_if_it_answers(self, known: Node, verb: str) -> None:
        if not known.rpc_url or known.credential is None or known.boot == NO_BOOT:
            return
        try:
            about = self._agents.about(AgentAddress.of_node(known))
        except BackcastError:  # nobody is there, or somebody else
            return
        if (about.name, about.boot) == (known.name, known.boot):
            raise ConflictError(
                f"node {known.name}: its agent (boot {known.boot}) still answers at "
                f"{known.rpc_url}, so it is not {verb}; end that agent first"
            )

    def _confirm(self, node: Node) -> None:
        """See to it that the agent that answers at the address is the one that was announced."""
        try:
            about = self._agents.about(AgentAddress.of_node(node))
        except BackcastError as err:  # whoever announces is not who is asked
            raise UnavailableError(
                f"node {node.name}: no agent with its credential answers at {node.rpc_url}: {err}"
            ) from err
        found = (about.name, about.boot, about.span_address)
        if found != (node.name, node.boot, node.span_address):
            raise UnavailableError(
                f"node {node.name}: at {node.rpc_url} expected boot {node.boot} with spans at "
                f"{node.span_address}, got another agent's answer; is the address its own?"
            )
