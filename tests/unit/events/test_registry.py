from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from libs.errors import InvariantViolation, MalformedEventError
from libs.events.codec import Codec
from libs.events.packs import PackStored
from libs.events.registry import EVENTS, REGISTRY, EventType, Registry, Upcaster
from libs.events.snapshots import SnapshotRequested
from libs.events.topics import PACKS, TOPICS

NAME = "backcast.packs.pack_moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackMoved:
    """Third version: sizes in bytes, and a reason."""

    size_bytes: int
    reason: str


MOVED = EventType(PACKS, NAME, 3, PackMoved)
TO_2 = Upcaster(NAME, 1, lambda fields: {"size_bytes": fields["size_kib"] * 1024})
TO_3 = Upcaster(NAME, 2, lambda fields: fields | {"reason": "unknown"})


def test_an_old_version_is_read_through_every_upcaster() -> None:
    codec = Codec(Registry([MOVED], [TO_2, TO_3]))
    assert codec.decode(NAME, 1, msgspec.msgpack.encode({"size_kib": 3})) == PackMoved(
        size_bytes=3072, reason="unknown"
    )
    assert codec.decode(NAME, 2, msgspec.msgpack.encode({"size_bytes": 5})) == PackMoved(
        size_bytes=5, reason="unknown"
    )


def test_an_old_version_is_read_as_strictly_as_the_newest() -> None:
    codec = Codec(Registry([MOVED], [TO_2, TO_3]))
    for hostile in (b"", b"\x92", b"\x81\xa1x" + b"\x91" * 100_000, b"\x82\xa1a\x01\xa1a\x01"):
        with pytest.raises(MalformedEventError):
            codec.decode(NAME, 2, hostile)


@pytest.mark.parametrize(
    ("events", "upcasters"),
    [
        pytest.param([MOVED], [TO_2], id="a gap"),
        pytest.param([MOVED], [TO_2, TO_3, Upcaster(NAME, 3, dict)], id="beyond the newest"),
        pytest.param([MOVED], [TO_2, TO_3, Upcaster(NAME, 1, dict)], id="two from one version"),
        pytest.param([MOVED], [TO_2, TO_3, Upcaster("other", 1, dict)], id="of no event"),
        pytest.param([MOVED, MOVED], [TO_2, TO_3], id="a name twice"),
        pytest.param([*EVENTS, EventType(PACKS, NAME, 1, PackStored)], [], id="a class twice"),
        pytest.param([EventType(PACKS, NAME, 1, dict)], [], id="not a dataclass"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(events: Any, upcasters: Any) -> None:
    with pytest.raises(InvariantViolation):
        Registry(events, upcasters)


def test_every_event_belongs_to_a_topic_that_exists() -> None:
    assert {entry.topic for entry in EVENTS} == {topic.name for topic in TOPICS}
    assert REGISTRY.topic_of(SnapshotRequested) == "backcast.snapshots"


def test_relayed_topics_have_one_partition() -> None:
    assert all(topic.partitions == 1 for topic in TOPICS if topic.relayed)


def test_every_event_says_when_it_is_emitted_and_what_a_duplicate_does() -> None:
    for entry in EVENTS:
        text = entry.cls.__doc__ or ""
        assert text.startswith("Emitted "), entry.name
        assert all(word in text for word in ("Stream key:", "Ordering:", "duplicate")), entry.name
