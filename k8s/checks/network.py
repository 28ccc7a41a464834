"""What the network policies together allow, compared with what the services need of each other."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from k8s.checks.settings import environment
from k8s.kustomization import Manifest
from k8s.workloads import Workload, of_kind, selects, workloads

#: Port of the coordinator's listener for agents.
AGENTS_PORT = 8082
#: (who, whom, port of the pod): everything that our pods say to each other.
FLOWS = {
    ("agent", "coordinator", AGENTS_PORT),  # enrols, announces itself, reports
    ("coordinator", "agent", 8080),  # commands
    ("chunker", "agent", 8081),  # spans
}

_POSTGRES_PORT = 5432


def closed(manifests: list[Manifest]) -> Iterator[str]:
    """Namespaces with pods of ours in which something is allowed that no policy lists."""
    for namespace in dict.fromkeys(workload.namespace for workload in workloads(manifests)):
        if not any(
            policy["metadata"]["namespace"] == namespace
            and policy["spec"]["podSelector"] == {}
            and set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and not policy["spec"].keys() & {"ingress", "egress"}
            for policy in of_kind(manifests, "NetworkPolicy")
        ):
            yield f"namespace {namespace}: no policy that denies all"


def servers_as_needed(manifests: list[Manifest]) -> Iterator[str]:
    """Postgres, Kafka, a store or an issuer that is set and blocked, or open and not set."""
    needs = {str(pod): _server_ports(manifests, pod) for pod in workloads(manifests)}
    every = set().union(*needs.values())
    for pod in workloads(manifests):
        open_ports = {port for port in every if _may_leave(manifests, pod, port)}
        for port in sorted(every):
            if port in needs[str(pod)] and port not in open_ports:
                yield f"{pod}: its settings name a server at port {port}, but egress is blocked"
            if port in open_ports and port not in needs[str(pod)]:
                yield f"{pod}: egress to port {port} is allowed, but no setting names such a server"


def needed_flows_only(manifests: list[Manifest]) -> Iterator[str]:
    """Flows between our pods that are needed and blocked, or possible and not needed."""
    pods = list(workloads(manifests))
    ports = {
        workload.name: [port["containerPort"] for port in workload.container.get("ports", [])]
        for workload in pods
    }
    for source in pods:
        for target in pods:
            for port in ports[target.name]:
                needed = (source.name, target.name, port) in FLOWS
                out = allowed(manifests, source, target, port, "egress")
                into = allowed(manifests, target, source, port, "ingress")
                flow = f"{source.name} → {target.name}:{port}"
                if needed and not (out and into):
                    yield f"{flow}: needed, but {'ingress' if out else 'egress'} is blocked"
                if (out or into) and not needed:
                    yield f"{flow}: not needed, but {'egress' if out else 'ingress'} is allowed"


def agents_listener_is_for_agents(manifests: list[Manifest]) -> Iterator[str]:
    """Ways to the coordinator's listener for agents that others than our agents can use."""
    for pod in workloads(manifests):
        ports = {port["containerPort"] for port in pod.container.get("ports", [])}
        if pod.name != "coordinator" or AGENTS_PORT not in ports:
            continue
        for policy in of_kind(manifests, "NetworkPolicy"):
            if _applies(policy, pod, "ingress") and not _lets_agents_alone(manifests, policy):
                name = policy["metadata"]["name"]
                yield f"NetworkPolicy {name}: lets others than agents to {pod}:{AGENTS_PORT}"
    listeners = {
        (service["metadata"]["namespace"], service["metadata"]["name"], port["name"])
        for service in of_kind(manifests, "Service")
        for port in service["spec"]["ports"]
        if port["targetPort"] in ("nodes", AGENTS_PORT)
    }
    for ingress in of_kind(manifests, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            backends = [path["backend"]["service"] for path in rule["http"]["paths"]]
            namespace = ingress["metadata"]["namespace"]
            if any((namespace, to["name"], to["port"]["name"]) in listeners for to in backends):
                yield f"Ingress {rule['host']}: leads to the listener for agents"


def allowed(manifests: list[Manifest], pod: Workload, peer: Workload, port: int, way: str) -> bool:
    """Whether a policy of ``pod`` lets traffic from (ingress) or to (egress) ``peer`` pass."""
    for policy in of_kind(manifests, "NetworkPolicy"):
        if not _applies(policy, pod, way):
            continue
        for rule in policy["spec"][way]:
            peers = rule.get("from" if way == "ingress" else "to")
            ports = rule.get("ports")
            by_peer = peers is None or any(_names(one, peer, policy) for one in peers)
            by_port = ports is None or any(one.get("port") == port for one in ports)
            if by_peer and by_port:
                return True
    return False


def _lets_agents_alone(manifests: list[Manifest], policy: Manifest) -> bool:
    """Whether nobody but agents gets by a policy to the port of the listener for agents."""
    return all(
        _is_agents_alone(manifests, rule.get("from"), policy)
        for rule in policy["spec"]["ingress"]
        if rule.get("ports") is None or any(_covers(one, AGENTS_PORT) for one in rule["ports"])
    )


def _covers(port: dict[str, Any], number: int) -> bool:
    """Whether an entry of ``ports`` has a port of a pod: by number, by name, or in a range."""
    first = port.get("port")
    if first is None or first == "nodes":
        return True
    return isinstance(first, int) and first <= number <= port.get("endPort", first)


def _is_agents_alone(
    manifests: list[Manifest], peers: list[dict[str, Any]] | None, policy: Manifest
) -> bool:
    """Whether every peer is named by the labels of agents, in a namespace that is named."""
    if peers is None:
        return False
    agents = [pod for pod in workloads(manifests) if pod.name == "agent"]
    return all(
        peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/name") == "agent"
        and peer.get("namespaceSelector", {}).get("matchLabels")
        and any(_names(peer, agent, policy) for agent in agents)
        for peer in peers
    )


def _server_ports(manifests: list[Manifest], pod: Workload) -> set[int]:
    """Ports of the servers that a workload's settings name; Postgres is named in a secret."""
    ports: set[int] = set()
    for name, value in environment(manifests, pod).items():
        if name.endswith("_POSTGRES_DSN_FILE"):
            ports.add(_POSTGRES_PORT)
        elif name.endswith("_KAFKA_BOOTSTRAP"):
            ports |= {int(address.rpartition(":")[2]) for address in value.split(",")}
        elif name.endswith(("_S3_ENDPOINT", "_OIDC_ISSUER")):
            url = urlsplit(value)
            ports.add(url.port or (443 if url.scheme == "https" else 80))
    return ports


def _may_leave(manifests: list[Manifest], pod: Workload, port: int) -> bool:
    return any(
        rule.get("ports") is None or any(one.get("port") == port for one in rule["ports"])
        for policy in of_kind(manifests, "NetworkPolicy")
        if _applies(policy, pod, "egress")
        for rule in policy["spec"]["egress"]
    )


def _applies(policy: Manifest, pod: Workload, way: str) -> bool:
    return (
        policy["metadata"]["namespace"] == pod.namespace
        and way in policy["spec"]
        and selects(policy["spec"]["podSelector"], pod.labels)
    )


def _names(peer: dict[str, Any], pod: Workload, policy: Manifest) -> bool:
    if "ipBlock" in peer:  # for what is outside of the cluster; pods are named by labels
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": pod.namespace}
        in_namespace = selects(peer["namespaceSelector"], labels)
    else:
        in_namespace = policy["metadata"]["namespace"] == pod.namespace
    return in_namespace and selects(peer.get("podSelector", {}), pod.labels)
