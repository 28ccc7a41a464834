"""The reference of events: a page for people and an AsyncAPI document for programs."""

import dataclasses
import inspect
import json
import sys
from typing import Any

import msgspec

from docs.attributes import attributes_of, paragraphs_of, summary_of
from docs.markdown import table
from libs.events import fields
from libs.events.registry import EVENTS, EventType
from libs.events.topics import TOPICS, Topic

_DAY_SECONDS = 24 * 60 * 60

_INTRODUCTION = """\
Values are msgpack maps of the fields below, UUIDs as 16 bytes; the CloudEvents attributes travel as
`ce_*` headers. Notifications are CloudEvents JSON. [asyncapi.json](asyncapi.json) has the same for
programs.

`runs` and `zero_runs` are columns of runs of chunk indexes, ascending, without any header. A run
has 12 bytes: its first chunk (unsigned, 8 bytes) and the number of its chunks (unsigned, 4 bytes),
both little-endian. Chunk N is the bytes from N × `chunk_size_bytes` on. `ids` has 32 bytes for each
chunk of `runs`, in the same order; `tags` has one byte for each, or is empty where all are 0.

```python
import struct

import msgspec  # or any other msgpack

event = msgspec.msgpack.decode(record.value)
indexes = [
    index
    for first, count in struct.iter_unpack("<QI", event["runs"])
    for index in range(first, first + count)
]
ids = [event["ids"][at : at + 32] for at in range(0, len(event["ids"]), 32)]
changed = dict(zip(indexes, ids, strict=True))  # chunk index → id
```"""
#: Where the topics are: by name as everywhere, and how one reaches them in this installation.
_SERVERS = {
    "local": {
        "host": "127.0.0.1:{port}",
        "protocol": "kafka",
        "description": "The servers of `backcast dev up`, without TLS and credentials.",
        "variables": {"port": {"description": "As `backcast dev env` prints it"}},
    },
    "cluster": {
        "host": "{bootstrap}",
        "protocol": "kafka-secure",
        "description": "A cluster: TLS, and SASL with a user that may read the topics.",
        "variables": {
            "bootstrap": {"description": "HOST:PORT of a broker, as BACKCAST_*_KAFKA_BOOTSTRAP"}
        },
        "security": [{"$ref": "#/components/securitySchemes/sasl"}],
    },
}
_PAYLOADS = """\
Payloads are msgpack; the schemas show the same maps as JSON would have them. Byte strings are
base64
and UUIDs text there."""


def events_page() -> str:
    """Every topic, its events and their fields."""
    parts = [
        "# Events",
        _INTRODUCTION,
    ]
    for topic in TOPICS:
        parts += _topic_section(topic)
    parts += ["## Types of fields", _types_of_fields()]
    return "\n\n".join(parts) + "\n"


def asyncapi_document() -> str:
    """The same topics and events as AsyncAPI 3."""
    _, schemas = msgspec.json.schema_components(
        [event.cls for event in EVENTS], ref_template="#/components/schemas/{name}"
    )
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Backcast events",
            "version": "1",
            "description": _PAYLOADS.replace("\n", " "),
        },
        "defaultContentType": "application/msgpack",
        "servers": _SERVERS,
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "components": {
            "messages": {event.name: _message(event) for event in EVENTS},
            "schemas": schemas,
            "securitySchemes": {"sasl": {"type": "scramSha512"}},
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _topic_section(topic: Topic) -> list[str]:
    kept = (
        "for ever"
        if topic.retention_seconds is None
        else f"{topic.retention_seconds // _DAY_SECONDS} days"
    )
    writer = "the catalog's relay" if topic.relayed else "agents"
    facts = f"Key: {topic.key}. Partitions: {topic.partitions}. Kept {kept}. Written by {writer}."
    parts = [f"## {topic.name}", facts]
    events = _events_of(topic)
    for event in events:
        parts += [f"### {event.name}, version {event.version}", *_class_section(event.cls)]
    for cls in _parts_of(events):
        parts += [f"### {cls.__name__}", *_class_section(cls)]
    return parts


def _types_of_fields() -> str:
    """The aliases that fields are annotated with, wherever they are defined."""
    modules = dict.fromkeys([fields, *(sys.modules[event.cls.__module__] for event in EVENTS)])
    rows = [
        (f"`{one.name}`", f"`{one.text}`", one.comment)
        for module in modules
        for one in attributes_of(module).values()
        if one.text.startswith(("Annotated[", "Literal["))
    ]
    return table(("type", "definition", "meaning"), rows)


def _class_section(cls: type) -> list[str]:
    rows = [(f"`{one.name}`", f"`{one.text}`", one.comment) for one in attributes_of(cls).values()]
    return [paragraphs_of(cls), table(("field", "type", "meaning"), rows)]


def _events_of(topic: Topic) -> list[EventType]:
    return [event for event in EVENTS if event.topic == topic.name]


def _parts_of(events: list[EventType]) -> list[type]:
    """Classes that stand beside the events in their modules: what fields of events are made of."""
    classes = [event.cls for event in events]
    modules = dict.fromkeys(cls.__module__ for cls in classes)
    return [
        cls
        for module in modules
        for _, cls in inspect.getmembers(sys.modules[module], dataclasses.is_dataclass)
        if isinstance(cls, type) and cls.__module__ == module and cls not in classes
    ]


def _channel(topic: Topic) -> dict[str, Any]:
    kept = -1 if topic.retention_seconds is None else topic.retention_seconds * 1000
    return {
        "address": topic.name,
        "messages": {
            event.name: {"$ref": f"#/components/messages/{event.name}"}
            for event in _events_of(topic)
        },
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {"retention.ms": kept},
            }
        },
    }


def _message(event: EventType) -> dict[str, Any]:
    return {
        "name": event.name,
        "title": f"{event.cls.__name__}, version {event.version}",
        "summary": summary_of(event.cls),
        "payload": {"$ref": f"#/components/schemas/{event.cls.__name__}"},
    }
