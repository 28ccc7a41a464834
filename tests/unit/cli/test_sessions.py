"""session list, show and cancel: what they ask for, and what they say."""

from uuid import uuid4

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

SESSIONS = "/v1/tenants/default/sessions"
SESSION = str(uuid4())
REJECTED = {
    "session": SESSION,
    "group": "db",
    "state": "rejected",
    "volumes": ["data", "log"],
    "opened_at": "2026-11-22T10:00:00Z",
    "ended_at": "2026-11-22T10:01:00Z",
    "sequence": None,
    "code": "source",
    "message": "volume log on node n: no such file",
    "read_bytes": 2048,
    "stored_bytes": 0,
}


def test_the_list_says_why_sessions_failed(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    script["GET", SESSIONS] = [
        [REJECTED, REJECTED | {"state": "sealed", "sequence": 7, "code": None}]
    ]
    ran = backcast("session", "list", "db", "--state", "rejected", "--limit", "5")
    assert "source: volume log on node n: no such file" in ran.out
    assert "sealed @7" in ran.out
    assert service.queries(SESSIONS) == [{"name": "db", "state": "rejected", "limit": "5"}]


def test_one_session_is_shown_part_by_part(script: Script, backcast: Backcast) -> None:
    part = {
        "volume": "log",
        "finished": False,
        "attempts": 1,
        "read_bytes": 1024,
        "logical_bytes": 4096,
        "sent_bytes": 0,
        "stored_bytes": 0,
    }
    script["GET", f"{SESSIONS}/{SESSION}"] = [{"session": SESSION, "code": None, "parts": [part]}]
    ran = backcast("session", "show", SESSION)
    assert "log: in work, 1.00 KiB of 4.00 KiB read" in ran.out


def test_a_cancel_says_what_became_of_the_session(
    service: ScriptedService, script: Script, backcast: Backcast
) -> None:
    path = f"{SESSIONS}/{SESSION}/cancel"
    ended = {"code": "cancelled", "message": "ops cancelled it: not now"}
    script["POST", path] = [REJECTED | ended]
    ran = backcast("session", "cancel", SESSION, "--reason", "not now")
    assert ran.out == f"session {SESSION} of db: cancelled: ops cancelled it: not now\n"
    assert service.bodies("POST", path) == [{"reason": "not now"}]
    assert backcast("session", "cancel", "nonsense").status == 2
