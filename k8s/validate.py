"""`python -m k8s.validate`: builds the manifests and checks what needs no cluster.

Against the schemas of the oldest and the newest supported Kubernetes, and against our own rules.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]  # no py.typed

from k8s.checks import network, operators, pods, references, scraping, settings
from k8s.kustomization import Manifest, assemble, identity

ROOT = Path(__file__).parent
GUIDE = ROOT.parent / "docs" / "deployment.md"
VERSIONS = ("1.33", "1.37")

_BLOCK_DEVICES = "components/block-devices"
_FREEZE = "components/freeze"
_SECOND_STORE = "components/second-store"
_CHANGING_KEK = "components/changing-kek"
_SCRAPING = "components/scraping"
_VOLUME_FILTER = "components/volume-filter"
_OIDC = "components/oidc"
#: What people apply: name → kustomization, as if it stood in the folder k8s.
TARGETS: dict[str, Manifest] = {
    "base": {"resources": ["base"]},
    "base with block devices": {"resources": ["base"], "components": [_BLOCK_DEVICES]},
    "base with freezing": {"resources": ["base"], "components": [_FREEZE]},
    "base with cert-manager": {"resources": ["base"], "components": ["components/cert-manager"]},
    "base with a second store": {"resources": ["base"], "components": [_SECOND_STORE]},
    "base while the KEK is changed": {"resources": ["base"], "components": [_CHANGING_KEK]},
    "base with scraping": {"resources": ["base"], "components": [_SCRAPING]},
    "base with people by OIDC": {"resources": ["base"], "components": [_OIDC]},
    "base with a volume filter": {"resources": ["base"], "components": [_VOLUME_FILTER]},
    "production": {"resources": ["overlays/production"]},
    "production with everything": {
        "resources": ["overlays/production"],
        "components": [_SECOND_STORE, _FREEZE, _BLOCK_DEVICES, _SCRAPING],
    },
}

_AGENT = "DaemonSet backcast-agents/agent"
_FILTER = "DaemonSet backcast-agents/filter"
_MAY_READ = "adds capabilities DAC_READ_SEARCH"
_MAY_FREEZE = "adds capabilities DAC_READ_SEARCH,SYS_ADMIN"
#: (workload, rule of `pods.restricted`) → why it does not hold there.
EXCEPTIONS = {
    (
        _AGENT,
        "runs as root",
    ): "a capability works for root only unless a file or the runtime gives it",
    (
        _AGENT,
        _MAY_READ,
    ): "images belong to others and are not for all to read",
    (_AGENT, "reads /var/lib/libvirt/images of the node"): "it holds the disks that are protected",
    (_AGENT, "writes /var/lib/backcast/agent of the node"): "fingerprints survive restarts there",
}
#: The same for agents that a component gives more: component → its exceptions.
COMPONENT_EXCEPTIONS = {
    _BLOCK_DEVICES: {
        (
            _AGENT,
            "privileged",
        ): "the kernel's device filter opens block devices to no other container",
        (_AGENT, "may gain privileges"): "privileged includes it",
        (_AGENT, "reads /dev of the node"): "the devices are there",
    },
    _FREEZE: {
        (_AGENT, _MAY_FREEZE): "the kernel freezes a file system for nobody else",
        (_AGENT, "reads /srv of the node"): "the file systems are mounted there",
    },
    _VOLUME_FILTER: {
        (_AGENT, "reads /run/backcast/filters of the node"): "filters are found by their sockets",
        (_FILTER, "runs as root"): "a capability works for root only unless a file gives it",
        (_FILTER, "adds capabilities DAC_OVERRIDE"): "images belong to other users",
        (_FILTER, "writes /var/lib/backcast/filters/vm of the node"): "marks survive restarts",
        (_FILTER, "writes /run/backcast/filters of the node"): "the agent finds its socket there",
        (_FILTER, "writes /run/backcast/nbd of the node"): "guests find its socket there",
        (_FILTER, "writes /var/lib/libvirt/images of the node"): "it writes the guests' disk",
    },
}

Check = Callable[[list[Manifest]], Iterator[str]]
CHECKS: tuple[Check, ...] = (
    pods.isolated,
    pods.probed,
    pods.bounded,
    pods.pinned,
    pods.free_of_secrets,
    pods.survives_drains,
    network.closed,
    network.servers_as_needed,
    network.needed_flows_only,
    network.agents_listener_is_for_agents,
    scraping.metrics_are_reached,
    scraping.each_service_has_a_monitor,
    references.services_find_pods,
    references.ingresses_find_services,
    references.configuration_exists,
    references.namespaces_exist,
    references.namespaces_enforce,
    settings.load_into_settings,
    settings.roots_are_mounted,
    settings.everyone_speaks_tls,
    operators.known_fields,
    operators.topics_as_in_code,
    operators.users_may_what_they_need,
    operators.brokers_refuse_what_is_not_allowed,
    operators.commits_survive_a_server,
)


def main() -> int:
    """Check every target; the exit status."""
    failed = False
    for name, kustomization in TARGETS.items():
        manifests = assemble(kustomization, ROOT)
        found = list(violations(manifests, exceptions_of(kustomization)))
        failed = failed or bool(found)
        for violation in found:
            print(f"k8s {name}: {violation}")
        print(f"k8s {name}: {len(manifests)} objects, {len(found)} violations")
    return 1 if failed else 0


def exceptions_of(kustomization: Manifest) -> dict[tuple[str, str], str]:
    """What is meant in a target."""
    found, components = dict(EXCEPTIONS), kustomization.get("components", [])
    for component in components:
        found |= COMPONENT_EXCEPTIONS.get(component, {})
    if _FREEZE in components:  # the same list of capabilities, with one more
        found.pop((_AGENT, _MAY_READ), None)
    return found


def violations(manifests: list[Manifest], exceptions: dict[tuple[str, str], str]) -> Iterator[str]:
    """Everything that is wrong with what a target builds."""
    yield from schema_violations(manifests)
    for check in CHECKS:
        yield from check(manifests)
    yield from settings.secrets_are_described(manifests, GUIDE)
    breaches = set(pods.restricted(manifests))
    yield from (f"{workload}: {rule}" for workload, rule in sorted(breaches - exceptions.keys()))
    yield from (
        f"{workload}: the exception {rule!r} is no longer needed"
        for workload, rule in sorted(exceptions.keys() - breaches)
    )


def schema_violations(manifests: list[Manifest]) -> Iterator[str]:
    """Objects that the Kubernetes API would refuse. Custom resources have no schema here."""
    for manifest in manifests:
        if (manifest["apiVersion"], manifest["kind"]) not in operators.KINDS:
            yield from _schema_violations(json.dumps(manifest))


@functools.cache
def _schema_violations(text: str) -> tuple[str, ...]:
    """Cached, because most objects are the same in every target."""
    manifest: Manifest = json.loads(text)
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as err:
            found.append(f"{identity(manifest)}: Kubernetes {version}: {err.message}")
        except kubernetes_validate.SchemaNotFoundError:
            found.append(f"{identity(manifest)}: Kubernetes {version} has no such kind and version")
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
