"""status and stats: what they ask for, what they say, and how they end."""

from typing import Any

import pytest

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

TENANT = "/v1/tenants/default"
WELL: dict[str, Any] = {"ok": True, "problems": [], "remarks": []}
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


@pytest.fixture(autouse=True)
def _all_well(script: Script) -> None:
    script["GET", f"{TENANT}/status"] = [{**WELL, "groups": [GROUP]}]
    script["GET", "/v1/status"] = [WELL]
    script["GET", "/readyz"] = [{"ok": True}]


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
    script["GET", "/v1/status"] = [{**WELL, "problems": [PROBLEM]}]
    assert backcast("status").status == 1
    script["GET", "/v1/status"] = [WELL]
    script["GET", "/readyz"] = [(404, "not-found")]
    ran = backcast("status", "--json")
    assert ran.status == 1
    (found,) = ran.objects
    assert [one["about"] for one in found["problems"]] == [
        "service restore",
        "service coordinator",
        "service catalog",
    ]


def test_a_token_of_one_tenant_sees_that_tenant(script: Script, backcast: Backcast) -> None:
    script["GET", "/v1/status"] = [(403, "forbidden")]
    ran = backcast("status")
    assert ran.status == 0
    assert "this token sees its tenant alone" in ran.out


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
