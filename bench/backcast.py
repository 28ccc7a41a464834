"""Backcast as a subject: its public command and REST interface, everything running as services."""

import dataclasses
import json
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from bench.measure import Usage, run_command
from bench.s3 import bucket_objects
from bench.subject import Subject, command_environment
from deploy.local.cache import cache_folder

_COMMAND = Path(sys.executable).with_name("backcast")


class Backcast(Subject):
    """A fresh BACKCAST_HOME with all its servers and services."""

    def __init__(self, folder: Path, s3_server: str) -> None:
        super().__init__(folder, s3_server)
        settings = {
            "BACKCAST_HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(cache_folder().parent),  # holds MinIO and Kafka's jars
        }
        self._environment = command_environment(folder, settings)
        self._volumes: set[str] = set()

    @override
    @classmethod
    def version(cls) -> str | None:
        git = ("git", "describe", "--always", "--dirty")
        said = subprocess.run(
            git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return f"backcast {said.stdout.strip() or 'of an unknown commit'}"

    @override
    def open(self) -> None:
        self._run("dev", "up", "--s3", self.s3_server)
        for line in self._run("dev", "env").output.splitlines():
            words = shlex.split(line)
            if words[:1] == ["export"]:
                name, _, value = words[1].partition("=")
                self._environment[name] = value

    @override
    def close(self) -> None:
        self._run("dev", "down")

    @override
    def servers(self) -> Mapping[str, int]:
        status = json.loads(self._run("dev", "status", "--json").output)
        return {process["name"]: process["pid"] for process in status["processes"]}

    @override
    def backup(self, volume: str, image: Path) -> Usage:
        if volume not in self._volumes:
            self._run("volume", "add", volume, image)
            self._volumes.add(volume)
        return self._reported(self._run("snapshot", "take", volume, "--json"))

    @override
    def restore(self, volume: str, target: Path) -> Usage:
        return self._reported(self._run("restore", f"{volume}@latest", target, "--json"))

    @override
    def read_range(self, volume: str, offset: int, size_bytes: int, target: Path) -> Usage:
        base = self._environment["BACKCAST_URL"].rstrip("/")
        request = urllib.request.Request(
            f"{base}/v1/tenants/default/volumes/{volume}/points/latest/bytes",
            headers={
                "Authorization": f"Bearer {self._environment['BACKCAST_TOKEN']}",
                "Range": f"bytes={offset}-{offset + size_bytes - 1}",
            },
        )
        start, start_cpu = time.perf_counter(), time.process_time()
        with urllib.request.urlopen(request) as response:
            target.write_bytes(response.read())
        wall = time.perf_counter() - start
        return Usage(wall, time.process_time() - start_cpu, rss_bytes=0)

    @override
    def stored(self) -> Mapping[str, int]:
        endpoint, access_key, secret_key, bucket = (
            self._environment[f"BACKCAST_S3_{name}"]
            for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "BUCKET")
        )
        return bucket_objects(endpoint, access_key, secret_key, bucket)

    def _run(self, *argv: str | Path) -> Usage:
        return run_command((_COMMAND, *argv), self._environment, self.folder, self.log)

    @staticmethod
    def _reported(usage: Usage) -> Usage:
        return dataclasses.replace(usage, reported=json.loads(usage.output))
