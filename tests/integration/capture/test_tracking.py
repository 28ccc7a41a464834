"""How changes are known: hints, lost fingerprints, and trackers that are found to lie."""

import base64
import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from libs.errors import BadInputError
from libs.events.codec import decode
from libs.events.notifications import NotificationRaised
from libs.ids import uuid7
from libs.ranges import ChunkRun, pack_runs
from tests.support.running import Answer, RunningSite

CHUNK = 1 << 16
MIB = 1 << 20


def write(path: Path, first: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(first * CHUNK)
        file.write(os.urandom(count * CHUNK))


def punch(path: Path, first: int, count: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        where = [ctypes.c_long(n * CHUNK) for n in (first, count)]
        assert libc.fallocate(file.fileno(), 3, *where) == 0


def take_with(site: RunningSite, name: str, base: object, *runs: ChunkRun) -> Answer:
    """A snapshot by hints, from the request to its end."""
    session = uuid7()
    hints = {"base": str(base), "runs": base64.b64encode(pack_runs(runs)).decode()}
    body = {"session": str(session), "name": name, "hints": hints}
    site.coordinator.post("/v1/tenants/default/snapshots", body)
    return site.end(session)


def part_of(answer: Answer) -> Answer:
    (part,) = answer["parts"]
    return part


def notices(site: RunningSite, volume: str) -> list[str]:
    """Severities of what was said about the tracking of a volume, in order."""
    rows = site.sql(
        """SELECT type, version, value FROM event_log
           WHERE topic = 'backcast.notifications' ORDER BY position"""
    )
    raised = [decode(name, version, bytes(value)) for name, version, value in rows]
    return [
        one.severity
        for one in raised
        if isinstance(one, NotificationRaised)
        and (one.kind, one.volume) == ("tracking-lost", volume)
    ]


def lost_reason(site: RunningSite, volume: str) -> str | None:
    """Why nobody knew the changes of a volume's newest snapshot, as `snapshot show` says."""
    ran = subprocess.run(
        [sys.executable, "-m", "services.cli", "snapshot", "show", volume, "--json"],
        env=os.environ | {"BACKCAST_HOME": str(site.cluster.home.folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: str | None = json.loads(ran.stdout)["lost_reason"]
    return found


def test_hints_read_only_what_changed(site: RunningSite) -> None:
    path = site.volume("hinted", 16 * MIB)
    first = site.take("hinted")
    write(path, 10, 3)
    punch(path, 100, 50)
    taken = take_with(site, "hinted", first["session"], ChunkRun(10, 4), ChunkRun(100, 50))
    assert taken["state"] == "sealed", taken
    assert part_of(taken)["tracking"] == "candidates"
    assert part_of(taken)["read_bytes"] == 54 * CHUNK
    assert site.matches("hinted", path)
    # Nothing is known of this base by fingerprints: everything is compared, and said.
    write(path, 60, 1)
    punch(path, 200, 5)
    again = site.take("hinted")
    assert part_of(again)["tracking"] == "lost"
    assert part_of(again)["read_bytes"] >= 12 * MIB
    assert site.matches("hinted", path)
    assert notices(site, "hinted") == ["warning"]
    write(path, 61, 1)
    last = site.take("hinted")
    assert part_of(last)["tracking"] == "exact"
    assert site.matches("hinted", path)


def test_hints_since_another_snapshot_are_refused(site: RunningSite) -> None:
    path = site.volume("older", MIB)
    first = site.take("older")
    write(path, 1, 1)
    site.take("older")
    refused = take_with(site, "older", first["session"], ChunkRun(1, 1))
    assert (refused["state"], refused["code"]) == ("rejected", "conflict")
    assert str(first["session"]) in refused["message"]
    assert site.take("older")["state"] == "sealed"


def test_hints_beyond_the_volume_are_refused(site: RunningSite) -> None:
    site.volume("short", MIB)
    first = site.take("short")
    refused = take_with(site, "short", first["session"], ChunkRun(15, 2))
    assert (refused["state"], refused["code"]) == ("rejected", "bad-input")
    assert "16" in refused["message"]


def test_hints_that_are_no_runs_or_too_many_are_refused(site: RunningSite) -> None:
    site.volume("odd", MIB)
    first = site.take("odd")
    for runs in (b"12345", bytes((6 << 20) + 12)):
        hints = {"base": first["session"], "runs": base64.b64encode(runs).decode()}
        body = {"session": str(uuid7()), "name": "odd", "hints": hints}
        with pytest.raises(BadInputError):
            site.coordinator.post("/v1/tenants/default/snapshots", body)
    body = {"session": str(uuid7()), "name": "odd", "full": True}
    body["hints"] = {"base": str(uuid4()), "runs": ""}
    with pytest.raises(BadInputError, match="full"):
        site.coordinator.post("/v1/tenants/default/snapshots", body)


def test_hints_that_leave_changes_out_are_found_out_and_not_believed_again(
    site: RunningSite,
) -> None:
    """Of 64 chunks, 32 have changed and are left out: 16 are looked at."""
    path = site.volume("lied", 4 * MIB)
    first = site.take("lied")
    write(path, 0, 32)
    caught = take_with(site, "lied", first["session"], ChunkRun(40, 1))
    assert (caught["state"], caught["code"]) == ("rejected", "tracking-lost"), caught
    assert notices(site, "lied") == ["error"]
    again = take_with(site, "lied", first["session"], ChunkRun(40, 1))
    assert again["state"] == "sealed", again
    assert part_of(again)["tracking"] == "lost"
    assert site.matches("lied", path)
    write(path, 3, 1)
    believed = take_with(site, "lied", again["session"], ChunkRun(3, 1))
    assert part_of(believed)["tracking"] == "candidates"
    assert site.matches("lied", path)


def test_after_fingerprints_were_lost_holes_and_sizes_are_exact(site: RunningSite) -> None:
    """What is not announced then is zeros, whatever the base had there (scenarios 9, 20)."""
    path = site.volume("lost", 16 * MIB)
    fingerprints = site.cluster.home.folder / "data" / "agent"
    for change in (
        lambda: punch(path, 20, 100),
        lambda: os.truncate(path, 5 * MIB + 100),
        lambda: os.truncate(path, 24 * MIB),
        lambda: write(path, 300, 20),
        lambda: punch(path, 0, 384),
    ):
        assert site.take("lost")["state"] == "sealed"
        change()
        gone = [*fingerprints.rglob("fingerprints")]
        assert gone, f"no fingerprints below {fingerprints}"
        for folder in gone:
            # The agent may be deleting the base's older ones at the same time.
            shutil.rmtree(folder, ignore_errors=True)
            assert not folder.exists()
        taken = site.take("lost")
        assert part_of(taken)["tracking"] == "lost"
        assert site.matches("lost", path)


def test_an_agent_whose_state_was_lost_compares_everything_and_everybody_is_told_why(
    site: RunningSite,
) -> None:
    path = site.volume("forgotten", 4 * MIB)
    assert site.take("forgotten")["state"] == "sealed"
    site.kill("agent")
    state = site.cluster.home.data("agent")
    shutil.rmtree(state)
    state.mkdir()
    site.start("agent")
    write(path, 3, 1)
    ran = subprocess.run(
        [sys.executable, "-m", "services.cli", "snapshot", "take", "forgotten"],
        env=os.environ | {"BACKCAST_HOME": str(site.cluster.home.folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "tracking was lost: the node could not say what changed" in ran.stderr
    assert "damaged" not in ran.stderr
    assert notices(site, "forgotten") == ["warning"]
    assert site.matches("forgotten", path)
    assert lost_reason(site, "forgotten") is not None
    assert site.take("forgotten")["state"] == "sealed"
    assert lost_reason(site, "forgotten") is None


def test_the_command_takes_a_snapshot_by_hints(site: RunningSite, tmp_path: Path) -> None:
    path = site.volume("by-command", 8 * MIB)
    site.take("by-command")
    write(path, 7, 2)
    file = tmp_path / "hints.json"
    file.write_text(json.dumps([{"offset": 7 * CHUNK, "length": 2 * CHUNK, "exists": "true"}]))

    def backcast(*arguments: str) -> Answer:
        ran = subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments, "--json"],
            env=os.environ | {"BACKCAST_HOME": str(site.cluster.home.folder)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        answer: Answer = json.loads(ran.stdout)
        return answer

    taken = backcast(
        "snapshot", "take", "by-command", "--hints", str(file), "--base", "by-command@1"
    )
    assert (taken["tracking"], taken["read_bytes"]) == ("candidates", 2 * CHUNK)
    shown = backcast("snapshot", "show", "by-command")
    assert shown["tracking"] == "candidates"
    assert UUID(shown["session"])
    assert site.matches("by-command", path)
