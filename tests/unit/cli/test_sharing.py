"""What `backcast volume` says to the coordinator of volumes that several nodes write."""

import pytest

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

NODES = [
    {"node": "a", "path": "/dev/shared", "lead": True},
    {"node": "b", "path": "/dev/shared", "lead": False},
]
DISK = {"name": "disk", "node": "a", "path": "/dev/shared", "size_bytes": 65536, "nodes": NODES}
VOLUMES = "/v1/tenants/default/volumes"


def test_a_volume_is_added_with_every_node_that_writes_it(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script["POST", VOLUMES] = [DISK]
    nodes = ("--node", "a:/dev/shared", "--node", "b:/dev/shared")
    said = backcast("volume", "add", "disk", *nodes, "--group", "g").out
    assert "/dev/shared on node a, /dev/shared on node b (the first one captures it)" in said
    places = [{"node": one["node"], "path": one["path"]} for one in NODES]
    assert service.bodies("POST", VOLUMES) == [{"name": "disk", "nodes": places, "group": "g"}]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("/dev/x", "--node", "a:/dev/x", "--node", "b:/dev/x"),
        ("--node", "a:/dev/x", "--node", "b"),
        ("/dev/x", "--node", "a", "--node", "b"),
        ("--node", "a:", "--node", "b:/dev/x"),
    ],
)
def test_a_place_that_is_said_twice_or_not_at_all_is_refused(
    backcast: Backcast, service: ScriptedService, arguments: tuple[str, ...]
) -> None:
    refused = backcast("volume", "add", "disk", *arguments)
    assert refused.status != 0
    assert "expected" in refused.err
    assert service.bodies("POST", VOLUMES) == []


def test_nodes_join_and_leave(backcast: Backcast, script: Script, service: ScriptedService) -> None:
    script["POST", f"{VOLUMES}/disk/join"] = [DISK]
    script["POST", f"{VOLUMES}/disk/leave"] = [DISK]
    assert "compares everything" in backcast("volume", "join", "disk", "--node", "b:/dev/x").out
    assert backcast("volume", "leave", "disk", "--node", "c").status == 0
    joined = [{"node": "b", "path": "/dev/x", "again": False}]
    assert service.bodies("POST", f"{VOLUMES}/disk/join") == joined
    assert service.bodies("POST", f"{VOLUMES}/disk/leave") == [{"node": "c"}]
