"""What a case goes back to before each of its faults."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from libs.store.memory import MemoryStore
from tests.faults.crash_points.disk import Content
from tests.faults.crash_points.inline import Topics


@dataclass(frozen=True)
class Saved:
    """What was durable at some time, but for the rows, which the database keeps itself."""

    statements: list[str]
    objects: dict[str, bytes]
    second_objects: dict[str, bytes] | None
    state: dict[Path, bytes]
    topics: Topics
    disks: dict[str, tuple[Content, list[int]]]
    sealed: dict[UUID, dict[str, Content]]
    given_up: set[UUID]


def objects_of(store: MemoryStore) -> dict[str, bytes]:
    """All objects of a bucket."""
    return {stat.key: store.get(stat.key) for stat in store.list("")}
