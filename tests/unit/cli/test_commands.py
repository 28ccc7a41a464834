"""What the commands ask for and print, against a scripted service."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from docs.generate import command_page
from libs.errors import BackcastError, ForbiddenError, UnavailableError, error_class
from services.cli.parser import build_parser
from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

BASE = "/v1/tenants/default"
POINT = f"{BASE}/volumes/vm/points"


def point(sequence: int) -> dict[str, Any]:
    return {
        "volume": "vm",
        "sequence": sequence,
        "session": f"session-{sequence}",
        "sealed_at": "2026-11-22T10:00:00.25Z",
        "size_bytes": 1 << 30,
        "changed_bytes": 1 << 20,
        "stored_bytes": 1 << 19,
        "consistency": "quiet",
        "tracking": {1: "none", 2: "lost"}.get(sequence, "exact"),
        "verified_level": "full",
        "damaged": sequence == 1,
        "copies": sequence,
        "copies_wanted": 2,
        "note": None,
    }


def every_error() -> list[type[BackcastError]]:
    """Every class that has a code of its own."""
    found = [BackcastError]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if "code" in vars(cls)]


@pytest.mark.parametrize("error", every_error())
def test_an_error_of_the_service_becomes_its_exit_status(
    backcast: Backcast, script: Script, error: type[BackcastError]
) -> None:
    assert error_class(error.code) is error
    script["GET", f"{BASE}/volumes"] = [(error.http_status, error.code)]
    ran = backcast("volume", "list", "--json")
    assert ran.status == error.exit_code
    assert f'"code": "{error.code}"' in ran.err
    assert ran.out == ""


def test_unknown_codes_are_plain_errors() -> None:
    assert error_class("of-the-future") is BackcastError


@pytest.mark.parametrize("arguments", [(), ("volume",), ("volume", "paint"), ("restore", "vm@1")])
def test_wrong_arguments_are_bad_input(backcast: Backcast, arguments: tuple[str, ...]) -> None:
    assert backcast(*arguments).status == 2


def test_an_unforeseen_error_has_its_own_status(backcast: Backcast, script: Script) -> None:
    script["GET", f"{BASE}/volumes"] = [[{"not": "a volume"}]]
    ran = backcast("volume", "list")
    assert ran.status == 70
    assert "KeyError" in ran.err


def test_a_relative_path_is_the_callers(
    backcast: Backcast, script: Script, service: ScriptedService, monkeypatch: Any, tmp_path: Path
) -> None:
    nodes = [{"node": "n", "path": "/x", "lead": True}]
    added = {"name": "vm", "path": "/x", "node": "n", "size_bytes": 1, "nodes": nodes}
    script["POST", f"{BASE}/volumes"] = [added]
    monkeypatch.chdir(tmp_path)
    options = ("--group", "g", "--freeze", "/mnt/vm", "--json")
    assert backcast("volume", "add", "vm", "disk.raw", *options).objects == [added]
    assert service.bodies("POST", f"{BASE}/volumes") == [
        {"name": "vm", "path": str(tmp_path / "disk.raw"), "group": "g", "freeze": "/mnt/vm"}
    ]


def test_all_pages_of_snapshots_are_listed(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    script["GET", f"{BASE}/snapshots"] = [
        {"snapshots": [point(3), point(2)], "next": "session-2"},
        {"snapshots": [point(1)], "next": None},
    ]
    assert [one["point"] for one in backcast("snapshot", "list", "vm", "--json").objects] == [
        "vm@3",
        "vm@2",
        "vm@1",
    ]
    assert service.queries(f"{BASE}/snapshots") == [
        {"name": "vm"},
        {"name": "vm", "before": "session-2"},
    ]


def test_a_list_says_all_where_nobody_knew_what_changed(backcast: Backcast, script: Script) -> None:
    points = [point(sequence) for sequence in (3, 2, 1)]
    script["GET", f"{BASE}/snapshots"] = [{"snapshots": points, "next": None}]
    lines = backcast("snapshot", "list").out.splitlines()[1:]
    assert ["1.00 MiB" in line for line in lines] == [True, False, False]
    assert [" all " in line for line in lines] == [False, True, True]


def test_a_reconciliation_says_what_it_costs_before_it_is_asked_for(
    backcast: Backcast, script: Script
) -> None:
    script["POST", "/v1/catalog/reconcile"] = [(503, "unavailable")]
    ran = backcast("catalog", "reconcile")
    assert "waits 90 s" in ran.err
    assert "No snapshot begins" in ran.err


def test_snapshots_are_shown_by_point_name_and_id(backcast: Backcast, script: Script) -> None:
    id_ = "01a204e2-bcc3-7738-810d-f655d6dca768"
    script["GET", f"{POINT}/latest"] = [point(3)]
    script["GET", f"{POINT}/2"] = [point(2)]
    node = {"node": "node-1", "means": "fsfreeze", "unbroken": True}
    script["GET", f"{BASE}/snapshots/session-3"] = [{"barrier": []}]
    script["GET", f"{BASE}/snapshots/session-2"] = [{"barrier": [node]}]
    script["GET", f"{BASE}/snapshots/{id_}"] = [
        {"session": id_, "volumes": [point(1)], "barrier": []}
    ]
    assert backcast("snapshot", "show", "vm", "--json").objects == [point(3) | {"barrier": []}]
    shown = backcast("snapshot", "show", "vm@2").out
    assert "session-2" in shown
    assert "fsfreeze" in shown
    assert "session-1" in backcast("snapshot", "show", id_).out


def test_an_offset_is_translated_down(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    found = {
        "sequence": 2,
        "source": {"node": "n", "path": "/dev/vda", "offset_bytes": 65536},
        "logical": {"volume": "vm", "offset_bytes": 65536, "chunk_index": 1},
        "chunk": "c0ffee",
        "storage": {
            "generation": "9e",
            "frame": 3,
            "position": 7,
            "object_key": "packs/9e",
            "copies": ["primary"],
            "frame_offset_bytes": 100,
            "frame_size_bytes": 50,
        },
    }
    script["GET", f"{POINT}/2/translate"] = [found, found | {"storage": None, "chunk": "zero"}]
    text = backcast("translate", "vm@2", "0x10000").out
    assert "9e:3:7" in text
    assert "bytes 100-149" in text
    assert "stored nowhere" in backcast("translate", "vm@2", "65536").out
    assert service.queries(f"{POINT}/2/translate") == [{"offset": "65536"}] * 2


def test_a_storage_address_is_translated_up_over_all_pages(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    def page(chunk: int, after: int | None) -> dict[str, Any]:
        run = {"offset_bytes": chunk << 16, "chunk_index": chunk, "chunk_count": 2}
        return {"kind": "chunk", "id": "c0", "addresses": [run], "next_first_chunk": after}

    path = f"{POINT}/latest/translate"
    script["GET", path] = [page(1, 10), page(12, None)]
    (found,) = backcast("translate", "vm@latest", "--storage", "9e:3:7", "--json").objects
    assert [run["chunk_index"] for run in found["addresses"]] == [1, 12]
    assert service.queries(path)[1]["first_chunk"] == "10"
    assert backcast("translate", "vm@latest", "--storage", "9e:3").status == 2
    assert backcast("translate", "vm@latest", "--storage", "9e:3:7", "5").status == 2
    assert backcast("translate", "vm@latest").status == 2
    assert backcast("translate", "vm@latest", "one").status == 2


def test_differences_come_page_by_page(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    extents = [{"offset_bytes": at, "length_bytes": 65536} for at in (0, 1 << 20)]
    path = f"{BASE}/volumes/vm/diff"
    script["GET", path] = [
        {"extents": extents[:1], "next": 65536},
        {"extents": extents[1:], "next": None},
    ]
    assert backcast("diff", "vm@1", "vm@-1h", "--json").objects == extents
    assert service.queries(path) == [
        {"from": "1", "to": "-1h"},
        {"from": "1", "to": "-1h", "start": "65536"},
    ]
    assert backcast("diff", "vm@1", "other@2").status == 2


def test_events_are_read_to_their_end(
    backcast: Backcast, script: Script, service: ScriptedService
) -> None:
    event = {
        "topic": "backcast.packs",
        "cursor": "here",
        "type": "backcast.packs.pack_stored",
        "occurred_at": "2026-11-22T10:00:00Z",
        "data": {"size_bytes": 5},
    }
    script["GET", f"{BASE}/events"] = [
        {"events": [event], "next": "there", "folded": []},
        {"events": [], "next": "there", "folded": []},
    ]
    assert backcast("events", "tail", "--topic", "backcast.packs", "--json").objects == [event]
    first, second = service.queries(f"{BASE}/events")
    assert (first["topic"], second["after"]) == ("backcast.packs", "there")
    assert "wait_seconds" not in first


def test_who_follows_events_waits_when_that_is_too_much_at_once(
    backcast: Backcast, script: Script, service: ScriptedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    event = {"topic": "t", "cursor": "here", "type": "x", "occurred_at": "now", "data": {}}
    too_much = (429, "too-many-requests", "7")
    script["GET", f"{BASE}/events"] = [
        *[too_much] * 20,
        {"events": [event], "next": "there", "folded": []},
        *[too_much] * 20,
        (403, "forbidden"),
    ]
    ran = backcast("events", "tail", "--follow", "--json")
    assert ran.status == ForbiddenError.exit_code
    assert json.loads(ran.out.splitlines()[0]) == event
    assert len(service.queries(f"{BASE}/events")) == 42
    assert len(waits) == 40
    assert min(waits) >= 7
    assert ran.err.count("too-many-requests, as scripted") == 2


@pytest.mark.parametrize(
    "command", [("events", "tail"), ("snapshot", "list"), ("diff", "vm@1", "vm@2")]
)
def test_a_service_that_does_not_answer_is_told_at_once(
    backcast: Backcast, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setenv("BACKCAST_URL", "http://127.0.0.1:1")
    assert backcast(*command).status == UnavailableError.exit_code
    assert not waits


@pytest.mark.parametrize(
    ("argument", "variable", "tenant"),
    [(None, None, "default"), (None, "acme", "acme"), ("other", "acme", "other")],
)
def test_the_tenant_is_the_arguments_else_the_environments(
    backcast: Backcast,
    script: Script,
    service: ScriptedService,
    monkeypatch: pytest.MonkeyPatch,
    argument: str | None,
    variable: str | None,
    tenant: str,
) -> None:
    if variable:
        monkeypatch.setenv("BACKCAST_TENANT", variable)
    script["GET", f"/v1/tenants/{tenant}/volumes"] = [[]]
    assert backcast("volume", "list", *(["--tenant", argument] if argument else [])).status == 0


def test_without_services_it_says_how_to_get_some(
    backcast: Backcast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BACKCAST_TOKEN")
    assert backcast("volume", "list").status == 11
    monkeypatch.delenv("BACKCAST_URL")
    ran = backcast("volume", "list")
    assert ran.status == 11
    assert "backcast dev up" in ran.err


def test_every_command_takes_json_and_tenant_and_is_described() -> None:
    page = command_page(build_parser())
    commands = page.count("\n## ")
    assert commands == page.count("`--json`") == page.count("`--tenant`")
    assert commands >= 14


def test_every_command_says_what_it_is_for() -> None:
    def check(parser: argparse.ArgumentParser) -> None:
        groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        for group in groups:
            for child in group.choices.values():
                check(child)
        if not groups:
            assert parser.description, parser.prog

    check(build_parser())


def test_the_reference_has_texts_as_help_shows_them() -> None:
    assert "%%" not in command_page(build_parser())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "--tenant", "acme", "volume", "list"),
        ("volume", "--tenant", "acme", "list", "--json"),
        ("--tenant", "other", "volume", "--json", "list", "--tenant", "acme"),
    ],
)
def test_options_of_every_command_stand_anywhere_and_the_last_one_counts(
    backcast: Backcast, script: Script, arguments: tuple[str, ...]
) -> None:
    volume = {
        "name": "vm",
        "group": "vm",
        "node": "n",
        "path": "/x",
        "latest": None,
        "paused_at": None,
    }
    script["GET", "/v1/tenants/acme/volumes"] = [[volume]]
    assert backcast(*arguments).objects == [volume]


def test_starting_imports_nothing_that_takes_time() -> None:
    heavy = ("urllib3", "rich", "pydantic", "fastapi", "msgspec", "cryptography", "asyncio")
    code = (
        "import sys; from services.cli.parser import build_parser; build_parser(); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_a_reader_that_has_seen_enough_is_no_error(service: ScriptedService) -> None:
    volume = {
        "name": "vm",
        "group": "vm",
        "node": "n",
        "path": "/x",
        "latest": None,
        "paused_at": None,
    }
    service.script["GET", f"{BASE}/volumes"] = [[volume] * 5000]
    environ = os.environ | {"BACKCAST_URL": service.url, "BACKCAST_TOKEN": "t"}
    with subprocess.Popen(
        [sys.executable, "-m", "services.cli", "volume", "list", "--json"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 141
        assert process.stderr.read() == b""


def test_no_parser_is_left_without_something_to_run() -> None:
    def check(parser: argparse.ArgumentParser) -> None:
        groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        for group in groups:
            for child in group.choices.values():
                if parser.prog != "backcast" or child.prog != "backcast dev":
                    check(child)
        assert groups or parser.get_default("run")

    check(build_parser())
