"""``backcast notification list``: what is wrong now, for whoever asks with whatever token."""

from typing import Any

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script

ALL = ("GET", "/v1/notifications")
OURS = ("GET", "/v1/tenants/default/notifications")


def wrong(tenant: str, message: str) -> dict[str, Any]:
    return {
        "notification": "01900000-0000-7000-8000-00000000000c",
        "kind": "session-rejected",
        "about": "01900000-0000-7000-8000-000000000003",
        "tenant": tenant,
        "severity": "error",
        "message": message,
        "group": "db",
        "volume": None,
        "node": None,
        "store": None,
        "session": None,
        "opened_at": "2026-11-22T10:00:00Z",
        "seen_at": "2026-11-22T10:00:00Z",
    }


def test_everything_that_is_wrong_is_listed(backcast: Backcast, script: Script) -> None:
    script[ALL] = [[wrong("acme", "group db: its last snapshot was not made"), wrong("*", "x")]]
    ran = backcast("notification", "list")
    assert ran.status == 0
    heading, first, second = ran.out.splitlines()
    assert heading.split() == ["SINCE", "SEVERITY", "KIND", "TENANT", "MESSAGE"]
    assert first.endswith("acme    group db: its last snapshot was not made")
    assert second.split()[3] == "*"
    assert backcast("notification", "list", "--json").objects[0]["tenant"] == "acme"


def test_a_token_of_one_tenant_shows_what_concerns_it(backcast: Backcast, script: Script) -> None:
    script[ALL] = [(403, "forbidden")]
    script[OURS] = [[wrong("default", "ours")]]
    ran = backcast("notification", "list")
    assert ran.status == 0
    assert ran.out.splitlines()[1].endswith("ours")


def test_who_names_a_tenant_sees_that_one(backcast: Backcast, script: Script) -> None:
    script[ALL] = [[wrong("acme", "of others")]]
    script[OURS] = [[wrong("default", "ours")]]
    ran = backcast("notification", "list", "--tenant", "default")
    assert "of others" not in ran.out


def test_nothing_wrong_is_said(backcast: Backcast, script: Script) -> None:
    script[ALL] = [[]]
    ran = backcast("notification", "list")
    assert (ran.status, ran.out, ran.err) == (0, "", "nothing is known to be wrong\n")
    ran = backcast("notification", "list", "--json")
    assert (ran.status, ran.out, ran.err) == (0, "", "")
