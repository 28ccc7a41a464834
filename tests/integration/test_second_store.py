"""A local home with a second store, by the real services: copied, lost, read, mended."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import discard, passing_home, start_or_skip
from deploy.local.servers.s3 import S3Choice
from deploy.local.services import BUCKET
from libs.store.layout import PACKS_PREFIX
from libs.store.s3 import S3Store
from tests.support.buckets import bucket_at

SECONDS_MAX = 60

Run = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(passing_home(tmp_path_factory.mktemp("second")))
    start_or_skip(lambda: made.up(print, s3=S3Choice.MINIO, second_store=True))
    yield made
    discard(made)


@pytest.fixture(scope="module")
def run(cluster: LocalCluster) -> Run:
    """The command; the JSON objects that it prints."""

    def command(*arguments: object) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", *map(str, arguments), "--json"],
            env={"BACKCAST_HOME": str(cluster.home.folder), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return command


def poll(ask: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not ask():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.2)


def test_the_primary_loses_its_packs_and_nobody_notices(
    cluster: LocalCluster, run: Run, tmp_path: Path
) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    content = bytes(range(256)) * (1 << 14)
    disk.write_bytes(content)
    run("volume", "add", "disk", disk)
    run("volume", "retain", "disk", "--copies", "2")
    run("snapshot", "take", "disk")
    poll(lambda: run("snapshot", "list", "disk")[0]["copies"] == 2)
    primary = S3Store(bucket_at(cluster.s3, BUCKET))
    keys = [stat.key for stat in primary.list(PACKS_PREFIX)]
    assert keys
    for key in keys:
        primary.delete(key)
    run("restore", "disk@1", out)
    assert out.read_bytes() == content
    (verified,) = run("snapshot", "verify", "disk@1", "--level", "full")
    assert verified["state"] == "intact"
    poll(lambda: sorted(stat.key for stat in primary.list(PACKS_PREFIX)) == sorted(keys))
    stores = {one["name"]: one for one in run("store", "list")}
    assert stores.keys() == {"primary", "second"}
    assert all(one["state"] == "online" and one["configured"] for one in stores.values())
    (found,) = run("translate", "disk@1", "0")
    assert sorted(found["storage"]["copies"]) == ["primary", "second"]
