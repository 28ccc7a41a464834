"""The pods that manifests make: what all checks look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from k8s.kustomization import Manifest

_KINDS = ("Deployment", "DaemonSet", "Job")


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, DaemonSet or Job of ours. Each has one container, named like itself."""

    #: Also the service's name in its settings.
    name: str
    namespace: str
    kind: str
    #: Labels of its pods.
    labels: dict[str, str]
    #: The pods' specification.
    pod: dict[str, Any]
    #: The whole object's specification.
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        """Its only container."""
        (container,) = self.pod["containers"]
        found: dict[str, Any] = container
        return found

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def workloads(manifests: list[Manifest]) -> Iterator[Workload]:
    """Every workload, in the order of the manifests."""
    for manifest in manifests:
        if manifest["kind"] in _KINDS:
            template = manifest["spec"]["template"]
            yield Workload(
                manifest["metadata"]["name"],
                manifest["metadata"]["namespace"],
                manifest["kind"],
                template["metadata"]["labels"],
                template["spec"],
                manifest["spec"],
            )


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The objects of one kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def projected_files(workload: Workload) -> Iterator[tuple[str, str, str, str]]:
    """Files that come from objects: (path in the container, kind of the object, its name, key)."""
    folders = {mount["name"]: mount["mountPath"] for mount in workload.container["volumeMounts"]}
    for volume in workload.pod.get("volumes", []):
        for source in volume.get("projected", {}).get("sources", []):
            for kind, content in source.items():
                for item in content.get("items", []):
                    path = f"{folders[volume['name']]}/{item['path']}"
                    yield path, kind, content["name"], item["key"]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector matches; only matchLabels and the operator In are used here."""
    exact: dict[str, str] = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in exact.items()):
        return False
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In":
            raise ValueError(f"selector operator {expression['operator']}: only In is known here")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
