"""A disk that three nodes write, each through its own filter, by the real services.

Writers read each other's records and name them in theirs, and overwrite the same chunks in turn. So
a restored snapshot contradicts itself if it is not of one instant.
"""

import os

from deploy.local.services import node_name
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.rest.client import RestClient
from tests.integration.sharing.conftest import NODES, part_of, sealed
from tests.support.running import TENANT, Answer, RunningSite
from tests.support.shared_disk import SharedDisk

CUTS = 4


def barrier_of(site: RunningSite, session: str) -> list[Answer]:
    """What each node did at a snapshot's barrier, as `backcast snapshot show` says."""
    restore = RestClient(site.cluster.home.url, site.cluster.home.secret("token"))
    found: list[Answer] = restore.get(f"/v1/tenants/{TENANT}/snapshots/{session}")["barrier"]
    return found


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
