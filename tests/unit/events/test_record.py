import json

import pytest

from libs.errors import BadEventError, MalformedEventError, UnknownEventError
from libs.events.batches import BatchesDigest
from libs.events.codec import EVENT_SIZE_BYTES_MAX, encode
from libs.events.notifications import NotificationRaised
from libs.events.record import from_record, to_record
from libs.events.registry import REGISTRY, Event
from libs.events.topics import BLOCK_CHANGES, NOTIFICATIONS, PACKS
from tests.golden.make_events import SAMPLES, envelope_of

NOTICE = next(event for event in SAMPLES if isinstance(event, NotificationRaised))


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_record(event: Event) -> None:
    record = to_record(envelope_of(event), encode(event))
    assert record.topic == REGISTRY.topic_of(type(event))
    assert record.key == envelope_of(event).subject.encode()
    assert from_record(record.topic, record.headers, record.value) == (envelope_of(event), event)


def test_a_notification_is_structured_cloudevents_json() -> None:
    record = to_record(envelope_of(NOTICE), encode(NOTICE))
    assert record.headers == (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    document = json.loads(record.value)
    assert document["type"] == "backcast.notifications.raised"
    assert document["data"]["severity"] == "warning"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"specversion":"1.0","data":{"x":1e400}}',
        b'{"specversion":"1.0","data":{"x":99999999999999999999999999}}',
        b"{" + b" " * EVENT_SIZE_BYTES_MAX + b"}",
    ],
    ids=lambda text: text[:30],
)
def test_a_notification_that_is_not_ours_is_a_bad_event(text: bytes) -> None:
    headers = to_record(envelope_of(NOTICE), encode(NOTICE)).headers
    with pytest.raises(BadEventError):
        from_record(NOTIFICATIONS, headers, text)


def test_a_notification_of_another_content_type_is_malformed() -> None:
    record = to_record(envelope_of(NOTICE), encode(NOTICE))
    with pytest.raises(MalformedEventError, match="content type"):
        from_record(NOTIFICATIONS, [("content-type", b"text/plain")], record.value)


def test_an_event_on_the_wrong_topic_is_malformed() -> None:
    record = to_record(envelope_of(SAMPLES[0]), encode(SAMPLES[0]))
    assert record.topic == BLOCK_CHANGES
    with pytest.raises(MalformedEventError, match="does not belong"):
        from_record(PACKS, record.headers, record.value)


def test_a_record_without_value_is_malformed() -> None:
    record = to_record(envelope_of(SAMPLES[0]), encode(SAMPLES[0]))
    with pytest.raises(MalformedEventError, match="no value"):
        from_record(record.topic, record.headers, None)


def test_an_event_of_a_newer_writer_is_unknown() -> None:
    headers = to_record(envelope_of(SAMPLES[0]), encode(SAMPLES[0])).headers
    newer = [(name, b"7" if name == "ce_dataversion" else value) for name, value in headers]
    with pytest.raises(UnknownEventError, match="version 7 is unknown"):
        from_record(BLOCK_CHANGES, newer, encode(SAMPLES[0]))


def test_the_digest_of_batches_depends_on_their_order_and_borders() -> None:
    def digest(*values: bytes) -> bytes:
        batches = BatchesDigest()
        for value in values:
            batches.add(value)
        assert batches.count == len(values)
        return batches.digest()

    assert digest(b"a", b"b") == digest(b"a", b"b")
    assert len({digest(), digest(b"a", b"b"), digest(b"b", b"a"), digest(b"ab"), digest(b"a")}) == 5
