"""What is planted against the rules that keep others than agents from the listener for agents."""

from collections.abc import Callable
from typing import Any

from k8s.checks import network
from k8s.kustomization import Manifest

Manifests = list[Manifest]

_TCP = {"protocol": "TCP"}


def _one(manifests: Manifests, kind: str, name: str) -> Any:
    (found,) = (
        manifest["spec"]
        for manifest in manifests
        if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name)
    )
    return found


def _policy(manifests: Manifests, name: str) -> Any:
    (found,) = (
        manifest["spec"]["ingress"]
        for manifest in manifests
        if manifest["kind"] == "NetworkPolicy"
        and manifest["metadata"]["name"] == name
        and manifest["metadata"]["namespace"] == "backcast"
    )
    return found


def _lead_there(manifests: Manifests) -> None:
    backend = _one(manifests, "Ingress", "backcast")["rules"][1]["http"]["paths"][0]["backend"]
    backend["service"]["port"] = {"name": "nodes"}


#: (rule, bug, part of what the rule says)
AGENTS_LISTENER: list[tuple[Any, Callable[[Manifests], object], str]] = [
    (
        network.needed_flows_only,
        lambda m: _policy(m, "coordinator-to-agents").clear(),
        "agent → coordinator:8082: needed, but ingress",
    ),
    (
        network.needed_flows_only,
        lambda m: _policy(m, "coordinator-to-agents")[0]["ports"].append(_TCP | {"port": 8080}),
        "agent → coordinator:8080: not needed",
    ),
    (
        network.agents_listener_is_for_agents,
        lambda m: _policy(m, "from-ingress")[0]["ports"].append(_TCP | {"port": 8082}),
        "from-ingress: lets others",
    ),
    (
        network.agents_listener_is_for_agents,
        lambda m: _policy(m, "from-ingress")[0]["ports"][0].update(endPort=8090),
        "from-ingress: lets others",
    ),
    (
        network.agents_listener_is_for_agents,
        lambda m: _policy(m, "be-scraped")[0].pop("ports"),
        "be-scraped: lets others",
    ),
    (
        network.agents_listener_is_for_agents,
        lambda m: _policy(m, "coordinator-to-agents")[0]["from"][0].pop("podSelector"),
        "coordinator-to-agents: lets others",
    ),
    (network.agents_listener_is_for_agents, _lead_there, "leads to the listener for agents"),
]
