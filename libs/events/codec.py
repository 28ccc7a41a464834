"""Events as msgpack: a map of field names to values, checked alike when written and when read.

A value is read only if it is, byte for byte, what this program would write for the same fields.
That one rule refuses unknown fields, fields named twice, longer forms of a number, trailing bytes.
"""

from typing import Any, cast

import msgspec

from libs.errors import BadInputError, MalformedEventError, OversizedEventError
from libs.events.registry import REGISTRY, Event, Registry

#: Largest encoded event. Payload never travels in events; Kafka carries up to 512 KiB with headers.
EVENT_SIZE_BYTES_MAX = 256 * 1024

#: What decoding raises for bytes that are no such event; the last comes from a class's own checks.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadInputError)


class Codec:
    """Encodes and decodes the events of a registry; safe to use from several threads.

    Memory while decoding is a small multiple of the value's size: msgspec allocates nothing from a
    length that the value merely claims, and nesting ends at the interpreter's recursion limit.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
        self._decoders = {
            event.name: msgspec.msgpack.Decoder(event.cls) for event in registry.events
        }

    def encode(self, event: object) -> bytes:
        """The value of an event.

        Raises:
            BadInputError: a field has a wrong type or is out of its bounds.
            OversizedEventError: the value is larger than `EVENT_SIZE_BYTES_MAX`.
        """
        name, _version = self._registry.wire_of(type(event))
        try:
            value = self._encoder.encode(event)
        except (TypeError, ValueError, OverflowError) as err:
            raise BadInputError(f"event {name}: {err}; it was not written") from err
        _check_size(name, value)
        try:
            self._decode_newest(name, value)
        except MalformedEventError as err:
            raise BadInputError(f"{err}; it was not written") from err
        return value

    def decode(self, name: str, version: int, value: bytes) -> object:
        """The event that a value of this wire name and version says; an old version is upcast.

        Raises:
            UnknownEventError: no such name or version.
            OversizedEventError: the value is larger than `EVENT_SIZE_BYTES_MAX`.
            MalformedEventError: anything else that is wrong with it.
        """
        event = self._registry.named(name, version)
        _check_size(name, value)
        if version < event.version:
            fields = self._registry.upcast(event, version, self._decode_fields(name, value))
            value = self._encoder.encode(fields)
        return self._decode_newest(name, value)

    def _decode_newest(self, name: str, value: bytes) -> object:
        try:
            event = self._decoders[name].decode(value)
        except _UNREADABLE as err:
            raise MalformedEventError(f"event {name}: {err}") from err
        self._check_canonical(name, event, value)
        return event

    def _decode_fields(self, name: str, value: bytes) -> dict[str, Any]:
        try:
            fields = msgspec.msgpack.decode(value, type=dict[str, Any])
        except _UNREADABLE as err:
            raise MalformedEventError(f"event {name}: {err}") from err
        self._check_canonical(name, fields, value)
        return fields

    def _check_canonical(self, name: str, content: object, value: bytes) -> None:
        if self._encoder.encode(content) != value:
            raise MalformedEventError(
                f"event {name}: {len(value)} bytes are not what its fields are written as: "
                f"an unknown or repeated field, or a number in a longer form"
            )


def _check_size(name: str, value: bytes) -> None:
    if len(value) > EVENT_SIZE_BYTES_MAX:
        raise OversizedEventError(
            f"event {name}: {len(value)} bytes, expected at most {EVENT_SIZE_BYTES_MAX}"
        )


_CODEC = Codec(REGISTRY)


def encode(event: Event) -> bytes:
    """`Codec.encode` for the events of Backcast."""
    return _CODEC.encode(event)


def decode(name: str, version: int, value: bytes) -> Event:
    """`Codec.decode` for the events of Backcast."""
    return cast("Event", _CODEC.decode(name, version, value))
