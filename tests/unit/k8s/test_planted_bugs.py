"""Each rule finds what is planted against it, and nothing in the manifests as they are."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from k8s import validate
from k8s.checks import network, operators, pods, references, settings
from k8s.kustomization import Manifest, assemble
from services.change_capture.barrier import hold
from tests.unit.k8s.agents_listener import AGENTS_LISTENER
from tests.unit.k8s.scraping import SCRAPING

Manifests = list[Manifest]
Check = Callable[[Manifests], Iterator[object]]

PRODUCTION = assemble(validate.TARGETS["production"], validate.ROOT)


def one(manifests: Manifests, kind: str, name: str, namespace: str = "backcast") -> Any:
    (found,) = (
        manifest
        for manifest in manifests
        if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name)
        and manifest["metadata"].get("namespace", namespace) == namespace
    )
    return found


def pod(manifests: Manifests, name: str = "chunker") -> Any:
    return one(manifests, "Deployment", name)["spec"]["template"]["spec"]


def container(manifests: Manifests, name: str = "chunker") -> Any:
    return pod(manifests, name)["containers"][0]


def config(manifests: Manifests, name: str = "chunker") -> Any:
    return one(manifests, "ConfigMap", name)["data"]


def agent_config(manifests: Manifests) -> Any:
    return one(manifests, "ConfigMap", "agent", "backcast-agents")["data"]


def policy(manifests: Manifests, name: str, namespace: str = "backcast") -> Any:
    return one(manifests, "NetworkPolicy", name, namespace)["spec"]


def kafka_user(manifests: Manifests, name: str) -> Any:
    return one(manifests, "KafkaUser", name, "backcast-data")["spec"]["authorization"]["acls"]


def topic(manifests: Manifests, name: str) -> Any:
    return one(manifests, "KafkaTopic", name, "backcast-data")["spec"]


def drop(manifests: Manifests, kind: str, name: str, namespace: str = "backcast") -> None:
    manifests.remove(one(manifests, kind, name, namespace))


def brokers(manifests: Manifests) -> Any:
    return one(manifests, "Kafka", "backcast", "backcast-data")["spec"]["kafka"]


def postgres(manifests: Manifests) -> Any:
    return one(manifests, "Cluster", "backcast-postgres", "backcast-data")["spec"]


NODE_FOLDER = {"name": "node", "hostPath": {"path": "/"}}
NODE_MOUNT = {"name": "node", "mountPath": "/node"}
TOKEN_VARIABLE = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
ANY_PEER = {"ports": [{"protocol": "TCP", "port": 8080}]}

#: (rule, bug, part of what the rule says)
PLANTED: list[tuple[Check, Callable[[Manifests], object], str]] = [
    (pods.restricted, lambda m: pod(m)["securityContext"].pop("runAsNonRoot"), "as root"),
    (pods.restricted, lambda m: pod(m)["securityContext"].update(runAsUser=0), "as root"),
    (pods.restricted, lambda m: pod(m)["securityContext"].pop("seccompProfile"), "seccomp"),
    (pods.restricted, lambda m: pod(m).update(hostNetwork=True), "namespace of the node"),
    (pods.restricted, lambda m: container(m).pop("securityContext"), "keeps capabilities"),
    (
        pods.restricted,
        lambda m: container(m)["securityContext"].pop("allowPrivilegeEscalation"),
        "gain privileges",
    ),
    (
        pods.restricted,
        lambda m: container(m)["securityContext"].update(readOnlyRootFilesystem=False),
        "writable root",
    ),
    (
        pods.restricted,
        lambda m: container(m)["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
        "SYS_ADMIN",
    ),
    (
        pods.restricted,
        lambda m: (
            pod(m)["volumes"].append(NODE_FOLDER),
            container(m)["volumeMounts"].append(NODE_MOUNT),
        ),
        "writes / of the node",
    ),
    (pods.isolated, lambda m: pod(m).pop("automountServiceAccountToken"), "automount"),
    (pods.isolated, lambda m: pod(m).pop("enableServiceLinks"), "enableServiceLinks"),
    (pods.isolated, lambda m: pod(m).pop("serviceAccountName"), "ServiceAccount"),
    (pods.isolated, lambda m: drop(m, "ServiceAccount", "chunker"), "ServiceAccount"),
    (pods.probed, lambda m: container(m).pop("livenessProbe"), "liveness"),
    (
        pods.probed,
        lambda m: container(m)["readinessProbe"]["httpGet"].update(path="/healthz"),
        "/readyz",
    ),
    (pods.probed, lambda m: container(m)["startupProbe"]["httpGet"].update(port="web"), "startup"),
    (pods.bounded, lambda m: container(m)["resources"].pop("limits"), "limit of memory"),
    (pods.bounded, lambda m: container(m)["resources"]["requests"].pop("cpu"), "requests"),
    (pods.pinned, lambda m: container(m).update(image="backcast/chunker:latest"), "no version"),
    (pods.pinned, lambda m: container(m).update(image="host:5000/chunker"), "no version"),
    (
        pods.free_of_secrets,
        lambda m: m.append({"kind": "Secret", "metadata": {"name": "a", "namespace": "backcast"}}),
        "outside of manifests",
    ),
    (
        pods.free_of_secrets,
        lambda m: config(m).update(BACKCAST_CHUNKER_S3_SECRET_KEY="abc"),
        "looks like a secret",
    ),
    (
        pods.free_of_secrets,
        lambda m: config(m).update(BACKCAST_CHUNKER_URL="https://user:pass@host/"),
        "looks like a secret",
    ),
    (pods.free_of_secrets, lambda m: container(m).update(env=[TOKEN_VARIABLE]), "as files"),
    (
        pods.free_of_secrets,
        lambda m: container(m)["envFrom"].append({"secretRef": {"name": "a"}}),
        "as files",
    ),
    (pods.survives_drains, lambda m: drop(m, "PodDisruptionBudget", "chunker"), "got 0"),
    (
        pods.survives_drains,
        lambda m: one(m, "PodDisruptionBudget", "chunker")["spec"].update(maxUnavailable=0),
        "allow one pod",
    ),
    (pods.survives_drains, lambda m: pod(m)["topologySpreadConstraints"].pop(), "not spread"),
    (network.closed, lambda m: drop(m, "NetworkPolicy", "deny-all"), "denies all"),
    (network.closed, lambda m: policy(m, "deny-all").update(egress=[{}]), "denies all"),
    (
        network.servers_as_needed,
        lambda m: drop(m, "NetworkPolicy", "to-postgres"),
        "catalog: its settings name a server at port 5432",
    ),
    (
        network.servers_as_needed,
        lambda m: policy(m, "to-kafka").update(podSelector={}),
        "restore: egress to port 9093 is allowed",
    ),
    (
        network.needed_flows_only,
        lambda m: drop(m, "NetworkPolicy", "chunker-to-agents"),
        "chunker → agent:8081: needed, but egress",
    ),
    (
        network.needed_flows_only,
        lambda m: policy(m, "agent-with-coordinator-and-chunkers", "backcast-agents").update(
            ingress=[]
        ),
        "coordinator → agent:8080: needed, but ingress",
    ),
    (
        network.needed_flows_only,
        lambda m: policy(m, "be-scraped").update(ingress=[ANY_PEER]),
        "restore → chunker:8080: not needed",
    ),
    (
        network.needed_flows_only,
        lambda m: policy(m, "to-kafka")["egress"].append({}),
        "chunker → restore:8080: not needed",
    ),
    *AGENTS_LISTENER,
    *SCRAPING,
    (
        references.services_find_pods,
        lambda m: one(m, "Service", "restore")["spec"]["selector"].update(tier="web"),
        "selects nothing",
    ),
    (
        references.services_find_pods,
        lambda m: one(m, "Service", "restore")["spec"]["ports"][0].update(targetPort="web"),
        "no port web",
    ),
    (references.ingresses_find_services, lambda m: drop(m, "Service", "restore"), "no Service"),
    (references.configuration_exists, lambda m: drop(m, "ConfigMap", "chunker"), "no ConfigMap"),
    (
        references.namespaces_exist,
        lambda m: one(m, "Service", "restore")["metadata"].update(namespace="bakcast"),
        "no such namespace",
    ),
    (
        references.namespaces_enforce,
        lambda m: one(m, "Namespace", "backcast")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
        "baseline",
    ),
    (
        settings.load_into_settings,
        lambda m: config(m).update(BACKCAST_CHUNKER_LANES="3"),
        "BACKCAST_CHUNKER_LANES: unknown variable",
    ),
    (
        settings.load_into_settings,
        lambda m: config(m).pop("BACKCAST_CHUNKER_S3_ENDPOINT"),
        "must be set",
    ),
    (
        settings.load_into_settings,
        lambda m: config(m).update(BACKCAST_CHUNKER_LANE_COUNT="few"),
        "whole number",
    ),
    (
        settings.load_into_settings,
        lambda m: config(m).update(BACKCAST_CHUNKER_KEK_FILE="/run/backcast/key"),
        "no volume brings /run/backcast/key",
    ),
    (
        settings.load_into_settings,
        lambda m: config(m).update(BACKCAST_CHUNKER_KAFKA_BOOTSTRAP="localhost:9092"),
        "no such host",
    ),
    (
        settings.load_into_settings,
        lambda m: agent_config(m).update(BACKCAST_AGENT_ROOTS="/srv"),
        "expected TENANT=PATH",
    ),
    (
        settings.roots_are_mounted,
        lambda m: agent_config(m).update(BACKCAST_AGENT_ROOTS="*=/var/lib/libvirt/images"),
        "open to every tenant",
    ),
    (
        settings.roots_are_mounted,
        lambda m: agent_config(m).update(BACKCAST_AGENT_ROOTS="acme=/run/backcast"),
        "no volume of the node brings it",
    ),
    (
        settings.everyone_speaks_tls,
        lambda m: config(m).pop("BACKCAST_CHUNKER_TLS_CERTIFICATE_FILE"),
        "has no certificate",
    ),
    (
        settings.everyone_speaks_tls,
        lambda m: container(m)["livenessProbe"]["httpGet"].pop("scheme"),
        "asks without TLS",
    ),
    (
        settings.everyone_speaks_tls,
        lambda m: agent_config(m).update(
            BACKCAST_AGENT_COORDINATOR_URL="http://coordinator.backcast.svc:8080"
        ),
        "is without TLS",
    ),
    (
        settings.everyone_speaks_tls,
        lambda m: one(m, "Certificate", "chunker")["spec"].update(dnsNames=["elsewhere"]),
        "no Certificate makes backcast-tls-chunker",
    ),
    (
        operators.known_fields,
        lambda m: topic(m, "backcast.packs").update(partition=1),
        "partition",
    ),
    (
        operators.topics_as_in_code,
        lambda m: topic(m, "backcast.packs").update(partitions=2),
        "backcast.packs",
    ),
    (
        operators.topics_as_in_code,
        lambda m: topic(m, "backcast.packs")["config"].update({"retention.ms": 604800000}),
        "retention.ms",
    ),
    (
        operators.topics_as_in_code,
        lambda m: drop(m, "KafkaTopic", "backcast.packs", "backcast-data"),
        "got None",
    ),
    (
        operators.users_may_what_they_need,
        lambda m: kafka_user(m, "backcast-agent")[0]["operations"].append("Read"),
        "KafkaUser backcast-agent",
    ),
    (
        operators.users_may_what_they_need,
        lambda m: kafka_user(m, "backcast-catalog").pop(),
        "KafkaUser backcast-catalog",
    ),
    (
        operators.users_may_what_they_need,
        lambda m: kafka_user(m, "backcast-chunker")[1]["resource"].update(name="chunker"),
        "group chunker",
    ),
    (
        operators.users_may_what_they_need,
        lambda m: drop(m, "KafkaUser", "backcast-chunker", "backcast-data"),
        "no KafkaUser backcast-chunker",
    ),
    (
        operators.brokers_refuse_what_is_not_allowed,
        lambda m: brokers(m)["config"].pop("allow.everyone.if.no.acl.found"),
        "without an ACL",
    ),
    (
        operators.brokers_refuse_what_is_not_allowed,
        lambda m: brokers(m)["listeners"][0].update(tls=False),
        "every listener",
    ),
    (
        operators.commits_survive_a_server,
        lambda m: postgres(m)["postgresql"]["synchronous"].update(dataDurability="preferred"),
        "required",
    ),
    (
        validate.schema_violations,
        lambda m: one(m, "Deployment", "chunker")["spec"].update(replica=3),
        "Deployment backcast/chunker",
    ),
    (
        validate.schema_violations,
        lambda m: one(m, "Deployment", "chunker").update(apiVersion="apps/v1beta1"),
        "no such kind and version",
    ),
]


def said(check: Check, manifests: Manifests) -> list[str]:
    return [str(violation) for violation in check(manifests)]


@pytest.mark.parametrize(("check", "bug", "expected"), PLANTED)
def test_a_planted_bug_is_found(
    check: Check, bug: Callable[[Manifests], object], expected: str
) -> None:
    manifests = copy.deepcopy(PRODUCTION)
    if check is validate.schema_violations:  # the other objects only cost time
        manifests = [one(manifests, "Deployment", "chunker")]
    before = said(check, manifests)
    bug(manifests)
    new = [text for text in said(check, manifests) if text not in before]
    assert any(expected in text for text in new), new


@pytest.mark.parametrize("check", validate.CHECKS)
def test_no_rule_cries_wolf(check: Check) -> None:
    assert not said(check, PRODUCTION)


def test_every_rule_has_a_planted_bug() -> None:
    assert set(validate.CHECKS) <= {check for check, _, _ in PLANTED}


def test_a_secret_that_the_guide_leaves_out_is_found(tmp_path) -> None:
    guide = tmp_path / "deployment.md"
    guide.write_text(validate.GUIDE.read_text().replace("`kek`", "`key`"))
    (first, *_) = settings.secrets_are_described(PRODUCTION, guide)
    assert "backcast-kek/kek" in first


def test_an_exception_that_is_no_longer_needed_is_told(monkeypatch) -> None:
    monkeypatch.setattr(validate, "schema_violations", lambda _: iter(()))
    exceptions = {**validate.EXCEPTIONS, ("Deployment backcast/chunker", "privileged"): "why"}
    (violation,) = validate.violations(PRODUCTION, exceptions)
    assert "no longer needed" in violation


def test_violations_make_the_exit_status(monkeypatch, capsys) -> None:
    monkeypatch.setattr(validate, "schema_violations", lambda _: iter(()))
    assert validate.main() == 0
    monkeypatch.setattr(validate, "EXCEPTIONS", {})
    assert validate.main() == 1
    assert "runs as root" in capsys.readouterr().out


def test_the_component_that_an_agent_names_is_there() -> None:
    component = "k8s/components/freeze"
    assert component in inspect.getsource(hold)
    assert (validate.ROOT.parent / component / "kustomization.yaml").exists()
