import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import BadInputError, MalformedEventError
from libs.events.envelope import HEADERS_SIZE_BYTES_MAX, Envelope, from_headers, to_headers
from libs.ids import uuid7
from tests.golden.make_events import SAMPLES, SESSION, envelope_of

ENVELOPE = envelope_of(SAMPLES[0])

_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=255).filter(str.isprintable)
_event_ids = st.builds(uuid7, st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
envelopes = st.builds(
    Envelope,
    event_id=_event_ids,
    type=_texts,
    version=st.integers(1, 2**31 - 1),
    source=_texts,
    subject=_texts,
    tenant=_texts,
    occurred_at=st.datetimes(timezones=st.just(UTC)),
    position=st.none() | st.integers(1, 2**63 - 1),
    correlation_id=st.none() | st.uuids(),
    causation_id=st.none() | st.uuids(),
    mac=st.none() | st.binary(min_size=32, max_size=32),
)


@given(envelopes)
def test_an_envelope_comes_back_from_its_headers(envelope: Envelope) -> None:
    assert from_headers(to_headers(envelope)) == envelope


def test_headers_follow_cloudevents_for_kafka() -> None:
    headers = dict(to_headers(ENVELOPE))
    assert headers["content-type"] == b"application/msgpack"
    assert headers["ce_specversion"] == b"1.0"
    assert all(name[3:].isalnum() and name[3:].islower() for name in headers if name[:3] == "ce_")


def test_times_are_written_in_utc() -> None:
    local = datetime(2026, 11, 22, 12, tzinfo=timezone(timedelta(hours=2)))
    headers = dict(to_headers(dataclasses.replace(ENVELOPE, occurred_at=local)))
    assert headers["ce_time"] == b"2026-11-22T10:00:00.000000Z"


def test_absent_attributes_have_no_header() -> None:
    bare = dataclasses.replace(
        ENVELOPE, position=None, correlation_id=None, causation_id=None, mac=None
    )
    assert {"ce_position", "ce_correlationid", "ce_causationid", "ce_mac"}.isdisjoint(
        dict(to_headers(bare))
    )


def test_headers_of_others_are_ignored() -> None:
    headers = [*to_headers(ENVELOPE), ("traceparent", b"\xff\xfe"), ("traceparent", None)]
    assert from_headers(headers) == ENVELOPE


@pytest.mark.parametrize(
    "name",
    ["content-type", *(f"ce_{n}" for n in ("specversion", "id", "type", "dataversion", "source",
                                           "subject", "tenant", "time"))],
)  # fmt: skip
def test_a_missing_header_is_malformed(name: str) -> None:
    with pytest.raises(MalformedEventError):
        from_headers([header for header in to_headers(ENVELOPE) if header[0] != name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-type", b"application/json"),
        ("ce_specversion", b"0.3"),
        ("ce_id", str(SESSION).upper().encode() + b" "),
        ("ce_id", b"5f0c8a9e-0000-4000-8000-000000000001"),
        ("ce_dataversion", b"0"),
        ("ce_dataversion", b"01"),
        ("ce_dataversion", b"1e3"),
        ("ce_dataversion", "１".encode()),
        ("ce_position", b"-4"),
        ("ce_position", b"9999999999999999999"),
        ("ce_time", b"2026-11-22T10:00:00+02:00"),
        ("ce_time", b"2026-13-22T10:00:00.000000Z"),
        ("ce_subject", b""),
        ("ce_subject", b"a\nb"),
        ("ce_subject", b"\xff"),
        ("ce_tenant", b"x" * 256),
        ("ce_mac", b"00"),
        ("ce_mac", b"zz" * 32),
        ("ce_correlationid", b"1"),
        ("ce_type", None),
    ],
)
def test_a_wrong_header_is_malformed(name: str, value: bytes | None) -> None:
    headers = [*(header for header in to_headers(ENVELOPE) if header[0] != name), (name, value)]
    with pytest.raises(MalformedEventError):
        from_headers(headers)


def test_a_header_named_twice_is_malformed() -> None:
    with pytest.raises(MalformedEventError, match="twice"):
        from_headers([*to_headers(ENVELOPE), ("ce_tenant", b"other")])


def test_headers_have_a_limit() -> None:
    with pytest.raises(MalformedEventError, match="bytes of headers"):
        from_headers([*to_headers(ENVELOPE), ("x", bytes(HEADERS_SIZE_BYTES_MAX))])


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0},
        {"position": 0},
        {"event_id": UUID(int=0)},
        {"mac": bytes(16)},
        {"occurred_at": datetime(2026, 11, 22)},  # noqa: DTZ001 -- the missing zone is the point
        {"tenant": ""},
    ],
    ids=str,
)
def test_an_envelope_out_of_bounds_is_not_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        dataclasses.replace(ENVELOPE, **wrong)
