"""Whether a monitoring system gets the metrics of every service, and nothing else."""

from collections.abc import Iterator
from typing import Any

from k8s.checks.network import allowed
from k8s.checks.settings import environment
from k8s.kustomization import Manifest, identity
from k8s.workloads import Workload, of_kind, projected_files, selects, workloads

#: Whoever scrapes: any pod of this namespace.
_MONITORING = Workload("prometheus", "monitoring", "Deployment", {}, {}, {})
_PORT = "http"


def metrics_are_reached(manifests: list[Manifest]) -> Iterator[str]:
    """Metrics that monitoring cannot reach, and ports without metrics that it can."""
    pods = list(workloads(manifests))
    ports = sorted({port for pod in pods for port in _ports(pod).values()})
    for pod in pods:
        metrics = _ports(pod).get(_PORT)
        if metrics is None and pod.kind != "Job":
            yield f"{pod}: no port is named {_PORT}, so nobody finds its metrics"
        for port in ports:
            is_open = allowed(manifests, pod, _MONITORING, port, "ingress")
            if port == metrics and not is_open:
                yield f"{pod}: its metrics at port {port} are closed to monitoring"
            if port != metrics and is_open:
                yield f"{pod}: port {port} has no metrics and is open to monitoring"


def each_service_has_a_monitor(manifests: list[Manifest]) -> Iterator[str]:
    """Where there are PodMonitors: services without one, and monitors that would get nothing."""
    monitors = of_kind(manifests, "PodMonitor")
    if not monitors:
        return
    used = set()
    for pod in workloads(manifests):
        if _PORT not in _ports(pod):
            continue
        found = [one for one in monitors if _finds(one, pod)]
        used |= {identity(one) for one in found}
        if len(found) != 1:
            yield f"{pod}: expected one PodMonitor that finds it, got {len(found)}"
        expected = [_endpoint(manifests, pod)]
        for one in found:
            scraped = [_without_interval(each) for each in one["spec"]["podMetricsEndpoints"]]
            if scraped != expected:
                yield f"{identity(one)}: expected the endpoints {expected}, got {scraped}"
    for one in monitors:
        if identity(one) not in used:
            yield f"{identity(one)}: finds no service with metrics"


def _endpoint(manifests: list[Manifest], pod: Workload) -> dict[str, Any]:
    certificate = environment(manifests, pod)[f"BACKCAST_{pod.name.upper()}_TLS_CERTIFICATE_FILE"]
    (secret,) = (name for path, _, name, _ in projected_files(pod) if path == certificate)
    return {
        "port": _PORT,
        "path": "/metrics",
        "scheme": "https",
        "tlsConfig": {
            "ca": {"secret": {"name": secret, "key": "ca.crt"}},
            "serverName": f"{pod.name}.{pod.namespace}.svc",
        },
    }


def _without_interval(endpoint: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in endpoint.items() if key != "interval"}


def _finds(monitor: Manifest, pod: Workload) -> bool:
    in_namespace = monitor["metadata"]["namespace"] == pod.namespace
    return in_namespace and selects(monitor["spec"]["selector"], pod.labels)


def _ports(pod: Workload) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in pod.container.get("ports", [])}
