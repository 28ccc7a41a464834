"""An event as a Kafka record: a binary CloudEvent of msgpack; notifications are structured JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from libs.errors import MalformedEventError, OversizedEventError
from libs.events.codec import EVENT_SIZE_BYTES_MAX, decode
from libs.events.envelope import (
    CONTENT_TYPE,
    Envelope,
    Header,
    from_attributes,
    from_headers,
    read_headers,
    to_attributes,
    to_headers,
)
from libs.events.registry import REGISTRY, Event
from libs.events.topics import NOTIFICATIONS

_STRUCTURED = "application/cloudevents+json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class EventRecord:
    """What is handed to Kafka."""

    topic: str
    #: The envelope's subject: records with the same key stay in order.
    key: bytes
    headers: tuple[tuple[str, bytes], ...]
    value: bytes


def to_record(envelope: Envelope, value: bytes) -> EventRecord:
    """The Kafka record of an encoded event.

    Args:
        envelope: names the event's type, by which its topic is known.
        value: what `codec.encode` made of the event.

    Raises:
        UnknownEventError: no such type or version.
        OversizedEventError: a notification that is too large as JSON.
    """
    topic = REGISTRY.named(envelope.type, envelope.version).topic
    key = envelope.subject.encode()
    if topic != NOTIFICATIONS:
        return EventRecord(topic, key, to_headers(envelope), value)
    document = to_attributes(envelope) | {
        "datacontenttype": "application/json",
        "data": msgspec.msgpack.decode(value),
    }
    text = msgspec.json.encode(document)
    if len(text) > EVENT_SIZE_BYTES_MAX:
        raise OversizedEventError(
            f"event {envelope.type}: {len(text)} bytes of JSON, "
            f"expected at most {EVENT_SIZE_BYTES_MAX}"
        )
    return EventRecord(topic, key, ((CONTENT_TYPE, _STRUCTURED.encode()),), text)


def from_record(
    topic: str, headers: Sequence[Header], value: bytes | None
) -> tuple[Envelope, Event]:
    """Read a Kafka record, whoever wrote it.

    Raises:
        BadEventError: unknown, malformed or oversized; or an event that belongs to another topic.
    """
    if value is None:
        raise MalformedEventError(f"record of {topic}: it has no value")
    if topic == NOTIFICATIONS:
        envelope, value = _from_structured(headers, value)
    else:
        envelope = from_headers(headers)
    event = decode(envelope.type, envelope.version, value)
    if REGISTRY.topic_of(type(event)) != topic:
        raise MalformedEventError(f"event {envelope.type}: it does not belong on topic {topic}")
    return envelope, event


def _from_structured(headers: Sequence[Header], text: bytes) -> tuple[Envelope, bytes]:
    content_type = read_headers(headers).get(CONTENT_TYPE)
    if content_type != _STRUCTURED:
        raise MalformedEventError(
            f"event: expected content type {_STRUCTURED}, got {content_type!r}"
        )
    if len(text) > EVENT_SIZE_BYTES_MAX:
        raise OversizedEventError(
            f"event: {len(text)} bytes of JSON, expected at most {EVENT_SIZE_BYTES_MAX}"
        )
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise MalformedEventError(f"event: {err}") from err
    attributes = {name: item for name, item in document.items() if isinstance(item, str)}
    data = document.get("data")
    if not isinstance(data, dict):
        raise MalformedEventError("event: its JSON has no object `data`")
    try:
        return from_attributes(attributes), msgspec.msgpack.encode(data)
    except OverflowError as err:
        raise MalformedEventError(f"event: {err}") from err
