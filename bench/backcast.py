"""Backcast as a subject: its public command and REST interface, everything running as services."""

import dataclasses
import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import sql
from typing_extensions import override

from bench.measure import StepFailedError, Usage, run_command
from bench.s3 import bucket_objects
from bench.subject import Subject, command_environment
from deploy.local.cache import cache_folder

_COMMAND = Path(sys.executable).with_name("backcast")
_RANGE_SECONDS_MAX = 60


class Backcast(Subject):
    """A fresh BACKCAST_HOME with all its servers and services."""

    #: Of `dev up`.
    up_options: tuple[str, ...] = ()

    def __init__(self, folder: Path, s3_server: str) -> None:
        super().__init__(folder, s3_server)
        settings = {
            "BACKCAST_HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(cache_folder().parent),  # holds MinIO and Kafka's jars
        }
        self._environment = command_environment(folder, settings)
        self._servers: dict[str, int] = {}
        self._volumes: set[str] = set()

    @override
    @classmethod
    def version(cls) -> str | None:
        if not _COMMAND.exists():
            return None
        git = ("git", "describe", "--always", "--dirty")
        here = Path(__file__).parent
        said = subprocess.run(git, cwd=here, capture_output=True, text=True, check=False)
        return f"backcast {said.stdout.strip()}".strip()

    @override
    def open(self) -> None:
        up = ("dev", "up", "--s3", self.s3_server, *self.up_options, "--json")
        status = json.loads(self._run(*up).output)
        self._servers = {process["name"]: process["pid"] for process in status["processes"]}
        self._environment |= json.loads(self._run("dev", "env", "--json").output)

    @override
    def close(self) -> None:
        self._run("dev", "down")

    @override
    def servers(self) -> Mapping[str, int]:
        return self._servers

    @override
    def backup(self, volume: str, image: Path, *options: str) -> Usage:
        if volume not in self._volumes:
            self.protect(volume, image, *options)
        before = self._catalog_rows()
        usage = self._run("snapshot", "take", volume, "--json")
        new = {table: rows - before.get(table, 0) for table, rows in self._catalog_rows().items()}
        added = {table: rows for table, rows in new.items() if rows}
        reported = json.loads(usage.output) | {"catalog_rows": added}
        return dataclasses.replace(usage, reported=reported)

    def protect(self, volume: str, path: Path, *options: str) -> None:
        """Add a volume; no snapshot of it is taken."""
        self._run("volume", "add", volume, path, *options)
        self._volumes.add(volume)

    def snapshot_of(self, group: str, volume: str) -> Sequence[Mapping[str, str]]:
        """Take a snapshot of a group; what its nodes said at the barrier, by one of its volumes."""
        self._run("snapshot", "take", group, "--json")
        shown = json.loads(self._run("snapshot", "show", volume, "--json").output)
        barrier: Sequence[Mapping[str, str]] = shown["barrier"]
        return barrier

    def backup_of(self, tenant: str, volume: str, image: Path) -> None:
        """Protect a volume of another tenant, and take its first snapshot."""
        self._run("volume", "add", volume, image, "--tenant", tenant)
        self._run("snapshot", "take", volume, "--tenant", tenant)

    def backup_by_hints(self, volume: str, hints: Path) -> Usage:
        """A snapshot that reads what a file says has changed since the latest one."""
        base = ("--base", f"{volume}@latest")
        usage = self._run("snapshot", "take", volume, "--hints", hints, *base, "--json")
        return dataclasses.replace(usage, reported=json.loads(usage.output))

    @override
    def restore(self, volume: str, target: Path) -> Usage:
        usage = self._run("restore", f"{volume}@latest", target, "--json")
        return dataclasses.replace(usage, reported=json.loads(usage.output))

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
        ca_file = self._environment.get("BACKCAST_CA_FILE")
        tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        start, start_cpu = time.perf_counter(), time.process_time()
        try:
            with urllib.request.urlopen(request, None, _RANGE_SECONDS_MAX, context=tls) as answer:
                target.write_bytes(answer.read())
        except urllib.error.HTTPError as refusal:
            message = f"{request.full_url}: {refusal}: {refusal.read().decode(errors='replace')}"
            raise StepFailedError(message) from refusal
        wall = time.perf_counter() - start
        return Usage(wall, time.process_time() - start_cpu, rss_bytes=0)

    @override
    def stored(self) -> Mapping[str, int]:
        endpoint, access_key, secret_key, bucket = (
            self._environment[f"BACKCAST_S3_{name}"]
            for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "BUCKET")
        )
        return bucket_objects(endpoint, access_key, secret_key, bucket)

    def _catalog_rows(self) -> dict[str, int]:
        """Rows of every table of the catalog."""
        rows = {}
        with psycopg.connect(self._environment["BACKCAST_POSTGRES_URL"]) as catalog:
            tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            for (table,) in catalog.execute(tables).fetchall():
                count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
                counted = catalog.execute(count).fetchone()
                rows[table] = int(counted[0]) if counted else 0
        return rows

    def _run(self, *argv: str | Path) -> Usage:
        return run_command((_COMMAND, *argv), self._environment, self.folder, self.log)


class EncryptedBackcast(Backcast):
    """The same, with TLS between agent, chunker, services and command."""

    up_options = ("--tls",)
