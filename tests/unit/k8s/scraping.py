"""What is planted against the rules that metrics are reached, and nothing else."""

from collections.abc import Callable
from typing import Any

from k8s import validate
from k8s.checks import scraping
from k8s.kustomization import Manifest, assemble

Manifests = list[Manifest]


def _policy(manifests: Manifests, namespace: str) -> Any:
    (found,) = (
        manifest["spec"]
        for manifest in manifests
        if manifest["metadata"]["name"] == "be-scraped"
        and manifest["metadata"]["namespace"] == namespace
    )
    return found


def _monitors(change: Callable[[dict[str, Any]], object]) -> Callable[[Manifests], object]:
    """The PodMonitors of the component, one of them changed: none changed says nothing."""

    def bug(manifests: Manifests) -> None:
        target = validate.TARGETS["base with scraping"]
        added = [one for one in assemble(target, validate.ROOT) if one["kind"] == "PodMonitor"]
        assert not list(scraping.each_service_has_a_monitor([*manifests, *added]))
        found = {one["metadata"]["name"]: one["spec"] for one in added}
        change(found)
        manifests += [one for one in added if one["metadata"]["name"] in found]

    return bug


def _endpoint(monitors: dict[str, Any], name: str = "chunker") -> Any:
    return monitors[name]["podMetricsEndpoints"][0]


SCRAPING: list[tuple[Any, Callable[[Manifests], object], str]] = [
    (
        scraping.metrics_are_reached,
        lambda m: _policy(m, "backcast-agents").update(ingress=[]),
        "agent: its metrics at port 8080 are closed",
    ),
    (
        scraping.metrics_are_reached,
        lambda m: _policy(m, "backcast").update(podSelector={}),
        "init: port 8080 has no metrics and is open",
    ),
    (
        scraping.metrics_are_reached,
        lambda m: _policy(m, "backcast-agents")["ingress"][0]["ports"].append({"port": 8081}),
        "agent: port 8081 has no metrics and is open",
    ),
    (
        scraping.each_service_has_a_monitor,
        _monitors(lambda found: found.pop("agent")),
        "agent: expected one PodMonitor that finds it, got 0",
    ),
    (
        scraping.each_service_has_a_monitor,
        _monitors(lambda found: found["restore"]["selector"].update(matchLabels={"a": "b"})),
        "restore: finds no service",
    ),
    (
        scraping.each_service_has_a_monitor,
        _monitors(lambda found: _endpoint(found).update(scheme="http")),
        "PodMonitor backcast/chunker: expected the endpoints",
    ),
    (
        scraping.each_service_has_a_monitor,
        _monitors(lambda found: _endpoint(found)["tlsConfig"].update(serverName="chunker")),
        "PodMonitor backcast/chunker: expected the endpoints",
    ),
]
