"""keys list: what it says of data keys."""

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script

KEY = {
    "key_id": "0190-1",
    "domain": "0190-2",
    "created_at": "2026-11-03T10:00:00Z",
    "wrapped_at": "2027-02-01T10:00:00Z",
    "in_use": True,
    "kek_fingerprint": "0123456789abcdef",
}


def test_the_list_tells_when_a_key_was_made_from_when_it_was_wrapped(
    script: Script, backcast: Backcast
) -> None:
    unsaid = {**KEY, "created_at": None, "in_use": False}
    script["GET", "/v1/tenants/default/keys"] = [[KEY, unsaid]]
    title, *rows = backcast("keys", "list").out.splitlines()
    assert title.split("  ")[0] == "KEY"
    assert "CREATED AT" in title
    assert "WRAPPED AT" in title
    assert [row.split()[2:5] for row in rows] == [
        ["yes", "2026-11-03T10:00:00Z", "2027-02-01T10:00:00Z"],
        ["no", "unknown", "2027-02-01T10:00:00Z"],
    ]
