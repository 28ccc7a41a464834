"""tenant list, add and quota: what they ask for, and what they say."""

import pytest

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

ACME = {
    "name": "acme",
    "domain": "0190-1",
    "created_at": "2026-11-22T10:00:00Z",
    "volumes": 3,
    "stored_bytes": 0,
    "quota_bytes": 1 << 40,
}


@pytest.mark.parametrize(
    ("stored_bytes", "quota_bytes", "said"),
    [
        (0, 1 << 40, "0%"),
        (1 << 39, 1 << 40, "50%"),
        (9 << 37, 10 << 37, "90% !"),
        (1 << 40, 1 << 40, "100% FULL"),
        (5, None, "none"),
    ],
)
def test_the_list_says_who_will_soon_be_full(
    script: Script, backcast: Backcast, stored_bytes: int, quota_bytes: int | None, said: str
) -> None:
    room = {"stored_bytes": stored_bytes, "quota_bytes": quota_bytes}
    script["GET", "/v1/tenants"] = [[{**ACME, **room}]]
    assert said in backcast("tenant", "list").out.splitlines()[1]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("500G", 500 << 30), ("2TiB", 2 << 40), ("17", 17), ("1K", 1024), ("none", None)],
)
def test_a_quota_is_typed_as_people_do(
    service: ScriptedService,
    script: Script,
    backcast: Backcast,
    typed: str,
    expected: int | None,
) -> None:
    path = "/v1/tenants/acme/quota"
    script["POST", path] = [{**ACME, "quota_bytes": expected}]
    assert backcast("tenant", "quota", "acme", typed).status == 0
    assert service.bodies("POST", path) == [{"quota_bytes": expected}]


@pytest.mark.parametrize("typed", ["0", "-5", "5X", "all", "", "9999999999E"])
def test_what_is_no_size_is_refused(
    service: ScriptedService, backcast: Backcast, typed: str
) -> None:
    assert backcast("tenant", "quota", "acme", "--", typed).status == 2
    assert service.requests == []


def test_a_quota_that_is_reached_already_is_told(script: Script, backcast: Backcast) -> None:
    full = {**ACME, "stored_bytes": 2 << 40}
    script["POST", "/v1/tenants/acme/quota"] = [full]
    ran = backcast("tenant", "quota", "acme", "1T")
    assert "no session of it opens; nothing is deleted" in ran.err


def test_a_tenant_is_added_with_its_quota(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    script["POST", "/v1/tenants"] = [ACME]
    assert backcast("tenant", "add", "acme", "--quota", "1T").out == "tenant acme: quota 1.00 TiB\n"
    assert backcast("tenant", "add", "acme").status == 0
    assert service.bodies("POST", "/v1/tenants") == [
        {"name": "acme", "quota_bytes": 1 << 40},
        {"name": "acme", "quota_bytes": None},
    ]
