"""Inputs that once crashed a parser, or made it allocate what they claimed, are refused today."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.fuzz.target import Target
from tests.faults.fuzz.targets import TARGETS

FOUND = sorted(Path("tests/golden/fuzz").glob("*/*"))
_MEMORY_BYTES_MAX = 192 << 20


@contextmanager
def _bounded_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + _MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (bound, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_found_input_is_handled(path: Path) -> None:
    with _bounded_memory():
        TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_first_seed_of_every_target_is_accepted(target: Target) -> None:
    assert target.run(target.seeds()[0])
