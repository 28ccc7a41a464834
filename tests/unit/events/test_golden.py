import dataclasses
from pathlib import Path

import pytest

from libs.events.block_changes import ExtentsChanged
from libs.events.codec import decode
from libs.events.registry import REGISTRY
from tests.golden.make_events import COMMAND, GOLDEN, SAMPLES, golden_files


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.name)
def test_todays_code_writes_the_golden_bytes(path: Path) -> None:
    assert path.exists(), f"{path} is missing; make it with: {COMMAND}"
    assert golden_files()[path] == path.read_bytes(), (
        f"{path.name}: a published event never changes; add a version and an upcaster"
    )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.msgpack")), ids=lambda path: path.name)
def test_every_golden_value_is_read_by_todays_code(path: Path) -> None:
    name, _, version = path.stem.rpartition("-v")
    decode(name, int(version), path.read_bytes())


def test_batches_of_version_1_are_all_of_the_tenants_own_domain() -> None:
    name = "backcast.block_changes.extents_changed"
    event = decode(name, 1, (GOLDEN / f"{name}-v1.msgpack").read_bytes())
    (newest,) = [sample for sample in SAMPLES if isinstance(sample, ExtentsChanged)]
    assert event == dataclasses.replace(newest, tags=b"")


def test_every_version_of_every_event_has_golden_bytes() -> None:
    wanted = {
        f"{entry.name}-v{version}.msgpack"
        for entry in REGISTRY.events
        for version in range(1, entry.version + 1)
    }
    assert wanted == {path.name for path in GOLDEN.glob("*.msgpack")}, f"make it with: {COMMAND}"


def test_every_event_has_a_sample() -> None:
    assert {type(event) for event in SAMPLES} == {entry.cls for entry in REGISTRY.events}
