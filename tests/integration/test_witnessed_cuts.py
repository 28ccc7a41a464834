"""Disks of three nodes are cut at one instant, while every node writes all of them.

Writers read each other's records and name them in theirs, and overwrite the same chunks in turn. So
a restored snapshot contradicts itself if it is not of one instant.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from deploy.local.services import node_name
from tests.support.running import RunningSite, shown_barrier
from tests.support.witnessed import WitnessedGroup

NODES = 3
CUTS = 5


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
def group(site: RunningSite, tmp_path: Path) -> Iterator[WitnessedGroup]:
    with WitnessedGroup(site, tmp_path, "witnessed", NODES) as made:
        yield made


def test_no_effect_is_in_a_snapshot_without_its_cause_unless_nodes_are_cut_one_by_one(
    site: RunningSite, group: WitnessedGroup
) -> None:
    for number in range(CUTS):
        acknowledged = group.acknowledged()
        taken = site.take(group.name)
        assert taken["state"] == "sealed", taken
        tracking = {part["tracking"] for part in taken["parts"]}
        assert tracking == {"candidates" if number else "none"}
        assert {part["consistency"] for part in taken["parts"]} == {"frozen"}
        points = dict.fromkeys(group.volumes, taken["sequence"])
        verdict = group.judge(points, acknowledged)
        assert not verdict.contradictions, verdict.contradictions
        assert min(verdict.heads) > 0
        steps = shown_barrier(site, group.volumes[0])
        assert [step.node for step in steps] == [node_name(n + 1) for n in range(NODES)]
        assert {(step.means, step.unbroken) for step in steps} == {("filter", "True")}
        # One machine has one clock, so that what its nodes say can be compared.
        assert max(step.held_at for step in steps) <= min(step.cut_at for step in steps)
        assert max(step.cut_at for step in steps) <= min(step.released_at for step in steps)
        group.wait_written(acknowledged, group.layout.slots)  # every ring goes round
    # The same disks as volumes of their own are cut one after the other: the judge must say so.
    alone = [f"alone-{node}" for node in range(NODES)]
    for node, name in enumerate(alone):
        group.protect(node, name, name, again=True)
        acknowledged = group.acknowledged()
        assert site.take(name)["state"] == "sealed"
        group.wait_written(acknowledged, group.layout.slots)
    assert group.judge(dict.fromkeys(alone, "latest")).contradictions
