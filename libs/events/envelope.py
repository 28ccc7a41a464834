"""The envelope of an event: CloudEvents 1.0 attributes, and their form as Kafka headers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from libs.errors import BadInputError, MalformedEventError

#: Largest sum of names and values of a record's headers that is looked at.
HEADERS_SIZE_BYTES_MAX = 8 * 1024
CONTENT_TYPE = "content-type"
MSGPACK = "application/msgpack"

_SPEC_VERSION = "1.0"
_PREFIX = "ce_"
_TEXT_LENGTH_MAX = 255
_VERSION_MAX = 2**31 - 1
_POSITION_MAX = 2**63 - 1
_MAC_SIZE_BYTES = 32
_UUID_VERSION = 7
_DECIMAL = re.compile(r"[1-9][0-9]{0,18}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)

#: A header as Kafka clients give it: name, bytes (None is legal in Kafka, never in ours).
Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Who says what about which object, and where that stands in the log.

    Raises:
        BadInputError: an attribute is out of its bounds.
    """

    #: UUIDv7; the same in every copy of the event.
    event_id: UUID
    #: Wire name, such as ``backcast.packs.pack_stored``.
    type: str
    #: Version of the type, from 1.
    version: int
    #: Who wrote it: a service, or ``agent/`` and the node.
    source: str
    #: Stream key: the object it is about; also the key of the Kafka record.
    subject: str
    #: Name of the tenant.
    tenant: str
    #: When it happened by the writer's clock; has a time zone. No correctness rests on it.
    occurred_at: datetime
    #: Gapless position in the catalog's log, from 1, on relayed topics.
    position: int | None = None
    #: The session or restore that it belongs to.
    correlation_id: UUID | None = None
    #: The event or request that made it happen.
    causation_id: UUID | None = None
    #: `mac.event_mac`, where an agent wrote the event.
    mac: bytes | None = None

    def __post_init__(self) -> None:
        """Check the bounds of every attribute."""
        for name in ("type", "source", "subject", "tenant"):
            text = getattr(self, name)
            if not 0 < len(text) <= _TEXT_LENGTH_MAX or not text.isprintable():
                raise BadInputError(
                    f"event {self.event_id}: {name} {text[:80]!r}: "
                    f"expected 1 to {_TEXT_LENGTH_MAX} printable characters"
                )
        if self.event_id.version != _UUID_VERSION:
            raise BadInputError(f"event id {self.event_id}: expected a UUID of version 7")
        if not 1 <= self.version <= _VERSION_MAX:
            raise BadInputError(
                f"event {self.event_id}: version {self.version}: expected 1 or more"
            )
        if self.position is not None and not 1 <= self.position <= _POSITION_MAX:
            raise BadInputError(
                f"event {self.event_id}: position {self.position}: expected 1 or more"
            )
        if self.occurred_at.tzinfo is None:
            raise BadInputError(f"event {self.event_id}: its time has no time zone")
        if self.mac is not None and len(self.mac) != _MAC_SIZE_BYTES:
            raise BadInputError(f"event {self.event_id}: expected a MAC of {_MAC_SIZE_BYTES} bytes")


def to_attributes(envelope: Envelope) -> dict[str, str]:
    """The CloudEvents attributes of an envelope, as text; absent ones are left out."""
    optional = {
        "position": envelope.position,
        "correlationid": envelope.correlation_id,
        "causationid": envelope.causation_id,
        "mac": envelope.mac.hex() if envelope.mac is not None else None,
    }
    return {
        "specversion": _SPEC_VERSION,
        "id": str(envelope.event_id),
        "type": envelope.type,
        "dataversion": str(envelope.version),
        "source": envelope.source,
        "subject": envelope.subject,
        "tenant": envelope.tenant,
        "time": _utc(envelope.occurred_at),
    } | {name: str(value) for name, value in optional.items() if value is not None}


def from_attributes(attributes: Mapping[str, str]) -> Envelope:
    """Read an envelope from CloudEvents attributes; unknown ones are ignored.

    Raises:
        MalformedEventError: an attribute is missing or not written as `to_attributes` writes it.
    """
    if attributes.get("specversion") != _SPEC_VERSION:
        found = attributes.get("specversion")
        raise MalformedEventError(f"event: expected specversion {_SPEC_VERSION}, got {found!r}")
    try:
        return Envelope(
            event_id=_uuid(attributes["id"]),
            type=attributes["type"],
            version=_positive(attributes["dataversion"]),
            source=attributes["source"],
            subject=attributes["subject"],
            tenant=attributes["tenant"],
            occurred_at=_time(attributes["time"]),
            position=_positive(attributes["position"]) if "position" in attributes else None,
            correlation_id=_optional_uuid(attributes, "correlationid"),
            causation_id=_optional_uuid(attributes, "causationid"),
            mac=bytes.fromhex(attributes["mac"]) if "mac" in attributes else None,
        )
    except KeyError as missing:
        raise MalformedEventError(f"event: attribute {missing} is missing") from None
    except (ValueError, BadInputError) as err:
        raise MalformedEventError(f"event: {err}") from err


def to_headers(envelope: Envelope) -> tuple[tuple[str, bytes], ...]:
    """Kafka headers of an event in binary mode (as CloudEvents binds to Kafka)."""
    attributes = to_attributes(envelope)
    return (
        (CONTENT_TYPE, MSGPACK.encode()),
        *((_PREFIX + name, text.encode()) for name, text in attributes.items()),
    )


def from_headers(headers: Sequence[Header]) -> Envelope:
    """Read the envelope from the Kafka headers of an event in binary mode.

    Headers that are not CloudEvents attributes (of tracing tools, say) are ignored.

    Raises:
        MalformedEventError: too large, not UTF-8, named twice, another content type, or a bad
            attribute.
    """
    texts = read_headers(headers)
    if texts.get(CONTENT_TYPE) != MSGPACK:
        found = texts.get(CONTENT_TYPE)
        raise MalformedEventError(f"event: expected content type {MSGPACK}, got {found!r}")
    return from_attributes(
        {
            name.removeprefix(_PREFIX): text
            for name, text in texts.items()
            if name.startswith(_PREFIX)
        }
    )


def read_headers(headers: Sequence[Header]) -> dict[str, str]:
    """Content type and attribute headers as text.

    Raises:
        MalformedEventError: too large, not UTF-8, or named twice.
    """
    size = sum(len(name) + len(value or b"") for name, value in headers)
    if size > HEADERS_SIZE_BYTES_MAX:
        raise MalformedEventError(
            f"event: {size} bytes of headers, expected at most {HEADERS_SIZE_BYTES_MAX}"
        )
    texts: dict[str, str] = {}
    for name, value in headers:
        if name != CONTENT_TYPE and not name.startswith(_PREFIX):
            continue
        if name in texts or value is None:
            raise MalformedEventError(f"event: header {name!r} is empty or named twice")
        try:
            texts[name] = value.decode()
        except UnicodeDecodeError as err:
            raise MalformedEventError(f"event: header {name!r} is not UTF-8") from err
    return texts


def _uuid(text: str) -> UUID:
    value = UUID(text)
    if str(value) != text:
        raise ValueError(f"{text!r} is not a UUID in its usual form")
    return value


def _optional_uuid(attributes: Mapping[str, str], name: str) -> UUID | None:
    return _uuid(attributes[name]) if name in attributes else None


def _positive(text: str) -> int:
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a positive decimal number")
    return int(text)


def _time(text: str) -> datetime:
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a UTC time like 2026-11-22T10:00:00.000000Z")
    return datetime.fromisoformat(text)


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
