"""The command against the real servers and services, as a person or a script uses it."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.process import outer_environ
from deploy.local.services import BUCKET
from libs.keys.sheet import read_sheet
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.store.s3 import S3Store
from tests.support.buckets import bucket_at

#: Not a multiple of the chunk size: the last chunk is cut.
SIZE_BYTES = 24 * (1 << 20) + 12_345
SEED = 20_261_122
SOURCE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        assert self.status == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


Backcast = Callable[..., Ran]


@pytest.fixture(scope="module")
def backcast(local_servers: LocalCluster) -> Iterator[Backcast]:
    """The command, with our services on the test run's servers."""
    local_servers.up(lambda _: None)
    environ = outer_environ() | {"BACKCAST_HOME": str(local_servers.home.folder)}

    def run(*arguments: object, tenant: str = "default") -> Ran:
        argv = [sys.executable, "-m", "services.cli", *map(str, arguments), "--tenant", tenant]
        finished = subprocess.run(
            argv, env=environ, cwd=SOURCE, capture_output=True, text=True, timeout=120, check=False
        )
        return Ran(finished.returncode, finished.stdout, finished.stderr)

    yield run
    for service in local_servers.services():
        service.process.stop(signal.SIGKILL)


@dataclass(frozen=True)
class History:
    """A volume with two recovery points, and its content at each."""

    name: str
    path: Path
    contents: tuple[bytes, bytes]
    taken: tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def history(backcast: Backcast, tmp_path_factory: pytest.TempPathFactory) -> History:
    chance = random.Random(SEED)
    path = tmp_path_factory.mktemp("volume") / "disk.raw"
    first = bytearray(SIZE_BYTES)
    for _ in range(100):
        write(first, chance, chance.randrange(SIZE_BYTES))
    path.write_bytes(first)
    backcast("volume", "add", "disk", path)
    (taken_first,) = backcast("snapshot", "take", "disk", "--json").objects
    second = bytearray(first)
    for at in (0, 5 << 20, SIZE_BYTES - 1):
        write(second, chance, at)
    second[8 << 20 : 9 << 20] = bytes(1 << 20)
    path.write_bytes(second)
    (taken_second,) = backcast("snapshot", "take", "disk", "--json").objects
    return History("disk", path, (bytes(first), bytes(second)), (taken_first, taken_second))


def write(content: bytearray, chance: random.Random, at: int) -> None:
    data = chance.randbytes(min(100_000, len(content) - at))
    content[at : at + len(data)] = data


def changed_chunks(first: bytes, second: bytes) -> set[int]:
    return {
        at // CHUNK_SIZE_BYTES
        for at in range(0, len(first), CHUNK_SIZE_BYTES)
        if first[at : at + CHUNK_SIZE_BYTES] != second[at : at + CHUNK_SIZE_BYTES]
    }


def test_both_days_come_back_byte_for_byte(
    backcast: Backcast, history: History, tmp_path: Path
) -> None:
    for taken, content in zip(history.taken, history.contents, strict=True):
        out = tmp_path / taken["point"]
        (restored,) = backcast("restore", taken["point"], out, "--json").objects
        assert out.read_bytes() == content, f"seed {SEED}"
        assert (restored["bytes"], restored["verified"]) == (SIZE_BYTES, True)
        assert restored["fetched_bytes"] > 0


def test_a_point_goes_into_a_pipe_whole_or_in_part(
    backcast: Backcast, local_servers: LocalCluster, history: History, tmp_path: Path
) -> None:
    content, out = history.contents[1], tmp_path / "part"
    for options, expected in (
        ("", content),
        ("--range 5000000:70000", content[5_000_000:5_070_000]),
    ):
        line = f'"$@" restore disk@2 - {options} | cat'
        ran = subprocess.run(
            ["sh", "-c", line, "sh", sys.executable, "-m", "services.cli"],
            env=outer_environ() | {"BACKCAST_HOME": str(local_servers.home.folder)},
            cwd=SOURCE,
            capture_output=True,
            timeout=120,
            check=True,
        )
        assert ran.stdout == expected
        assert b"standard output: " in ran.stderr
        assert b"every chunk verified" in ran.stderr
    assert backcast("restore", "disk@2", out, "--range", "0x100000:17").status == 0
    assert out.read_bytes() == content[1 << 20 : (1 << 20) + 17]
    ran = backcast("restore", "disk@2", tmp_path / "other", "--range", f"{SIZE_BYTES}:1")
    assert (ran.status, (tmp_path / "other").exists()) == (2, False)


def test_the_log_says_what_was_sealed(local_servers: LocalCluster, history: History) -> None:
    lines = [
        line
        for log in local_servers.home.log_file("catalog").parent.glob("*.log")
        for line in log.read_text(errors="replace").splitlines()
        if '"message": "sealed"' in line
    ]
    sealed = [json.loads(line) for line in lines]
    (told,) = [one for one in sealed if one["session"] == history.taken[1]["snapshot"]]
    assert (told["tenant"], told["group"], told["sequence"]) == ("default", "disk", 2)


def test_what_exists_is_only_overwritten_by_force(
    backcast: Backcast, history: History, tmp_path: Path
) -> None:
    out = tmp_path / "out.raw"
    out.write_bytes(b"precious" * 1000)
    assert backcast("restore", "disk@1", out).status == 4
    assert out.read_bytes() == b"precious" * 1000
    assert backcast("restore", "disk@1", out, "--force").status == 0
    assert out.read_bytes() == history.contents[0]


def test_figures_are_those_of_the_change(history: History) -> None:
    first, second = history.taken
    assert (first["point"], second["point"]) == ("disk@1", "disk@2")
    assert first["logical_bytes"] == second["logical_bytes"] == SIZE_BYTES
    assert second["changed_bytes"] < first["changed_bytes"]
    assert second["sent_bytes"] <= second["changed_bytes"]
    assert 0 < second["stored_bytes"] < first["stored_bytes"]


def test_differences_are_exactly_the_changed_chunks(backcast: Backcast, history: History) -> None:
    extents = backcast("diff", "disk@1", "disk@2", "--json").objects
    named = {
        at // CHUNK_SIZE_BYTES
        for extent in extents
        for at in range(
            extent["offset_bytes"],
            extent["offset_bytes"] + extent["length_bytes"],
            CHUNK_SIZE_BYTES,
        )
    }
    assert named == changed_chunks(*history.contents), f"seed {SEED}"


def test_an_address_translates_down_and_up_again(backcast: Backcast, history: History) -> None:
    offset = 5 << 20
    (down,) = backcast("translate", "disk@2", offset + 77, "--json").objects
    assert down["source"]["path"] == str(history.path)
    storage = down["storage"]
    address = f"{storage['generation']}:{storage['frame']}:{storage['position']}"
    (up,) = backcast("translate", "disk@2", "--storage", address, "--json").objects
    assert up["id"] == down["chunk"]
    assert offset + 77 in [run["offset_bytes"] for run in up["addresses"]]
    assert address in backcast("translate", "disk@2", offset + 77).out


def test_zeros_are_stored_nowhere(backcast: Backcast, history: History) -> None:
    (found,) = backcast("translate", "disk@2", 8 << 20, "--json").objects
    assert (found["chunk"], found["storage"]) == ("zero", None)


def test_points_are_found_in_every_form(backcast: Backcast, history: History) -> None:
    def lasting(found: dict[str, Any]) -> dict[str, Any]:
        """Without what a verification in the background may have changed meanwhile."""
        return {name: found[name] for name in found if not name.startswith("verified_")}

    (newest,) = map(lasting, backcast("snapshot", "show", "disk", "--json").objects)
    assert newest["sequence"] == 2
    listed = backcast("snapshot", "list", "disk", "--json").objects
    assert [one["point"] for one in listed] == ["disk@2", "disk@1"]
    for point in ("disk@latest", f"disk@{newest['sealed_at']}", "disk@-0s"):
        (found,) = backcast("snapshot", "show", point, "--json").objects
        assert lasting(found) == newest
    (whole,) = backcast("snapshot", "show", newest["session"], "--json").objects
    (volume,) = whole["volumes"]
    assert lasting({**volume, "barrier": whole["barrier"]}) == newest
    assert backcast("snapshot", "show", "disk@-10d").status == 3


def test_groups_are_taken_together_and_at_once(backcast: Backcast, tmp_path: Path) -> None:
    for name, group in (("g1", "g"), ("g2", "g"), ("alone", "alone")):
        path = tmp_path / name
        path.write_bytes(os.urandom(200_000))
        assert backcast("volume", "add", name, path, "--group", group).status == 0
    taken = backcast("snapshot", "take", "g2", "alone", "g1", "--json").objects
    assert sorted(one["point"] for one in taken) == ["alone@1", "g1@1", "g2@1"]
    planned = backcast("snapshot", "take", "g1", "--dry-run", "--json").objects
    assert planned == [{"group": "g", "volumes": ["g1", "g2"], "dry_run": True}]
    ran = backcast("snapshot", "expire", "g1@1", "--dry-run")
    assert (ran.status, ran.out) == (4, "")
    ran = backcast("volume", "retain", "g1", "--last", "3")
    assert "the rule is for g1 and g2" in ran.err
    by_volume = {one["volume"]: one["snapshot"] for one in taken}
    assert by_volume["g1"] == by_volume["g2"] != by_volume["alone"]


def test_events_tell_what_happened_in_order(backcast: Backcast, history: History) -> None:
    events = backcast("events", "tail", "--topic", "backcast.snapshots", "--json").objects
    assert [event["incarnation"] for event in events] == [events[0]["incarnation"]] * len(events)
    ours = [event for event in events if event["correlation_id"] == history.taken[1]["snapshot"]]
    assert [event["type"].rpartition(".")[2] for event in ours] == [
        "snapshot_requested",
        "snapshot_sealed",
    ]
    after = backcast(
        "events",
        "tail",
        "--topic",
        "backcast.snapshots",
        f"--after={events[0]['cursor']}",
        "--json",
    ).objects
    assert [event["id"] for event in after][: len(events) - 1] == [
        event["id"] for event in events[1:]
    ]


def test_the_sheet_has_the_key_that_wraps_the_tenants_keys(
    backcast: Backcast, history: History
) -> None:
    keys = backcast("keys", "list", "--json").objects
    sheet = read_sheet(backcast("keys", "sheet").out)
    assert {key["kek_fingerprint"] for key in keys} == {sheet.kek.fingerprint.hex()}


def test_a_tenant_sees_nothing_of_another(
    backcast: Backcast, history: History, tmp_path: Path
) -> None:
    unknown = backcast("volume", "list", tenant="other")
    assert (unknown.status, unknown.out) == (3, "")
    assert "tenant other" in unknown.err
    assert backcast("restore", "disk@1", tmp_path / "out", tenant="other").status == 3
    assert not (tmp_path / "out").exists()
    assert backcast("snapshot", "show", history.taken[0]["snapshot"], tenant="other").status == 3


@pytest.mark.parametrize("path", ["/nonexistent", "/tmp", "/dev/null"])
def test_what_is_no_volume_is_refused(backcast: Backcast, path: str) -> None:
    ran = backcast("volume", "add", "wrong", path)
    assert ran.status == 10
    assert path in ran.err


def test_a_volume_that_vanished_rejects_its_snapshot(backcast: Backcast, tmp_path: Path) -> None:
    path = tmp_path / "gone.raw"
    path.write_bytes(bytes(1 << 20))
    assert backcast("volume", "add", "gone", path).status == 0
    path.unlink()
    ran = backcast("snapshot", "take", "gone", "--json")
    assert (ran.status, ran.out) == (10, "")
    assert json.loads(ran.err)["code"] == "source"


def test_damage_is_named_repaired_by_the_next_snapshot_and_gone_then(
    backcast: Backcast, local_servers: LocalCluster, tmp_path: Path
) -> None:
    """A volume that did not change: only what is damaged is sent again."""
    path, content = tmp_path / "rot.raw", random.Random(SEED).randbytes(SIZE_BYTES)
    path.write_bytes(content)
    backcast("volume", "add", "rot", path)
    assert backcast("snapshot", "take", "rot").status == 0
    (intact,) = backcast("snapshot", "verify", "rot@1", "--level", "full", "--json").objects
    assert (intact["state"], intact["damaged_bytes"]) == ("intact", 0)
    assert "data not read" in backcast("snapshot", "verify", "rot@1").out
    assert " full " in backcast("snapshot", "list", "rot").out
    (found,) = backcast("translate", "rot@1", str(5 << 20), "--json").objects
    flip_frame(local_servers, found["storage"])
    ran = backcast("snapshot", "verify", "rot@1", "--level", "full", "--json")
    damaged = json.loads(ran.out)
    assert (ran.status, damaged["state"], damaged["extent_count"]) == (6, "damaged", 1)
    (extent,) = damaged["extents"]
    assert (extent["volume"], extent["offset_bytes"]) == ("rot", 5 << 20)
    assert backcast("restore", "rot@1", tmp_path / "out").status == 6
    assert "DAMAGED" in backcast("snapshot", "list", "rot").out
    (taken,) = backcast("snapshot", "take", "rot", "--json").objects
    assert extent["length_bytes"] <= taken["sent_bytes"] < SIZE_BYTES // 2
    assert taken["compared_all"]
    assert backcast("snapshot", "verify", "rot@1", "--level", "full").status == 0
    (following,) = backcast("snapshot", "take", "rot", "--json").objects
    assert (following["compared_all"], following["changed_bytes"]) == (False, 0)
    assert backcast("restore", "rot@1", tmp_path / "out").status == 0
    assert (tmp_path / "out").read_bytes() == content
    assert "DAMAGED" not in backcast("snapshot", "list", "rot").out


def flip_frame(local_servers: LocalCluster, storage: dict[str, Any]) -> None:
    """Flip a bit of the stored frame."""
    bucket = bucket_at(local_servers.s3, BUCKET)
    store = S3Store(bucket)
    body = bytearray(store.get(storage["object_key"]))
    body[storage["frame_offset_bytes"] + 100] ^= 1
    store.put(storage["object_key"], bytes(body))
