"""What every pod must be: restricted, probed, bounded, pinned, spread, and free of secrets."""

import re
from collections.abc import Iterator
from typing import Any

from k8s.kustomization import Manifest, identity
from k8s.workloads import Workload, of_kind, workloads

_SECRET_NAME = re.compile(r"(PASSWORD|TOKEN|SECRET|KEY|KEK|DSN|CREDENTIALS?)S?$")
_URL_WITH_PASSWORD = re.compile(r"://[^/\s:@]+:[^/\s@]+@")


def restricted(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Breaches of the pod security level "restricted", and of a read-only root file system.

    Yields:
        workload and rule; `k8s.validate` lists which are meant, and why.
    """
    for workload in workloads(manifests):
        pod, container = workload.pod, workload.container
        security: dict[str, Any] = pod.get("securityContext", {})
        own: dict[str, Any] = container.get("securityContext", {})
        capabilities: dict[str, Any] = own.get("capabilities", {})
        added = ",".join(capabilities.get("add", []))
        rules = {
            "runs as root": security.get("runAsNonRoot") is True
            and security.get("runAsUser", 0) > 0,
            "no seccomp profile": security.get("seccompProfile") == {"type": "RuntimeDefault"},
            "may gain privileges": own.get("allowPrivilegeEscalation") is False,
            "privileged": not own.get("privileged"),
            "keeps capabilities": capabilities.get("drop") == ["ALL"],
            f"adds capabilities {added}": not added,
            "writable root file system": own.get("readOnlyRootFilesystem") is True,
            "shares a namespace of the node": not any(
                pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")
            ),
        }
        yield from ((str(workload), rule) for rule, kept in rules.items() if not kept)
        yield from ((str(workload), rule) for rule in _node_folders(workload))


def isolated(manifests: list[Manifest]) -> Iterator[str]:
    """Pods with a token of the cluster, a foreign identity, or variables made from Services."""
    accounts = {identity(account) for account in of_kind(manifests, "ServiceAccount")}
    for workload in workloads(manifests):
        account = f"ServiceAccount {workload.namespace}/{workload.pod.get('serviceAccountName')}"
        if account not in accounts:
            yield f"{workload}: has no ServiceAccount of its own"
        for field in ("automountServiceAccountToken", "enableServiceLinks"):
            if workload.pod.get(field) is not False:
                yield f"{workload}: {field} must be false"


def probed(manifests: list[Manifest]) -> Iterator[str]:
    """Services without the three probes, or with one that asks for the wrong thing."""
    for workload in workloads(manifests):
        if workload.kind == "Job":
            continue
        ports = {port["name"] for port in workload.container.get("ports", [])}
        for probe, path in (
            ("startup", "/healthz"),
            ("liveness", "/healthz"),
            ("readiness", "/readyz"),
        ):
            asked = workload.container.get(f"{probe}Probe", {}).get("httpGet", {})
            if asked.get("path") != path or asked.get("port") not in ports:
                yield f"{workload}: its {probe} probe must get {path} at a named port"


def bounded(manifests: list[Manifest]) -> Iterator[str]:
    """Containers without requests, or without a limit of memory.

    CPU has no limit on purpose: throttling stretches compression and with it every session, while
    the requests already share a busy node fairly.
    """
    for workload in workloads(manifests):
        resources: dict[str, Any] = workload.container.get("resources", {})
        if resources.get("requests", {}).keys() != {"cpu", "memory"}:
            yield f"{workload}: requests of cpu and memory are missing"
        if "memory" not in resources.get("limits", {}):
            yield f"{workload}: the limit of memory is missing"


def pinned(manifests: list[Manifest]) -> Iterator[str]:
    """Images without a tag or digest, or with one that moves."""
    for workload in workloads(manifests):
        image: str = workload.container["image"]
        _, _, tag = image.rpartition("/")[2].partition(":")
        if tag in ("", "latest"):
            yield f"{workload}: image {image} names no version"


def free_of_secrets(manifests: list[Manifest]) -> Iterator[str]:
    """Secrets in manifests, or secrets that come as variables instead of files."""
    yield from (
        f"{identity(secret)}: secrets are made outside of manifests"
        for secret in of_kind(manifests, "Secret")
    )
    for config in of_kind(manifests, "ConfigMap"):
        for name, value in config.get("data", {}).items():
            if _SECRET_NAME.search(name) or _URL_WITH_PASSWORD.search(value):
                yield f"{identity(config)}: {name} looks like a secret"
    for workload in workloads(manifests):
        for variable in workload.container.get("env", []):
            by_reference = "secretKeyRef" in variable.get("valueFrom", {})
            if by_reference or _SECRET_NAME.search(variable["name"]):
                yield f"{workload}: {variable['name']}: secrets come as files"
        for source in workload.container.get("envFrom", []):
            if "secretRef" in source:
                yield f"{workload}: secrets come as files"


def survives_drains(manifests: list[Manifest]) -> Iterator[str]:
    """Deployments that are not spread, or whose disruption budget is missing or blocks drains."""
    for workload in workloads(manifests):
        if workload.kind != "Deployment":
            continue
        keys = {one["topologyKey"] for one in workload.pod.get("topologySpreadConstraints", [])}
        if not {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} <= keys:
            yield f"{workload}: not spread over nodes and zones"
        budgets = [
            budget["spec"]
            for budget in of_kind(manifests, "PodDisruptionBudget")
            if budget["metadata"]["namespace"] == workload.namespace
            and budget["spec"]["selector"] == workload.spec["selector"]
        ]
        if len(budgets) != 1:
            yield f"{workload}: expected one PodDisruptionBudget, got {len(budgets)}"
        elif budgets[0].get("maxUnavailable", 0) < 1:
            yield f"{workload}: its PodDisruptionBudget must allow one pod to be away"


def _node_folders(workload: Workload) -> Iterator[str]:
    mounts = {mount["name"]: mount for mount in workload.container.get("volumeMounts", [])}
    for volume in workload.pod.get("volumes", []):
        if "hostPath" in volume:
            how = "reads" if mounts[volume["name"]].get("readOnly") else "writes"
            yield f"{how} {volume['hostPath']['path']} of the node"
