"""Whether objects that name each other exist and fit."""

from collections.abc import Iterator

from k8s.kustomization import Manifest, identity
from k8s.workloads import Workload, of_kind, selects, workloads


def services_find_pods(manifests: list[Manifest]) -> Iterator[str]:
    """Services that select no pod, or a port that the pods do not have."""
    for service in of_kind(manifests, "Service"):
        spec = service["spec"]
        pods = [pod for pod in workloads(manifests) if _is_selected(service, pod)]
        if not pods:
            yield f"{identity(service)}: selects nothing"
        for pod in pods:
            names = {port["name"] for port in pod.container.get("ports", [])}
            for port in spec["ports"]:
                if port["targetPort"] not in names:
                    yield f"{identity(service)}: {pod} has no port {port['targetPort']}"


def ingresses_find_services(manifests: list[Manifest]) -> Iterator[str]:
    """Ingress rules whose Service or port does not exist."""
    known = {
        (service["metadata"]["namespace"], service["metadata"]["name"], port["name"])
        for service in of_kind(manifests, "Service")
        for port in service["spec"]["ports"]
    }
    for ingress in of_kind(manifests, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                namespace = ingress["metadata"]["namespace"]
                if (namespace, backend["name"], backend["port"]["name"]) not in known:
                    yield f"{identity(ingress)}: {rule['host']} leads to no Service"


def configuration_exists(manifests: list[Manifest]) -> Iterator[str]:
    """Workloads whose variables come from a ConfigMap that is not there."""
    known = {identity(config) for config in of_kind(manifests, "ConfigMap")}
    for workload in workloads(manifests):
        for source in workload.container.get("envFrom", []):
            name = source.get("configMapRef", {}).get("name")
            if name and f"ConfigMap {workload.namespace}/{name}" not in known:
                yield f"{workload}: there is no ConfigMap {name}"


def namespaces_exist(manifests: list[Manifest]) -> Iterator[str]:
    """Objects in a namespace that is not declared."""
    known = {namespace["metadata"]["name"] for namespace in of_kind(manifests, "Namespace")}
    for manifest in manifests:
        if manifest["kind"] != "Namespace" and manifest["metadata"].get("namespace") not in known:
            yield f"{identity(manifest)}: there is no such namespace"


def namespaces_enforce(manifests: list[Manifest]) -> Iterator[str]:
    """Namespaces that enforce no pod security level, or not "restricted" where no agents are."""
    for namespace in of_kind(manifests, "Namespace"):
        name = namespace["metadata"]["name"]
        labels = namespace["metadata"].get("labels", {})
        level = labels.get("pod-security.kubernetes.io/enforce")
        with_agents = any(
            pod.kind == "DaemonSet" and pod.namespace == name for pod in workloads(manifests)
        )
        ours = any(pod.namespace == name for pod in workloads(manifests))
        if level is None or (ours and not with_agents and level != "restricted"):
            yield f"namespace {name}: enforces the pod security level {level}"


def _is_selected(service: Manifest, pod: Workload) -> bool:
    selector = {"matchLabels": service["spec"]["selector"]}
    return service["metadata"]["namespace"] == pod.namespace and selects(selector, pod.labels)
