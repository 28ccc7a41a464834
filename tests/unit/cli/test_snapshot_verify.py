"""`backcast snapshot verify`: what it asks for, and what it says of the answer."""

import pytest

from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

SESSION = "01900000-0000-7000-8000-000000000001"
PACK = "01900000-0000-7000-8000-000000000008"
BEGIN = f"/v1/tenants/default/snapshots/{SESSION}/verifications"
INTACT = {
    "session": SESSION,
    "level": "full",
    "state": "intact",
    "chunks": 16,
    "packs_done": 2,
    "packs_total": 2,
    "packs_skipped": 0,
    "pack_bytes_done": 1 << 20,
    "pack_bytes_total": 1 << 20,
    "frames": 3,
    "fetched_bytes": 1 << 20,
    "copies_damaged": 0,
    "copies_repaired": 0,
    "damaged_bytes": 0,
    "extent_count": 0,
    "extents": [],
    "manifest": None,
    "code": None,
    "message": None,
}
EXTENT = {"volume": "vm", "offset_bytes": 65536, "length_bytes": 131072, "generation": PACK}


@pytest.fixture(autouse=True)
def found(script: Script) -> None:
    point = {"volume": "vm", "sequence": 3, "session": SESSION}
    script["GET", "/v1/tenants/default/volumes/vm/points/latest"] = [point]
    snapshot = {"session": SESSION, "volumes": [{"size_bytes": 1 << 20}]}
    script["GET", f"/v1/tenants/default/snapshots/{SESSION}"] = [snapshot]


def test_what_is_intact_is_said_so(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script["POST", BEGIN] = [INTACT]
    ran = backcast("snapshot", "verify", "vm@latest", "--level", "sampled", "--sample", "10%")
    assert ran.status == 0
    assert ran.out == ("vm@3: intact, all data read (2 packs, 3 frames, fetched 1.00 MiB)\n")
    (body,) = service.bodies("POST", BEGIN)
    assert (body["level"], body["sample_percent"], body["resume"]) == ("sampled", 10, False)


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("structural", "structure intact, data not read"),
        ("sampled", "structure and a sample of the data intact"),
    ],
)
def test_what_was_not_read_is_not_called_intact(
    backcast: Backcast, script: Script, level: str, said: str
) -> None:
    script["POST", BEGIN] = [INTACT | {"level": level}]
    ran = backcast("snapshot", "verify", "vm@latest", "--level", level)
    assert ran.out.startswith(f"vm@3: {said} (")


@pytest.mark.parametrize("level", [[], ["--level", "structural"], ["--level", "full"]])
def test_a_share_of_another_level_is_refused(
    backcast: Backcast, service: ScriptedService, level: list[str]
) -> None:
    ran = backcast("snapshot", "verify", "vm@latest", "--sample", "10%", *level)
    assert ran.status == 2
    assert "--level sampled" in ran.err
    assert service.requests == []


def test_damage_is_named_and_ends_with_the_status_of_damaged_data(
    backcast: Backcast, script: Script
) -> None:
    damaged = INTACT | {
        "state": "damaged",
        "damaged_bytes": 131072,
        "extent_count": 2,
        "extents": [EXTENT],
        "manifest": "its MAC does not match",
    }
    script["POST", BEGIN] = [damaged]
    ran = backcast("snapshot", "verify", "vm@latest")
    assert ran.status == 6
    assert ran.out.splitlines()[0].startswith("vm@3: DAMAGED: 128 KiB in 2 extents")
    assert f"vm: bytes 65536 to 196608 (pack {PACK})" in ran.out
    assert "and 1 more" in ran.out
    assert "its MAC does not match" in ran.out
    (document,) = backcast("snapshot", "verify", "vm@latest", "--json").objects
    assert document["point"] == "vm@3"
    assert document["extents"] == [EXTENT]


def test_a_verification_that_failed_ends_with_its_own_status(
    backcast: Backcast, script: Script
) -> None:
    failed = INTACT | {"state": "failed", "code": "wrong-key", "message": "no such key"}
    script["POST", BEGIN] = [failed]
    ran = backcast("snapshot", "verify", "vm@latest")
    assert ran.status == 7
    assert "vm@latest was not verified: no such key" in ran.err


@pytest.mark.parametrize("share", ["0", "101%", "much", "-5%"])
def test_a_share_that_is_none_is_refused(backcast: Backcast, share: str) -> None:
    assert backcast("snapshot", "verify", "vm@latest", f"--sample={share}").status == 2
