"""Taking snapshots against a scripted coordinator."""

import json
from typing import Any

import pytest

from services.cli.commands import snapshots, taking
from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

VOLUMES = "/v1/tenants/default/volumes"
TAKE = ("POST", "/v1/tenants/default/snapshots")
FIGURES = {
    "logical_bytes": 1 << 30,
    "read_bytes": 1 << 20,
    "changed_bytes": 65536,
    "sent_bytes": 65536,
    "stored_bytes": 30000,
}


@pytest.fixture(autouse=True)
def _volumes(script: Script) -> None:
    script["GET", VOLUMES] = [[{"name": "vm", "group": "vm"}]]


def session(id_: str, state: str, consistency: str = "quiet", **more: Any) -> dict[str, Any]:
    part = {"volume": "vm", "finished": state == "sealed", "consistency": consistency, **FIGURES}
    part["tracking"] = "exact"
    ended = {"sequence": 7, "code": None, "message": None, "seconds": 1.5}
    return {"session": id_, "group": "vm", "state": state, **ended, "parts": [part], **more}


def wait_for(id_: str) -> tuple[str, str]:
    return "GET", f"/v1/tenants/default/sessions/{id_}"


def test_it_waits_until_the_session_is_sealed(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script[TAKE] = [session("s", "open")]
    script[wait_for("s")] = [session("s", "open"), session("s", "sealed")]
    ran = backcast("snapshot", "take", "vm", "--json")
    assert ran.status == 0
    assert ran.objects == [
        {
            "snapshot": "s",
            "volume": "vm",
            "point": "vm@7",
            **FIGURES,
            "seconds": 1.5,
            "consistency": "quiet",
            "tracking": "exact",
            "compared_all": False,
        }
    ]
    assert ran.err == ""
    assert all(float(query["wait_seconds"]) <= 30 for query in service.queries(wait_for("s")[1]))


def test_a_lost_answer_is_asked_for_again_with_the_same_session(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script[TAKE] = [(503, "unavailable"), session("s", "open")]
    script[wait_for("s")] = [(503, "unavailable"), session("s", "sealed")]
    assert backcast("snapshot", "take", "vm", "--full").status == 0
    first, second = service.bodies(*TAKE)
    assert first == second
    assert first["full"] is True


def test_without_an_answer_it_says_which_session_may_still_be_made(
    backcast: Backcast, script: Script, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "RETRY_SECONDS_MAX", 0)
    script[TAKE] = [(503, "unavailable")]
    ran = backcast("snapshot", "take", "vm")
    assert ran.status == 8
    asked = service.bodies(*TAKE)[-1]["session"]
    assert f"nobody knows whether session {asked} was opened" in ran.err
    assert f"backcast session show {asked}" in ran.err
    ran = backcast("snapshot", "take", "vm", "--json")
    failure = json.loads(ran.err)
    assert (failure["code"], failure["session"]) == (
        "unavailable",
        service.bodies(*TAKE)[-1]["session"],
    )


def test_a_session_that_it_cannot_follow_is_named(
    backcast: Backcast, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "RETRY_SECONDS_MAX", 0)
    script[TAKE] = [session("s-1", "open")]
    script[wait_for("s-1")] = [(503, "unavailable")]
    ran = backcast("snapshot", "take", "vm")
    assert ran.status == 8
    assert "may still be made: session s-1 goes on without this command" in ran.err
    assert "backcast session show s-1" in ran.err


@pytest.mark.parametrize("code", ["conflict", "out-of-space", "bad-input"])
def test_a_refusal_names_no_session(backcast: Backcast, script: Script, code: str) -> None:
    script[TAKE] = [(409, code)]
    ran = backcast("snapshot", "take", "vm")
    assert ran.status
    assert "session show" not in ran.err


def test_a_busy_group_is_reported_at_once(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script[TAKE] = [(409, "conflict")]
    assert backcast("snapshot", "take", "vm").status == 4
    assert len(service.bodies(*TAKE)) == 1


@pytest.mark.parametrize(
    ("code", "status"), [("source", 10), ("damaged-data", 6), ("agent-restarted", 1)]
)
def test_a_rejection_ends_with_the_status_of_its_code(
    backcast: Backcast, script: Script, code: str, status: int
) -> None:
    script[TAKE] = [session("s", "rejected", code=code, message="the disk is gone")]
    ran = backcast("snapshot", "take", "vm")
    assert (ran.status, ran.out) == (status, "")
    assert f"snapshot of vm: {code}: the disk is gone" in ran.err


@pytest.mark.parametrize(
    ("consistency", "said"),
    [
        ("fuzzy", "warning: vm@7 is fuzzy: the volume was written while it was read"),
        ("unvouched", "warning: vm@7 is unvouched: the volume is a device, or a file that other"),
    ],
)
def test_a_snapshot_that_may_contradict_itself_is_pointed_out(
    backcast: Backcast, script: Script, consistency: str, said: str
) -> None:
    script[TAKE] = [session("s", "sealed", consistency=consistency)]
    ran = backcast("snapshot", "take", "vm")
    assert ran.status == 0
    assert said in ran.err
    assert ("nobody can say" in ran.err) == (consistency == "unvouched")


def test_where_changes_were_not_known_no_figure_says_what_changed(
    backcast: Backcast, script: Script
) -> None:
    for tracking, reason in (
        ("lost", "tracking was lost: the node"),
        ("none", "because of --full"),
    ):
        compared = session("s", "sealed")
        compared["parts"][0]["tracking"] = tracking
        script[TAKE] = [compared]
        ran = backcast("snapshot", "take", "vm")
        assert "all 64.0 KiB compared" in ran.out
        assert "changed" not in ran.out
        assert "everything was compared" in ran.err
        assert reason in ran.err
    script[TAKE] = [compared | {"sequence": 1}]
    ran = backcast("snapshot", "take", "vm")
    assert "changed 64.0 KiB" in ran.out
    assert ran.err == ""


def test_names_of_one_group_mean_one_snapshot_of_it(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script["GET", VOLUMES] = [
        [{"name": name, "group": group} for name, group in (("a", "g"), ("b", "g"), ("c", "c"))]
    ]
    script[TAKE] = [session("s", "sealed")]
    assert backcast("snapshot", "take", "a", "b", "g", "c").status == 0
    assert [body["name"] for body in service.bodies(*TAKE)] == ["g", "c"]
    ran = backcast("snapshot", "take", "a", "nope")
    assert ran.status == 3
    assert "nope" in ran.err
    assert len(service.bodies(*TAKE)) == 2


def test_volumes_that_were_not_named_are_before_they_are_captured(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script["GET", VOLUMES] = [
        [{"name": name, "group": group} for name, group in (("a", "g"), ("b", "g"), ("c", "g"))]
    ]
    script[TAKE] = [session("s", "sealed")]
    for names, told in (
        (["a"], "the snapshot of group g is of b and c too\n"),
        (["a", "c"], "the snapshot of group g is of b too\n"),
        (["g"], ""),
        (["a", "b", "c"], ""),
    ):
        assert backcast("snapshot", "take", *names).err == told
    assert service.queries(VOLUMES)[0] == {"name": "a"}
    asked = len(service.bodies(*TAKE))
    ran = backcast("snapshot", "take", "a", "--dry-run", "--json")
    assert ran.objects == [{"group": "g", "volumes": ["a", "b", "c"], "dry_run": True}]
    assert "a, b and c" in backcast("snapshot", "take", "a", "--dry-run").out
    assert len(service.bodies(*TAKE)) == asked


def test_a_failed_group_keeps_nothing_from_the_others(backcast: Backcast, script: Script) -> None:
    script["GET", VOLUMES] = [[{"name": name, "group": name} for name in "ab"]]
    script[TAKE] = [(409, "conflict"), session("s", "sealed")]
    ran = backcast("snapshot", "take", "a", "b", "--json")
    assert ran.status == 4
    assert [one["point"] for one in ran.objects] == ["vm@7"]


def test_interrupted_it_says_what_becomes_of_the_session(
    backcast: Backcast,
    script: Script,
    service: ScriptedService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(snapshots, "take_all", interrupt)
    ran = backcast("snapshot", "take", "vm")
    assert ran.status == 130
    assert "backcast snapshot show" in ran.err


def test_whom_it_waits_for_is_said_once_also_without_a_terminal(
    backcast: Backcast, script: Script
) -> None:
    waiting = [{"volume": "vm", "message": "the agent of node n-1, which captures volume vm"}]
    script[TAKE] = [session("s", "open")]
    script[wait_for("s")] = [
        session("s", "open", waits_for=[]),
        session("s", "open", waits_for=waiting),
        session("s", "open", waits_for=waiting * 2),
        session("s", "sealed"),
    ]
    ran = backcast("snapshot", "take", "vm")
    assert ran.status == 0
    said = [line for line in ran.err.splitlines() if "waits for" in line]
    assert said == ["vm: waits for the agent of node n-1, which captures volume vm"]
