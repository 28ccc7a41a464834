"""Volumes that are captured by clones, from the request to the restore."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import wait_until
from libs.errors import SourceError
from services.change_capture.drivers.reflink.extents import window_of
from tests.integration.capture.test_tracking import Answer, notices, part_of, punch, write
from tests.support.file_systems import CLONING, mounted_to_clone, run
from tests.support.running import SECONDS_MAX, TENANT, RunningSite

CHUNK = 1 << 16
MIB = 1 << 20


@pytest.fixture(scope="module", params=CLONING)
def mount(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with mounted_to_clone(tmp_path_factory.mktemp("mounts"), request.param) as made:
        made.chmod(0o777)
        yield made


def protect(site: RunningSite, name: str, path: Path, size_bytes: int) -> None:
    path.write_bytes(os.urandom(size_bytes))
    body = {"name": name, "path": str(path), "driver": "reflink"}
    added: Answer = site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
    assert added["driver"] == "reflink"


def test_clones_tell_what_changed_and_are_read(site: RunningSite, mount: Path) -> None:
    path, name = mount / "image", f"cloned-{mount.name}"
    protect(site, name, path, 16 * MIB)
    first = site.take(name)
    assert (part_of(first)["tracking"], part_of(first)["consistency"]) == ("none", "frozen")
    write(path, 10, 3)
    write(path, 200, 1)
    punch(path, 100, 50)
    second = site.take(name)
    assert part_of(second)["tracking"] == "candidates", second
    assert part_of(second)["read_bytes"] == 4 * CHUNK
    assert site.matches(name, path)
    empty = site.take(name)
    assert (part_of(empty)["tracking"], part_of(empty)["read_bytes"]) == ("candidates", 0)
    kept = mount / ".backcast-clones"  # of the volume, until the agent is told how it ended
    assert wait_until(lambda: len([*kept.iterdir()]) == 1, SECONDS_MAX)
    shutil.rmtree(kept)
    write(path, 7, 1)
    lost = site.take(name)
    assert part_of(lost)["tracking"] == "lost"
    assert site.matches(name, path)
    assert notices(site, name) == ["warning"]
    write(path, 8, 1)
    assert part_of(site.take(name))["read_bytes"] == CHUNK
    assert site.matches(name, path)


def test_an_agent_that_was_killed_knows_what_changed_since(site: RunningSite, mount: Path) -> None:
    path, name = mount / "killed", f"killed-{mount.name}"
    protect(site, name, path, 4 * MIB)
    site.take(name)
    write(path, 5, 1)
    site.kill("agent")
    site.start("agent")
    taken = site.take(name)
    assert (part_of(taken)["tracking"], part_of(taken)["read_bytes"]) == ("candidates", CHUNK)
    assert site.matches(name, path)


def test_a_map_that_lies_of_one_chunk_is_found_out(
    site: RunningSite, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The device under the file system changes, and no map says so: of 16 chunks, 16 are read."""
    folder = tmp_path_factory.mktemp("lying")
    with mounted_to_clone(folder, "xfs") as mount:
        mount.chmod(0o777)
        path = mount / "image"
        protect(site, "lying", path, 16 * CHUNK)
        site.take("lying")
        with path.open("rb") as file:
            os.fsync(file.fileno())
            lied = next(window_of(file.fileno(), 9 * CHUNK, 10 * CHUNK, 8).extents())
        with (folder / "xfs.image").open("r+b") as device:
            device.seek(lied.physical)
            device.write(os.urandom(4096))
            os.fsync(device.fileno())
        run("sh", "-c", "echo 3 >/proc/sys/vm/drop_caches")
        caught = site.take("lying")
        assert (caught["state"], caught["code"]) == ("rejected", "tracking-lost"), caught
        assert notices(site, "lying") == ["error"]
        again = site.take("lying")
        assert part_of(again)["tracking"] == "lost"
        assert site.matches("lying", path)


def test_what_keeps_no_clone_is_refused_and_the_command_shows_the_driver(
    site: RunningSite, mount: Path
) -> None:
    def backcast(*arguments: str) -> Answer:
        ran = subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments, "--json"],
            env=os.environ | {"BACKCAST_HOME": str(site.cluster.home.folder)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        answer: Answer = json.loads(ran.stdout)
        return answer

    path, name = mount / "shown", f"shown-{mount.name}"
    path.write_bytes(os.urandom(MIB))
    added = backcast("volume", "add", name, str(path), "--driver", "reflink")
    assert added["driver"] == "reflink"
    assert backcast("volume", "show", name)["driver"] == "reflink"
    assert backcast("volume", "move", name, str(path), "--driver", "scan")["driver"] == "scan"
    backcast("volume", "move", name, str(path), "--driver", "reflink")
    assert site.take(name)["state"] == "sealed"
    for odd in (Path("/dev/loop0"), *(mount / ".backcast-clones").iterdir()):
        body = {"name": "odd", "path": str(odd), "driver": "reflink"}
        with pytest.raises(SourceError):
            site.coordinator.post(f"/v1/tenants/{TENANT}/volumes", body)
