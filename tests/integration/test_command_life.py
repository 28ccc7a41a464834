"""The life of a volume, by the real command against the real services."""

import functools
from pathlib import Path

from deploy.local.process import wait_until
from tests.integration.test_command import Backcast, backcast

__all__ = ["backcast"]

TENANT = "life"
MIB = 1 << 20


def test_a_volume_has_a_life_and_the_screen_says_whether_all_is_well(
    backcast: Backcast, tmp_path: Path
) -> None:
    disk, other = tmp_path / "disk.raw", tmp_path / "other.raw"
    disk.write_bytes(b"first" * MIB)
    other.write_bytes(b"other" * MIB)

    run = functools.partial(run_in, backcast)
    assert run("tenant", "add", TENANT, "--quota", "1T")[0] == 0
    assert run("volume", "add", "disk", disk)[0] == 0
    status, said = run("volume", "add", "again", disk)
    assert (status, "volume disk of this tenant protects" in said) == (4, True)
    status, said = run("status")
    assert (status, "disk: it has no recovery point" in said) == (1, True)
    assert run("snapshot", "take", "disk")[0] == 0
    well = [0, "all is well"]
    # A server that was slow for a moment is told as well.
    assert wait_until(lambda: summary(run("status", "--max-age", "1h")) == well, 60)

    assert run("volume", "rename", "disk", "web")[0] == 0
    assert run("snapshot", "note", "web@1", "before the upgrade")[0] == 0
    assert "before the upgrade" in run("snapshot", "show", "web@1")[1]
    assert run("restore", "web@1", tmp_path / "out")[0] == 0
    assert (tmp_path / "out").read_bytes() == disk.read_bytes()

    assert run("volume", "pause", "web", "--reason", "the array moves")[0] == 0
    status, said = run("snapshot", "take", "web")
    assert status == 4
    assert "has paused it: the array moves" in said
    assert "paused" in run("status")[1]
    assert run("volume", "resume", "web")[0] == 0

    # Another file: nothing that is known of the old one is believed.
    assert run("volume", "move", "web", other)[0] == 0
    status, said = run("snapshot", "take", "web")
    assert status == 0
    assert "everything was compared" in said
    assert run("restore", "web@2", tmp_path / "moved")[0] == 0
    assert (tmp_path / "moved").read_bytes() == other.read_bytes()
    check_groups(backcast, tmp_path)


def summary(ran: tuple[int, str]) -> list[object]:
    return [ran[0], ran[1].splitlines()[-1]]


def run_in(backcast: Backcast, *arguments: object) -> tuple[int, str]:
    """A command of the tenant: its status, and all that it says."""
    ran = backcast(*arguments, tenant=TENANT)
    return ran.status, ran.out + ran.err


def check_groups(backcast: Backcast, tmp_path: Path) -> None:
    """What follows for a volume with two recovery points: other groups, figures, and its end."""
    disk, other = tmp_path / "disk.raw", tmp_path / "other.raw"
    run = functools.partial(run_in, backcast)
    assert run("volume", "regroup", "web", "pair")[0] == 0
    assert run("snapshot", "take", "pair")[0] == 0
    assert run("restore", "web-1@1", tmp_path / "old")[0] == 0
    assert (tmp_path / "old").read_bytes() == disk.read_bytes()

    (sessions,) = [backcast("session", "list", "--json", tenant=TENANT).objects]
    assert [one["state"] for one in sessions] == ["sealed"] * 3
    assert run("session", "cancel", sessions[0]["session"])[0] == 4
    assert run("session", "show", sessions[0]["session"])[0] == 0

    rows = backcast("stats", "--json", tenant=TENANT).objects
    assert {row["volume"]: row["points"] for row in rows[:-1]} == {"web": 1, "web-1": 2}
    assert rows[-1]["protected_bytes"] == 15 * MIB
    status, said = run("snapshot", "expire", "web-1@1", "--dry-run")
    assert (status, "by itself it frees" in said) == (0, True)

    assert run("volume", "remove", "web")[0] == 0
    assert run("snapshot", "take", "pair")[0] == 3
    assert "web" in run("volume", "list", "--removed")[1]
    assert run("restore", "web@1", tmp_path / "removed")[0] == 0
    assert run("volume", "add", "web", other)[0] == 0
    assert run("snapshot", "take", "pair")[0] == 0

    assert run("tenant", "quota", TENANT, "1K")[0] == 0
    status, said = run("snapshot", "take", "pair")
    assert (status, "no new snapshots until" in said) == (9, True)
    status, said = run("status")
    assert (status, "quota" in said) == (1, True)
