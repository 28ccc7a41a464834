"""What a start of a service costs: modules that it imports, and work while it imports them.

In modules and collections, because seconds differ between machines.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from deploy.local.process import outer_environ

#: Runs a service as `python -m` does, without settings, so that it ends after its imports.
RUN = """
import gc, json, runpy, sys
before = [one["collections"] for one in gc.get_stats()]
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit:
    pass
after = [one["collections"] for one in gc.get_stats()]
print(json.dumps({
    "modules": sorted(sys.modules),
    "collections": sum(after) - sum(before),
    "enabled": gc.isenabled(),
    "frozen": gc.get_freeze_count(),
}))
"""


@dataclass(frozen=True)
class Started:
    #: Top-level packages, and their modules.
    modules: frozenset[str]
    collections: int
    enabled: bool
    frozen: int


def start(module: str) -> Started:
    ran = subprocess.run(
        [sys.executable, "-c", RUN, module, "--print-config"],
        env=outer_environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(ran.stdout.splitlines()[-1])
    return Started(frozenset(said["modules"]), said["collections"], said["enabled"], said["frozen"])


#: Packages that only some processes need.
HEAVY = {"aiokafka", "fastapi", "joserfc", "minio", "psycopg", "rich", "urllib3"}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("services.catalog", {"aiokafka", "fastapi", "psycopg"}),
        ("services.chunker", {"aiokafka", "fastapi", "psycopg"}),
        ("services.restore", {"fastapi", "psycopg"}),
        ("services.change_capture.coordinator", {"fastapi", "psycopg"}),
        ("services.change_capture.agent", {"aiokafka", "fastapi"}),
        ("services.catalog.init", {"aiokafka", "minio", "psycopg", "urllib3"}),
    ],
)
def test_a_service_imports_what_it_needs_and_collects_no_garbage_meanwhile(
    module: str, needed: set[str]
) -> None:
    started = start(module)
    assert HEAVY & started.modules == needed
    assert started.collections < 20  # without care there are hundreds
    assert started.enabled
    assert started.frozen > 10_000


@pytest.mark.parametrize("arguments", [["--version"], ["volume", "list"], ["snapshot", "list"]])
def test_the_command_imports_no_framework(arguments: list[str]) -> None:
    assert not imported_by_the_command(arguments) & (
        HEAVY | {"asyncio", "cryptography", "msgspec", "prometheus_client"}
    )


def imported_by_the_command(arguments: list[str]) -> frozenset[str]:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "services.cli", *arguments],
        env=outer_environ() | {"BACKCAST_URL": "http://127.0.0.1:1", "BACKCAST_TOKEN": "t"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 50
    return frozenset(line.rpartition("|")[2].strip() for line in lines)
