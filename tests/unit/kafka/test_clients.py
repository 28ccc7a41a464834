import ast
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import errors as kafka  # type: ignore[import-untyped]  # no py.typed

from libs.errors import (
    BackcastError,
    ConfigurationError,
    DamagedDataError,
    ForbiddenError,
    InvariantViolation,
    OversizedEventError,
    UnavailableError,
)
from libs.events.codec import EVENT_SIZE_BYTES_MAX
from libs.events.envelope import HEADERS_SIZE_BYTES_MAX
from libs.kafka import clients
from libs.runtime.groups import KafkaSettings
from libs.runtime.settings import Secret

ROOT = Path(__file__).parents[3]
CLIENT_LIBRARIES = {"aiokafka", "kafka", "confluent_kafka", "faust"}
#: faust makes clients of its own; it may appear there alone (docs/adr/0005).
FAUST_HOME = ROOT / "services" / "watch"


def imports_of_clients(code: str) -> Iterator[str]:
    """Kafka client libraries that a module imports."""
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        yield from (name for name in names if name.partition(".")[0] in CLIENT_LIBRARIES)


def test_no_code_outside_libs_kafka_imports_a_kafka_client() -> None:
    allowed = (ROOT / "libs" / "kafka", FAUST_HOME)
    guilty = [
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("libs", "services", "deploy", "bench")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(path.is_relative_to(folder) for folder in allowed)
        for name in imports_of_clients(path.read_text())
    ]
    assert guilty == []


def test_clients_are_constructed_in_one_module() -> None:
    constructors = ("AIOKafkaProducer(", "AIOKafkaConsumer(", "AIOKafkaAdminClient(")
    modules = {
        path.name
        for path in (ROOT / "libs" / "kafka").glob("*.py")
        if any(constructor in path.read_text() for constructor in constructors)
    }
    assert modules == {"clients.py"}


@pytest.mark.parametrize(
    "code",
    ["import aiokafka", "def f():\n  from aiokafka.admin import NewTopic", "import faust as f"],
)
def test_the_search_finds_imports_in_any_form(code: str) -> None:
    assert list(imports_of_clients(code))
    assert not list(imports_of_clients("from libs.kafka import clients\nfrom . import kafka"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What aiokafka's constructors are given."""
    arguments: dict[str, Any] = {}
    for name in ("AIOKafkaProducer", "AIOKafkaConsumer", "AIOKafkaAdminClient"):
        monkeypatch.setattr(clients, name, lambda **given: arguments.update(given))
    return arguments


PLAIN = KafkaSettings(bootstrap="one:9092,two:9092")


def test_a_producer_waits_for_all_replicas_and_repeats_nothing(given: dict[str, Any]) -> None:
    clients.producer(PLAIN)
    assert given["acks"] == "all"
    assert given["enable_idempotence"] is True
    assert given["bootstrap_servers"] == ["one:9092", "two:9092"]


def test_a_consumer_commits_nothing_and_skips_nothing(given: dict[str, Any]) -> None:
    clients.consumer(PLAIN, "group")
    assert given["enable_auto_commit"] is False
    assert given["auto_offset_reset"] == "earliest"
    assert given["isolation_level"] == "read_committed"


def test_what_may_be_sent_can_always_be_stored_and_fetched(given: dict[str, Any]) -> None:
    clients.producer(PLAIN)
    clients.consumer(PLAIN, None)
    assert given["max_request_size"] > EVENT_SIZE_BYTES_MAX + HEADERS_SIZE_BYTES_MAX
    largest_batch = max(given["max_request_size"], given["max_batch_size"])
    assert largest_batch < clients.TOPIC_MESSAGE_SIZE_BYTES_MAX
    assert given["max_partition_fetch_bytes"] > clients.TOPIC_MESSAGE_SIZE_BYTES_MAX


@pytest.mark.parametrize(
    "make", [clients.producer, lambda s: clients.consumer(s, "g"), clients.admin]
)
def test_every_client_authenticates_over_tls_when_told(make: Any, given: dict[str, Any]) -> None:
    make(
        KafkaSettings(
            bootstrap="one:9093",
            security_protocol="SASL_SSL",
            sasl_username="chunker",
            sasl_password=Secret("hidden"),
        )
    )
    assert given["security_protocol"] == "SASL_SSL"
    assert given["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (given["sasl_plain_username"], given["sasl_plain_password"]) == ("chunker", "hidden")
    assert given["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert given["ssl_context"].check_hostname


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (kafka.RecordTooLargeError("a"), InvariantViolation),
        (kafka.CorruptRecordException(), DamagedDataError),
        (kafka.MessageSizeTooLargeError(), OversizedEventError),
        (kafka.UnknownTopicOrPartitionError(), ConfigurationError),
        (kafka.TopicAuthorizationFailedError("t"), ForbiddenError),
        (kafka.SaslAuthenticationFailed(), ForbiddenError),
        (kafka.KafkaConnectionError("refused"), UnavailableError),
        (kafka.OutOfOrderSequenceNumber(), UnavailableError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_errors_of_the_library_become_errors_of_the_tree(
    error: Exception, expected: type[BackcastError]
) -> None:
    with pytest.raises(expected, match="could not read") as caught, clients.translated("read"):
        raise error
    assert caught.type is expected
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [kafka.UnknownError(), kafka.KafkaStorageError()])
def test_a_broker_that_fails_is_no_riddle(error: Exception) -> None:
    """A full disk is seen as either, or as no answer."""
    assert "make room" in str(clients.translate(error, "publish"))
