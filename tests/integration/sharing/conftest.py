"""A cluster of three nodes, and a disk that all of them can write."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import discard, start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from tests.support.running import Answer, RunningSite
from tests.support.shared_disk import SharedDisk

NODES = 3
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    cluster = LocalCluster(BackcastHome(tmp_path_factory.mktemp("three"), tied=True))
    start_or_skip(lambda: cluster.up(print, s3=S3Choice.MINIO, agent_count=NODES))
    try:
        yield RunningSite(cluster, tmp_path_factory.mktemp("volumes"))
    finally:
        discard(cluster)


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
