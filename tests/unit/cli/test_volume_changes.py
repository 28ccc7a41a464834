"""volume show, rename, move, remove, regroup, pause and resume: what they ask for and say."""

from typing import Any

import pytest

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

VOLUMES = "/v1/tenants/default/volumes"
DISK = f"{VOLUMES}/disk"


def volume(**changed: Any) -> dict[str, Any]:
    return {
        "volume": "0190-1",
        "name": "disk",
        "group": "db",
        "node": "node-1",
        "path": "/dev/disk",
        "nodes": [{"node": "node-1", "path": "/dev/disk", "lead": True}],
        "freeze": None,
        "driver": "scan",
        "removed_at": None,
        "removed_by": None,
        "paused_at": None,
        "paused_by": None,
        "paused_reason": None,
        "latest": None,
        "points": 3,
        "oldest_at": "2026-11-22T10:00:00Z",
    } | changed


@pytest.fixture(autouse=True)
def _scripted(script: Script) -> None:
    script["GET", DISK] = [volume()]
    script["GET", VOLUMES] = [[volume(), volume(name="log")]]


def test_a_removal_says_what_stays_and_what_goes_on(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    script["POST", f"{DISK}/remove"] = [{"name": "disk", "group": "db", "points": 3}]
    ran = backcast("volume", "remove", "disk")
    assert ran.status == 0
    assert "its 3 go by the name disk and expire with the snapshots of group db" in ran.err
    assert "in the end, the last one, too" in ran.err
    assert "the snapshots of group db are of log alone" in ran.err
    assert "`backcast volume add disk /dev/disk` takes it back" in ran.out
    assert service.bodies("POST", f"{DISK}/remove") == [None]


def test_a_removal_of_the_only_volume_says_what_stays_for_ever(
    script: Script, backcast: Backcast
) -> None:
    script["GET", VOLUMES] = [[volume()]]
    ran = backcast("volume", "remove", "disk", "--dry-run")
    assert "nobody can expire the last good one" in ran.err
    assert "from now on" not in ran.err


def test_dry_runs_change_nothing(service: ScriptedService, backcast: Backcast) -> None:
    for arguments in (
        ("remove", "disk"),
        ("regroup", "disk", "other"),
        ("pause", "disk", "--reason", "why"),
    ):
        ran = backcast("volume", *arguments, "--dry-run")
        assert ran.status == 0, ran.err
        assert "would be" in ran.out
    assert [asked for asked, *_ in service.requests if asked == "POST"] == []


def test_a_move_keeps_the_node_unless_another_one_is_named(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    script["POST", f"{DISK}/move"] = [volume() | {"size_bytes": 1 << 20}]
    assert backcast("volume", "move", "disk", "/dev/new").status == 0
    ran = backcast("volume", "move", "disk", "/dev/new", "--node", "n2", "--no-freeze", "--again")
    assert "its next snapshot compares everything" in ran.out
    first, second = service.bodies("POST", f"{DISK}/move")
    assert first == {"path": "/dev/new", "again": False, "no_freeze": False}
    assert second == {"path": "/dev/new", "again": True, "no_freeze": True, "node": "n2"}


def test_a_new_group_says_that_history_begins_anew(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    done = {"volume": "0190-2", "name": "disk", "group": "web", "kept_as": "disk-1", "points": 3}
    script["POST", f"{DISK}/regroup"] = [done]
    ran = backcast("volume", "regroup", "disk", "web")
    assert "the rule of group web says how long its new recovery points stay" in ran.err
    assert "its 3 go by the name disk-1, or the next name that is free, and expire" in ran.err
    assert "disk: in group web; its history is disk-1" in ran.out
    assert service.bodies("POST", f"{DISK}/regroup") == [{"group": "web", "keep_as": None}]


def test_a_pause_names_the_group_and_a_reason(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    script["POST", f"{DISK}/pause"] = [{"group": "db", "volumes": ["disk", "log"]}]
    script["POST", f"{DISK}/resume"] = [{"group": "db", "volumes": ["disk", "log"]}]
    ran = backcast("volume", "pause", "disk", "--reason", "the array moves")
    assert "disk is in group db: the pause is for disk and log" in ran.err
    assert "retention gives up none of its recovery points" in ran.out
    assert service.bodies("POST", f"{DISK}/pause") == [{"reason": "the array moves"}]
    assert backcast("volume", "resume", "disk").out == "db: takes snapshots again\n"
    assert backcast("volume", "pause", "disk", "--reason", "").status == 2


def test_a_rename_says_what_was_meant(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    script["POST", f"{DISK}/rename"] = [{"volume": "web", "group": "web"}]
    ran = backcast("volume", "rename", "disk", "web")
    assert ran.out == "volume disk is web now, with its recovery points\n"
    assert service.bodies("POST", f"{DISK}/rename") == [{"name": "web"}]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "protected"),
        (
            {"removed_at": "2026-11-23T10:00:00Z", "removed_by": "ops"},
            "removed 2026-11-23T10:00:00Z by ops; its recovery points expire",
        ),
        (
            {
                "paused_at": "2026-11-23T10:00:00Z",
                "paused_by": "ops",
                "paused_reason": "the array moves",
            },
            "paused since 2026-11-23T10:00:00Z by ops: the array moves",
        ),
    ],
)
def test_a_volume_is_shown_with_its_state(
    script: Script, backcast: Backcast, changed: dict[str, Any], said: str
) -> None:
    script["GET", DISK] = [volume(**changed)]
    ran = backcast("volume", "show", "disk")
    assert f"state    {said}" in ran.out
    assert "points   3" in ran.out


def test_removed_volumes_have_a_list_of_their_own(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    script["GET", VOLUMES] = [[volume(removed_at="2026-11-23T10:00:00Z", removed_by="ops")]]
    ran = backcast("volume", "list", "--removed")
    assert "2026-11-23T10:00:00Z by ops" in ran.out
    assert service.queries(VOLUMES) == [{"removed": "true"}]
