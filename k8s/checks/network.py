"""What the network policies together allow, compared with what the services need of each other."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from k8s.checks.settings import environment
from k8s.kustomization import Manifest
from k8s.workloads import Workload, of_kind, selects, workloads

#: (who, whom, port of the pod): everything that our pods say to each other.
FLOWS = {
    ("agent", "coordinator", 8080),  # announces itself
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
    """Postgres, Kafka or a store that is configured and blocked, or open and not configured."""
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
                out = _allowed(manifests, source, target, port, "egress")
                into = _allowed(manifests, target, source, port, "ingress")
                flow = f"{source.name} → {target.name}:{port}"
                if needed and not (out and into):
                    yield f"{flow}: needed, but {'ingress' if out else 'egress'} is blocked"
                if (out or into) and not needed:
                    yield f"{flow}: not needed, but {'egress' if out else 'ingress'} is allowed"


def _allowed(manifests: list[Manifest], pod: Workload, peer: Workload, port: int, way: str) -> bool:
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


def _server_ports(manifests: list[Manifest], pod: Workload) -> set[int]:
    """Ports of the servers that a workload's settings name; Postgres is named in a secret."""
    ports: set[int] = set()
    for name, value in environment(manifests, pod).items():
        if name.endswith("_POSTGRES_DSN_FILE"):
            ports.add(_POSTGRES_PORT)
        elif name.endswith("_KAFKA_BOOTSTRAP"):
            ports |= {int(address.rpartition(":")[2]) for address in value.split(",")}
        elif name.endswith("_S3_ENDPOINT"):
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
