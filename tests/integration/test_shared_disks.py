"""A disk that three nodes write, each through its own filter, by the real services.

Writers read each other's records and name them in theirs, and overwrite the same chunks in turn. So
a restored snapshot contradicts itself if it is not of one instant.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from deploy.local.services import node_name
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.rest.client import RestClient
from tests.support.running import TENANT, Answer, RunningSite
from tests.support.shared_disk import SharedDisk

NODES = 3
CUTS = 4


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    cluster = LocalCluster(BackcastHome(tmp_path_factory.mktemp("three"), tied=True))
    start_or_skip(lambda: cluster.up(print, s3=S3Choice.MINIO, agent_count=NODES))
    try:
        yield RunningSite(cluster, tmp_path_factory.mktemp("volumes"))
    finally:
        cluster.down(print)
        shutil.rmtree(cluster.home.folder / "data")


@pytest.fixture
def disk(site: RunningSite, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SharedDisk]:
    name = f"shared-{abs(hash(request.node.name)) % 10**9}"
    with SharedDisk(site, tmp_path / "disk", name, NODES) as made:
        yield made


def barrier_of(site: RunningSite, session: str) -> list[Answer]:
    """What each node did at a snapshot's barrier, as `backcast snapshot show` says."""
    restore = RestClient(site.cluster.home.url, site.cluster.home.secret("token"))
    found: list[Answer] = restore.get(f"/v1/tenants/{TENANT}/snapshots/{session}")["barrier"]
    return found


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


def test_no_effect_is_in_a_snapshot_of_a_shared_disk_without_its_cause(
    site: RunningSite, disk: SharedDisk
) -> None:
    added = disk.protect()
    assert [one["lead"] for one in added["nodes"]] == [True, False, False]
    disk.start_writers()
    for number in range(CUTS):
        acknowledged = disk.acknowledged()
        taken = sealed(site, disk.name, "candidates" if number else "none")
        assert part_of(taken)["consistency"] == "frozen"
        verdict = disk.judge(taken["sequence"], acknowledged)
        assert not verdict.contradictions, verdict.contradictions
        assert min(verdict.heads) > 0
        steps = barrier_of(site, taken["session"])
        assert [step["node"] for step in steps] == [node_name(n + 1) for n in range(NODES)]
        assert {(step["means"], step["unbroken"]) for step in steps} == {("filter", True)}
        disk.wait_written(acknowledged, 20)


def test_only_what_any_node_has_written_is_read(site: RunningSite, disk: SharedDisk) -> None:
    disk.protect()
    assert site.take(disk.name)["state"] == "sealed"
    assert disk.restored() == disk.path.read_bytes()
    for node in range(NODES):
        disk.write(node, node * CHUNK_SIZE_BYTES, os.urandom(4096))
    disk.write(1, 0, os.urandom(4096))
    taken = sealed(site, disk.name, "candidates")
    assert part_of(taken)["read_bytes"] == NODES * CHUNK_SIZE_BYTES
    assert disk.restored() == disk.path.read_bytes()
    empty = sealed(site, disk.name, "candidates")
    assert part_of(empty)["changed_bytes"] == 0
