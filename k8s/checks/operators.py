"""Kafka, Postgres and others as their operators' custom resources describe them.

Their schemas come with the operators, not with Kubernetes: here only kind, version and the fields
that Backcast depends on are checked.
"""

from collections.abc import Iterator
from typing import Any

from k8s.checks.settings import environment
from k8s.kustomization import Manifest, identity
from k8s.workloads import of_kind, workloads
from libs.events.topics import BLOCK_CHANGES, TOPICS, Topic
from libs.kafka import topics as kafka_topics
from services.chunker.intake import GROUP

_CERT_MANAGER = "cert-manager.io/v1"
_STRIMZI = "kafka.strimzi.io/v1"
#: Version and kind of each custom resource → fields of its specification that are used here.
KINDS: dict[tuple[str, str], set[str]] = {
    (_CERT_MANAGER, "Certificate"): {
        *("secretName", "dnsNames", "issuerRef", "usages", "privateKey", "duration"),
        "renewBefore",
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {"selector", "podMetricsEndpoints"},
    (_STRIMZI, "Kafka"): {"kafka", "entityOperator"},
    (_STRIMZI, "KafkaNodePool"): {"replicas", "roles", "storage", "resources"},
    (_STRIMZI, "KafkaTopic"): {"partitions", "replicas", "config"},
    (_STRIMZI, "KafkaUser"): {"authentication", "authorization"},
    ("postgresql.cnpg.io/v1", "Cluster"): {
        *("instances", "imageName", "bootstrap", "managed", "postgresql", "storage", "walStorage"),
        *("resources", "affinity"),
    },
}
_REPLICAS = 3

#: What a Kafka user may do: (type of resource, name, operations).
Rights = set[tuple[str, str, frozenset[str]]]


def known_fields(manifests: list[Manifest]) -> Iterator[str]:
    """Custom resources with a field that nobody has looked up."""
    for manifest in manifests:
        known = KINDS.get((manifest["apiVersion"], manifest["kind"]))
        if known is not None and (unknown := manifest["spec"].keys() - known):
            yield f"{identity(manifest)}: not known here: {', '.join(sorted(unknown))}"


def topics_as_in_code(manifests: list[Manifest]) -> Iterator[str]:
    """Topics that are missing, too many, or not as libs/events/topics.py says."""
    found = {topic["metadata"]["name"]: topic["spec"] for topic in of_kind(manifests, "KafkaTopic")}
    if not found:  # the set-up makes them
        return
    expected = {topic.name: _topic_spec(topic) for topic in TOPICS}
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield f"KafkaTopic {name}: expected {expected.get(name)}, got {found.get(name)}"


def users_may_what_they_need(manifests: list[Manifest]) -> Iterator[str]:
    """Kafka users with other rights than their service needs, or services without a user."""
    users = {user["metadata"]["name"]: user["spec"] for user in of_kind(manifests, "KafkaUser")}
    if not users:
        return
    for name, spec in users.items():
        expected, found = _needed_rights().get(name), _rights(spec)
        if found != expected:
            yield f"KafkaUser {name}: expected {_shown(expected)}, got {_shown(found)}"
    for workload in workloads(manifests):
        variable = f"BACKCAST_{workload.name.upper()}_KAFKA_SASL_USERNAME"
        user = environment(manifests, workload).get(variable)
        if user is not None and user not in users:
            yield f"{workload}: there is no KafkaUser {user}"


def brokers_refuse_what_is_not_allowed(manifests: list[Manifest]) -> Iterator[str]:
    """Kafka clusters that serve strangers, plain text, or one copy of a record."""
    for cluster in of_kind(manifests, "Kafka"):
        kafka = cluster["spec"]["kafka"]
        config: dict[str, Any] = kafka["config"]
        expected = {
            "authorization is simple": kafka.get("authorization") == {"type": "simple"},
            "nothing is allowed without an ACL": config.get("allow.everyone.if.no.acl.found")
            is False,
            "nobody creates topics by using them": config.get("auto.create.topics.enable") is False,
            "two copies make a record": config.get("min.insync.replicas", 0) >= 2,
            "no stale replica leads": config.get("unclean.leader.election.enable") is False,
            "every listener has TLS and users": all(
                one["tls"] and one.get("authentication", {}).get("type") == "scram-sha-512"
                for one in kafka["listeners"]
            ),
        }
        yield from (
            f"{identity(cluster)}: expected that {rule}"
            for rule, kept in expected.items()
            if not kept
        )


def commits_survive_a_server(manifests: list[Manifest]) -> Iterator[str]:
    """Postgres clusters that may acknowledge what only one server has."""
    for cluster in of_kind(manifests, "Cluster"):
        spec = cluster["spec"]
        synchronous = spec["postgresql"].get("synchronous", {})
        required = synchronous.get("dataDurability") == "required"
        if not (required and synchronous.get("number", 0) >= 1 and spec["instances"] >= _REPLICAS):
            yield (
                f"{identity(cluster)}: expected {_REPLICAS} instances and a synchronous standby "
                f"that is required"
            )


def _topic_spec(topic: Topic) -> dict[str, Any]:
    config = kafka_topics._configuration(topic)  # noqa: SLF001 -- the one place where it is written
    return {
        "partitions": topic.partitions,
        "replicas": _REPLICAS,
        "config": {
            name: int(value) if value.removeprefix("-").isdecimal() else value
            for name, value in (config | {"min.insync.replicas": "2"}).items()
        },
    }


def _needed_rights() -> dict[str, Rights]:
    write, read = frozenset({"Write", "Describe"}), frozenset({"Read", "Describe"})
    compare = frozenset({"Describe", "DescribeConfigs"})
    return {
        "backcast-agent": {("topic", topic.name, write) for topic in TOPICS if not topic.relayed},
        "backcast-catalog": {("topic", topic.name, write) for topic in TOPICS if topic.relayed},
        "backcast-chunker": {
            ("topic", BLOCK_CHANGES, read),
            ("group", GROUP, frozenset({"Read"})),
        },
        "backcast-init": {("topic", topic.name, compare) for topic in TOPICS},
    }


def _rights(spec: dict[str, Any]) -> Rights:
    return {
        (acl["resource"]["type"], acl["resource"]["name"], frozenset(acl["operations"]))
        for acl in spec["authorization"]["acls"]
        if acl["resource"]["patternType"] == "literal" and acl.get("type", "allow") == "allow"
    }


def _shown(rights: Rights | None) -> str:
    if rights is None:
        return "no such user"
    return "; ".join(
        f"{kind} {name}: {', '.join(sorted(may))}" for kind, name, may in sorted(rights, key=str)
    )
