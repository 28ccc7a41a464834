"""Groups of volumes through the whole system: one common cut, and what is said about it."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from libs.rest.client import RestClient
from tests.support.file_systems import mounted, needs_mounts, run
from tests.support.running import TENANT, Answer, RunningSite

MIB = 1 << 20
#: Snapshots that are taken while the generator writes.
ROUNDS = 4


def protect(
    site: RunningSite, name: str, group: str, path: Path, freeze: Path | None = None
) -> None:
    body = {"name": name, "group": group, "path": str(path)}
    site.coordinator.post(
        f"/v1/tenants/{TENANT}/volumes", body | ({"freeze": str(freeze)} if freeze else {})
    )


def shown(site: RunningSite, session: str) -> Answer:
    """What `backcast snapshot show` shows of a snapshot."""
    restore = RestClient(site.cluster.home.url, site.cluster.home.secret("token"))
    found: Answer = restore.get(f"/v1/tenants/{TENANT}/snapshots/{session}")
    return found


def test_three_volumes_are_cut_at_one_barrier_and_come_back(
    site: RunningSite, tmp_path: Path
) -> None:
    paths = [tmp_path / f"three-{number}" for number in range(3)]
    for path in paths:
        path.write_bytes(os.urandom(2 * MIB))
        protect(site, path.name, "three", path)
    for _ in range(2):
        taken = site.take("three")
        assert taken["state"] == "sealed", taken
        for path in paths:
            assert site.matches(path.name, path)
        with paths[1].open("r+b") as file:
            file.write(os.urandom(4096))
    snapshot = shown(site, taken["session"])
    assert snapshot["consistency"] == "quiet"
    (node,) = snapshot["barrier"]
    assert (node["means"], node["unbroken"]) == ("none", True)
    assert node["held_at"] <= node["cut_at"] <= node["released_at"]


def test_a_volume_alone_has_no_barrier(site: RunningSite) -> None:
    site.volume("alone", MIB)
    taken = site.take("alone")
    assert taken["state"] == "sealed"
    assert shown(site, taken["session"])["barrier"] == []


def test_what_is_not_mounted_cannot_be_frozen(site: RunningSite, tmp_path: Path) -> None:
    path = tmp_path / "unmounted"
    path.write_bytes(bytes(MIB))
    with pytest.raises(Exception, match="nothing is mounted there"):
        protect(site, "unmounted", "unmounted", path, tmp_path)


@contextlib.contextmanager
def generator(first: Path, second: Path) -> Iterator[None]:
    """Writes a number to the first file, and when that is durable, to the second one."""
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            for path in (first, second):
                with path.open("r+b" if path.exists() else "wb") as file:
                    file.write(number.to_bytes(8, "big"))
                    file.flush()
                    os.fsync(file.fileno())

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def counter_of(site: RunningSite, name: str, sequence: int, folder: Path) -> int:
    """The number in a restored file system."""
    where = f"/v1/tenants/{TENANT}/volumes/{name}/points/{sequence}/bytes"
    token = site.cluster.home.secret("token")
    request = Request(site.cluster.home.url + where, headers={"Authorization": f"Bearer {token}"})
    image, mount = folder / f"{name}-{sequence}", folder / f"{name}-{sequence}-mount"
    with urlopen(request, timeout=60) as answer:
        image.write_bytes(answer.read())
    mount.mkdir()
    run("mount", "-o", "loop,ro", str(image), str(mount))
    try:
        return int.from_bytes((mount / "counter").read_bytes(), "big")
    finally:
        run("umount", str(mount))


@needs_mounts
def test_a_write_is_never_in_a_snapshot_without_the_one_that_it_followed(
    site: RunningSite, tmp_path: Path
) -> None:
    """Scenario 18: the second file system never has a number that the first one lacks."""
    with contextlib.ExitStack() as mounts:
        host = mounts.enter_context(mounted(tmp_path / "host", tmp_path / "h", "xfs", 600))
        guests = []
        for name in ("cause", "effect"):
            image = host / name
            guests.append(mounts.enter_context(mounted(image, tmp_path / name, "ext4", 32)))
            protect(site, name, "causal", image, guests[-1])
        first, second = (guest / "counter" for guest in guests)
        with generator(first, second):
            taken = [site.take("causal") for _ in range(ROUNDS)]
        assert [one["state"] for one in taken] == ["sealed"] * ROUNDS, taken
        seen = []
        for one in taken:
            snapshot = shown(site, one["session"])
            assert snapshot["consistency"] == "frozen"
            assert [node["means"] for node in snapshot["barrier"]] == ["fsfreeze"]
            cause, effect = (
                counter_of(site, name, one["sequence"], tmp_path) for name in ("cause", "effect")
            )
            assert effect in (cause, cause - 1), f"snapshot {one['sequence']}: {cause}, {effect}"
            seen.append(cause)
        assert seen == sorted(set(seen)), "the generator wrote between the snapshots"
