"""status and stats: what they ask for, what they say, and how they end."""

from typing import Any

import pytest

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

TENANT = "/v1/tenants/default"
WELL: dict[str, Any] = {"ok": True, "problems": [], "remarks": []}
CHUNKER = {"name": "one", "partitions": 12, "trouble": "", "silent_seconds": 2.0}
INSTALLATION = {**WELL, "chunkers": [CHUNKER]}
PROBLEM = {"code": "damaged", "about": "db", "message": "1 of its points is damaged"}
GROUP = {
    "group": "db",
    "volumes": ["data", "log"],
    "sequence": 7,
    "sealed_at": "2026-11-22T10:00:00Z",
    "age_seconds": 60.0,
    "open_session": None,
    "open_seconds": None,
    "failed_session": None,
    "failed_code": None,
    "paused_by": None,
}


def notification(kind: str, severity: str, message: str, **names: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("group", "volume", "node", "store", "session"))
    seen = {"opened_at": "2026-11-22T10:00:00Z", "seen_at": "2026-11-22T10:00:00Z"}
    what = {"kind": kind, "about": "x", "severity": severity, "message": message, **seen}
    return {"notification": "x", "tenant": "default", **nothing, **what, **names}


@pytest.fixture(autouse=True)
def _all_well(script: Script) -> None:
    script["GET", f"{TENANT}/status"] = [{**WELL, "groups": [GROUP]}]
    script["GET", "/v1/status"] = [INSTALLATION]
    script["GET", "/v1/ready"] = [{"ok": True}]
    script["GET", "/v1/notifications"] = [[]]


def test_all_is_well(service: ScriptedService, backcast: Backcast) -> None:
    ran = backcast("status", "--max-age", "26h")
    assert (ran.status, ran.out.splitlines()[-1]) == (0, "all is well")
    assert "@7, 2026-11-22T10:00:00Z" in ran.out
    assert service.queries(f"{TENANT}/status") == [{"age_seconds_max": "93600"}]
    assert backcast("status", "--max-age", "often").status == 2


def test_every_source_of_problems_makes_it_fail(script: Script, backcast: Backcast) -> None:
    script["GET", f"{TENANT}/status"] = [{**WELL, "groups": [], "problems": [PROBLEM]}]
    ran = backcast("status")
    assert ran.status == 1
    assert "PROBLEM  db: 1 of its points is damaged\n1 problem" in ran.out
    script["GET", f"{TENANT}/status"] = [{**WELL, "groups": []}]
    script["GET", "/v1/status"] = [{**INSTALLATION, "problems": [PROBLEM]}]
    assert backcast("status").status == 1
    script["GET", "/v1/status"] = [INSTALLATION]
    script["GET", "/v1/ready"] = [(404, "not-found")]
    ran = backcast("status", "--json")
    assert ran.status == 1
    (found,) = ran.objects
    assert [one["about"] for one in found["problems"]] == [
        "service restore",
        "service coordinator",
        "service catalog",
    ]


def readiness(name: str, reason: str, *, is_server: bool) -> dict[str, Any]:
    check = {"name": name, "ok": False, "needed": False, "server": is_server, "reason": reason}
    return {"ok": True, "checks": [{**check, "last_ok_seconds_ago": None}]}


def test_a_server_that_a_ready_service_works_without_is_a_problem(
    script: Script, backcast: Backcast
) -> None:
    script["GET", "/v1/ready"] = [readiness("kafka", "no answer for 3 s", is_server=True)]
    ran = backcast("status")
    assert ran.status == 1
    assert "service catalog: works without kafka: no answer for 3 s" in ran.out
    assert ran.out.splitlines()[-1] == "3 problems"


def test_an_unknown_tenant_hides_nothing_that_is_away(script: Script, backcast: Backcast) -> None:
    script["GET", f"{TENANT}/status"] = [(404, "not-found")]
    assert backcast("status").status == 3
    script["GET", "/v1/ready"] = [readiness("kafka", "no answer for 3 s", is_server=True)]
    ran = backcast("status")
    assert ran.status == 1
    assert "service catalog: works without kafka: no answer for 3 s" in ran.out
    assert "not-found, as scripted" in ran.out


def test_a_loop_that_was_put_off_is_a_remark(script: Script, backcast: Backcast) -> None:
    script["GET", "/v1/ready"] = [readiness("relay", "its last round was put off", is_server=False)]
    ran = backcast("status")
    assert ran.status == 0
    assert "remark  service catalog: loop relay: its last round was put off" in ran.out


def test_chunkers_are_shown_as_the_catalog_knows_them(script: Script, backcast: Backcast) -> None:
    ill = {**CHUNKER, "name": "two", "trouble": "kafka: no answer for 3 s"}
    script["GET", "/v1/status"] = [{**INSTALLATION, "chunkers": [CHUNKER, ill]}]
    said = backcast("status").out
    assert "chunker one  reads 12 partitions, last heard of 2 s ago" in said
    assert "chunker two  not ready: kafka: no answer for 3 s" in said


@pytest.mark.parametrize("path", [f"{TENANT}/status", "/v1/status", "/v1/notifications"])
def test_what_is_not_answered_is_a_problem_and_hides_nothing_else(
    script: Script, backcast: Backcast, path: str
) -> None:
    script["GET", path] = [(503, "not-reconciled")]
    script["GET", f"{TENANT}/notifications"] = [(503, "not-reconciled")]
    ran = backcast("status")
    assert ran.status == 1
    assert "not-reconciled, as scripted" in ran.out
    assert ran.out.splitlines()[-1] == "1 problem"


def test_a_restore_service_that_does_not_answer_is_named_and_so_is_what_it_hides(
    script: Script, backcast: Backcast
) -> None:
    script["GET", "/v1"] = script["GET", "/v1/ready"] = [(503, "unavailable")]
    (found,) = backcast("status", "--json").objects
    assert [one["about"] for one in found["problems"]] == [
        "service restore",
        "service coordinator",
        "service catalog",
    ]
    assert [one["ready"] for one in found["services"]] == [False, False, False]


def test_a_token_of_one_tenant_sees_that_tenant(script: Script, backcast: Backcast) -> None:
    script["GET", "/v1/status"] = script["GET", "/v1/notifications"] = [(403, "forbidden")]
    script["GET", f"{TENANT}/notifications"] = [[]]
    ran = backcast("status")
    assert ran.status == 0
    assert "this token sees its tenant alone" in ran.out


def test_what_is_open_is_told(script: Script, backcast: Backcast) -> None:
    script["GET", "/v1/notifications"] = [
        [
            notification("damage", "error", "pack 12: cannot be read"),
            notification("disk-full", "warning", "node a: 1 GiB is left", node="a", tenant="*"),
            notification("damage", "error", "pack 13: cannot be read", tenant="acme"),
        ]
    ]
    ran = backcast("status")
    assert ran.status == 1
    assert "PROBLEM  pack 12: cannot be read (since 2026-11-22T10:00:00Z)" in ran.out
    assert "remark  node a: 1 GiB is left" in ran.out
    assert "pack 13" not in ran.out
    assert "remark  tenant acme: 1 notification is open" in ran.out
    assert ran.out.splitlines()[-1] == "1 problem"
    (found,) = backcast("status", "--json").objects
    assert [one["message"] for one in found["notifications"]][2] == "pack 13: cannot be read"


@pytest.mark.parametrize(("severity", "status"), [("error", 1), ("warning", 0), ("info", 0)])
def test_only_what_is_critical_makes_it_fail(
    script: Script, backcast: Backcast, severity: str, status: int
) -> None:
    script["GET", "/v1/notifications"] = [[notification("damage", severity, "x", tenant="*")]]
    assert backcast("status").status == status


def test_a_reader_of_one_tenant_is_told_what_is_open_there(
    script: Script, service: ScriptedService, backcast: Backcast
) -> None:
    script["GET", "/v1/status"] = script["GET", "/v1/notifications"] = [(403, "forbidden")]
    script["GET", f"{TENANT}/notifications"] = [[notification("damage", "error", "ours")]]
    ran = backcast("status")
    assert ran.status == 1
    assert "PROBLEM  ours" in ran.out


def test_what_was_found_and_is_open_is_told_once(script: Script, backcast: Backcast) -> None:
    rejected = {**PROBLEM, "code": "session-rejected", "about": "db"}
    script["GET", f"{TENANT}/status"] = [{**WELL, "groups": [], "problems": [rejected]}]
    opened = [
        notification("session-rejected", "error", "ours", group="db"),
        notification("session-rejected", "error", "of others", group="db", tenant="acme"),
    ]
    script["GET", "/v1/notifications"] = [opened]
    ran = backcast("status")
    assert ran.out.splitlines()[-1] == "1 problem"
    assert "tenant acme: 1 notification is open" in ran.out


def test_what_is_stored_adds_up(script: Script, backcast: Backcast) -> None:
    row = {
        "volume": "data",
        "group": "db",
        "removed_at": None,
        "points": 2,
        "logical_bytes": 4096,
        "protected_bytes": 8192,
        "unique_bytes": 1024,
        "attributed_bytes": 2048,
    }
    gone = {**row, "volume": "old", "removed_at": "2026-11-22T10:00:00Z"}
    script["GET", f"{TENANT}/usage"] = [[row, gone]]
    ran = backcast("stats")
    assert "(all of default)" in ran.out
    total = ran.out.splitlines()[-1]
    assert "4.00 KiB" in total
    assert "4.0" in total
    assert "removed" in ran.out
