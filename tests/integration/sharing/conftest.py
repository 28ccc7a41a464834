"""A cluster of three nodes, and a disk that all of them can write."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support.folder_share import shared_in
from tests.support.running import Answer, RunningSite, running_site
from tests.support.shared_disk import SharedDisk

NODES = 3
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunningSite:
    def made() -> AbstractContextManager[RunningSite]:
        return running_site(tmp_path_factory, agent_count=NODES)

    return shared_in(Path(__file__).parent, request, made)


@pytest.fixture
def disk(site: RunningSite, tmp_path: Path) -> Iterator[SharedDisk]:
    with SharedDisk(site, tmp_path / "disk", f"shared-{next(_numbers)}", NODES) as made:
        yield made
    site.heal()


def part_of(taken: Answer) -> Answer:
    """The only volume of a session."""
    (part,) = taken["parts"]
    found: Answer = part
    return found


def sealed(site: RunningSite, name: str, tracking: str) -> Answer:
    """A snapshot of a volume, which is sealed and whose changes were known like this."""
    taken = site.take(name)
    assert taken["state"] == "sealed", taken
    assert part_of(taken)["tracking"] == tracking, taken
    return taken
