"""The only constructor of Kafka clients: aiokafka's own defaults can lose records.

What differs from them, and why:

* producer: ``acks=all`` and idempotence (the default acknowledges what one broker may still lose,
  and a retry may repeat or reorder records);
* consumer: no auto-commit (positions live with their effects in Postgres), ``earliest`` (``latest``
  skips what came before the first start), ``read_committed``;
* sizes: event < request < what the topic takes < what one fetch takes, because a record that is
  larger than a fetch can never be read.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer  # type: ignore[import-untyped]  # no py.typed
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]  # no py.typed

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
from libs.runtime.groups import KafkaSettings

#: Largest record batch that the topics take (their ``max.message.bytes``).
TOPIC_MESSAGE_SIZE_BYTES_MAX = 512 * 1024
#: Event, headers and key: the largest record that is ever sent.
_REQUEST_SIZE_BYTES_MAX = EVENT_SIZE_BYTES_MAX + HEADERS_SIZE_BYTES_MAX + 1024
_BATCH_SIZE_BYTES_MAX = 256 * 1024
_PARTITION_FETCH_SIZE_BYTES_MAX = 1024 * 1024
_FETCH_SIZE_BYTES_MAX = 8 * 1024 * 1024
_PRODUCER_REQUEST_TIMEOUT_MS = 15_000
#: What to do about brokers that take nothing. One whose disk is full says so in its own log only.
WAY_OUT = "Bring its brokers back, or make room if a disk of theirs is full"
#: A consumer that was killed is replaced after this time (brokers allow 6 s and more).
_SESSION_TIMEOUT_MS = 6_000
_HEARTBEAT_INTERVAL_MS = 2_000
#: Time for callbacks on revoked partitions, which may have a transaction to finish.
_REBALANCE_TIMEOUT_MS = 30_000


#: A topic that was deleted and made anew is found again within this time. By itself aiokafka looks
#: every five minutes, and a consumer without partitions fetches nothing that would tell it sooner.
_METADATA_AGE_MS_MAX = 5_000


def producer(settings: KafkaSettings) -> AIOKafkaProducer:
    """A producer that loses, repeats and reorders nothing; not started."""
    return AIOKafkaProducer(
        **_connection(settings),
        acks="all",
        enable_idempotence=True,
        max_batch_size=_BATCH_SIZE_BYTES_MAX,
        max_request_size=_REQUEST_SIZE_BYTES_MAX,
        request_timeout_ms=_PRODUCER_REQUEST_TIMEOUT_MS,
        metadata_max_age_ms=_METADATA_AGE_MS_MAX,
    )


def consumer(settings: KafkaSettings, group: str | None) -> AIOKafkaConsumer:
    """A consumer that commits nothing; not started, no topics. `EventConsumer` uses it.

    Args:
        settings: how to reach the brokers.
        group: members of a group share the partitions; None = all of them for this one.
    """
    return AIOKafkaConsumer(
        **_connection(settings),
        group_id=group,
        metadata_max_age_ms=_METADATA_AGE_MS_MAX,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=_PARTITION_FETCH_SIZE_BYTES_MAX,
        fetch_max_bytes=_FETCH_SIZE_BYTES_MAX,
        session_timeout_ms=_SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=_HEARTBEAT_INTERVAL_MS,
        rebalance_timeout_ms=_REBALANCE_TIMEOUT_MS,
    )


def admin(settings: KafkaSettings) -> AIOKafkaAdminClient:
    """An admin client; not started. `ensure_topics` uses it."""
    return AIOKafkaAdminClient(**_connection(settings))


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn aiokafka's errors into those of the tree.

    Args:
        doing: what fails then, for the message: "publish to backcast.packs".
    """
    try:
        yield
    except kafka.KafkaError as err:
        raise translate(err, doing) from err


def translate(err: BaseException, doing: str) -> BackcastError:
    """The error of the tree that says what an error of aiokafka means."""
    text = f"Kafka: could not {doing}: {str(err) or type(err).__name__}"
    match err:
        case kafka.RecordTooLargeError():
            return InvariantViolation(
                f"{text}; the topic takes records that no fetch can carry: its max.message.bytes "
                f"must be {TOPIC_MESSAGE_SIZE_BYTES_MAX}"
            )
        case kafka.CorruptRecordException():
            return DamagedDataError(f"{text}; the broker's log is damaged")
        case kafka.MessageSizeTooLargeError() | kafka.RecordListTooLargeError():
            return OversizedEventError(text)
        case kafka.UnknownTopicOrPartitionError():
            return ConfigurationError(
                f"{text}; topics are made by `python -m services.catalog init`"
            )
        case (
            kafka.TopicAuthorizationFailedError()
            | kafka.GroupAuthorizationFailedError()
            | kafka.ClusterAuthorizationFailedError()
            | kafka.SaslAuthenticationFailed()
            | kafka.AuthenticationFailedError()
        ):
            return ForbiddenError(
                f"{text}; check the rights of KAFKA_SASL_USERNAME, and the file of "
                f"KAFKA_SASL_PASSWORD_FILE"
            )
        case _:
            failed = isinstance(err, kafka.UnknownError | kafka.KafkaStorageError)
            way_out = f"; the broker's log says why. {WAY_OUT}" if failed else ""
            return UnavailableError(text + way_out)


def connection_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """What every client is given besides the addresses of brokers."""
    password = settings.sasl_password
    with_tls = settings.security_protocol.endswith("SSL")
    return {
        "client_id": "backcast",
        "security_protocol": settings.security_protocol,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": password.reveal() if password else None,
        "ssl_context": ssl.create_default_context(cafile=settings.ca_file) if with_tls else None,
    }


def _connection(settings: KafkaSettings) -> dict[str, Any]:
    return {"bootstrap_servers": settings.bootstrap.split(","), **connection_arguments(settings)}
