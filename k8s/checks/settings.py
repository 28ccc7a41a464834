"""Whether each pod would start: its variables load into its settings, its files are there."""

import importlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from k8s.kustomization import Manifest, identity
from k8s.workloads import Workload, of_kind, projected_files, workloads
from libs.errors import BackcastError
from libs.runtime.settings import load
from services.change_capture.drivers.local.roots import ALL_TENANTS, parse_roots

#: Where each service's class `Settings` is.
SETTINGS = {
    "init": "services.catalog.init.settings",
    "catalog": "services.catalog.settings",
    "coordinator": "services.change_capture.coordinator.settings",
    "agent": "services.change_capture.agent.settings",
    "filter": "services.change_capture.filter.settings",
    "chunker": "services.chunker.settings",
    "restore": "services.restore.settings",
}
_HERE = re.compile(r"\blocalhost\b|127\.0\.0\.1|\[::1\]")
#: What the node fills in, by field of the pod.
_DOWNWARD = {"spec.nodeName": "node-1", "status.podIP": "10.1.2.3"}


def load_into_settings(manifests: list[Manifest]) -> Iterator[str]:
    """Unknown, missing and malformed variables, and files that no volume brings."""
    for workload in workloads(manifests):
        environ = environment(manifests, workload)
        yield from (
            f"{workload}: {name}={value}: there is no such host for anybody else"
            for name, value in environ.items()
            if _HERE.search(value)
        )
        files = {path for path, *_ in projected_files(workload)}
        missing = {
            f"{workload}: {name}: no volume brings {value}"
            for name, value in environ.items()
            if name.endswith("_FILE") and value and value not in files
        }
        yield from missing or problems_of(workload.name, environ)


def roots_are_mounted(manifests: list[Manifest]) -> Iterator[str]:
    """Roots of agents that are open to every tenant, or that no volume of the node brings."""
    for workload in workloads(manifests):
        written = environment(manifests, workload).get("BACKCAST_AGENT_ROOTS", "")
        try:
            roots = parse_roots([one for one in written.split(",") if one])
        except ValueError:  # `load_into_settings` says so
            continue
        node = {
            volume["name"] for volume in workload.pod.get("volumes", []) if "hostPath" in volume
        }
        mounts = workload.container.get("volumeMounts", [])
        folders = [Path(mount["mountPath"]) for mount in mounts if mount["name"] in node]
        for root in roots:
            if root.tenant == ALL_TENANTS:
                yield f"{workload}: root {root.path} is open to every tenant"
            if not any(root.path.is_relative_to(folder) for folder in folders):
                yield f"{workload}: root {root.path}: no volume of the node brings it"


def everyone_speaks_tls(manifests: list[Manifest]) -> Iterator[str]:
    """Services without TLS, probes that ask without it, and URLs that lead to them without it."""
    certificates = {
        (one["metadata"]["namespace"], one["spec"]["secretName"]): one["spec"]["dnsNames"]
        for one in of_kind(manifests, "Certificate")
    }
    for workload in workloads(manifests):
        environ = environment(manifests, workload)
        prefix = f"BACKCAST_{workload.name.upper()}_"
        if workload.kind != "Job" and f"{prefix}TLS_CERTIFICATE_FILE" not in environ:
            yield f"{workload}: has no certificate"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = workload.container.get(probe, {}).get("httpGet")
            if asked and asked.get("scheme") != "HTTPS":
                yield f"{workload}: its {probe} asks without TLS"
        for name, value in environ.items():
            if value.startswith("http:"):
                yield f"{workload}: {name}={value}: is without TLS"
        for path, kind, secret, _ in projected_files(workload):
            if not certificates or kind != "secret" or path != environ.get(f"{prefix}TLS_KEY_FILE"):
                continue
            expected = f"{workload.name}.{workload.namespace}.svc"
            if expected not in certificates.get((workload.namespace, secret), []):
                yield f"{workload}: no Certificate makes {secret} for {expected}"


def problems_of(service: str, environ: Mapping[str, str]) -> Iterator[str]:
    """What a service's settings say to an environment whose secret files are not here."""
    settings = importlib.import_module(SETTINGS[service]).Settings
    with tempfile.NamedTemporaryFile("w", suffix=".secret") as stand_in:
        stand_in.write("secret")
        stand_in.flush()
        readable = {
            name: stand_in.name if name.endswith("_FILE") and value else value
            for name, value in environ.items()
        }
        try:
            load(settings, service, readable)
        except BackcastError as err:
            yield f"{service}: {err}".replace(stand_in.name, "FILE")


def environment(manifests: list[Manifest], workload: Workload) -> dict[str, str]:
    """The variables of a workload's container, with the node's facts filled in."""
    configs = {identity(config): config["data"] for config in of_kind(manifests, "ConfigMap")}
    environ: dict[str, str] = {}
    for source in workload.container.get("envFrom", []):
        name = f"ConfigMap {workload.namespace}/{source['configMapRef']['name']}"
        environ |= configs.get(name, {})
    for variable in workload.container.get("env", []):
        if "value" in variable:
            value = re.sub(r"\$\((\w+)\)", lambda m: environ[m[1]], variable["value"])
        else:
            value = _DOWNWARD[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        environ[variable["name"]] = value
    return environ


def secrets_are_described(manifests: list[Manifest], description: Path) -> Iterator[str]:
    """Keys of Secrets and foreign ConfigMaps that pods need and the deployment guide leaves out.

    Args:
        manifests: what is built.
        description: a page with rows ``| namespace | `object` | `key`, `key` | …``.
    """
    described = {
        (cells[0].strip(), cells[1].strip(" `"), key)
        for cells in (line.split("|")[1:] for line in description.read_text().splitlines())
        if len(cells) > 3
        for key in re.findall(r"`([^`]+)`", cells[2])
    }
    own = {identity(config) for config in of_kind(manifests, "ConfigMap")}
    for workload in workloads(manifests):
        for _, kind, name, key in projected_files(workload):
            given = kind == "configMap" and f"ConfigMap {workload.namespace}/{name}" in own
            if not given and (workload.namespace, name, key) not in described:
                yield f"{workload}: {description.name} does not say that {name}/{key} must exist"
