"""Standard streams that are full, closed, ended or poor in characters; text that is hostile."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from libs.printable import printable, printable_document
from tests.unit.cli.conftest import Backcast
from tests.unit.cli.scripted_service import Script, ScriptedService

VOLUMES = "/v1/tenants/default/volumes"


def volume(path: str) -> dict[str, Any]:
    return {
        "name": "vm",
        "group": "vm",
        "node": "n",
        "path": path,
        "latest": None,
        "paused_at": None,
    }


def run(
    service: ScriptedService, line: str, *, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell in which "$@" is the command."""
    environ = os.environ | {"BACKCAST_URL": service.url, "BACKCAST_TOKEN": "t"} | variables
    environ["PYTHONPATH"] = os.pathsep.join(("/", str(Path.cwd())))
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "services.cli"]
    return subprocess.run(
        command, env=environ, cwd=cwd, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize("command", ["volume list", "volume list --json", "--help", "dev --help"])
@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
def test_a_result_that_cannot_be_written_fails_the_command(
    service: ScriptedService, script: Script, command: str, where: str
) -> None:
    script["GET", VOLUMES] = [[volume("/x")]]
    ran = run(service, f'"$@" {command} {where}')
    assert ran.returncode == 14
    assert ran.stderr.count(b"\n") == 1, ran.stderr.decode()
    assert b"standard output: cannot be written" in ran.stderr


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-", "< /dev/null 2>&-", "<&- 2>&-"])
def test_what_cannot_be_told_to_people_keeps_from_nothing(
    service: ScriptedService, script: Script, where: str
) -> None:
    script["GET", VOLUMES] = [[volume("/x")]]
    ran = run(service, f'"$@" volume list {where}')
    assert (ran.returncode, b"/x" in ran.stdout) == (0, True)
    assert run(service, f'"$@" volume paint {where}').returncode == 2
    script["GET", VOLUMES] = [(404, "not-found")]
    assert run(service, f'"$@" volume list {where}').returncode == 3


def test_a_file_that_is_opened_never_gets_the_number_of_a_closed_stream(
    service: ScriptedService, tmp_path: Path
) -> None:
    code = (
        "import os, sys; from services.cli.streams import prepare_streams; prepare_streams(); "
        f"f = os.open({str(tmp_path / 'out')!r}, os.O_CREAT | os.O_WRONLY); "
        "sys.exit(0 if f > 2 else 1)"
    )
    closing = ["sh", "-c", f"exec '{sys.executable}' -c \"$0\" <&- >&- 2>&-", code]
    assert subprocess.run(closing, timeout=60, check=False).returncode == 0


def test_a_terminal_of_few_characters_shows_escapes(
    service: ScriptedService, script: Script
) -> None:
    script["GET", VOLUMES] = [[volume("/für/x"), volume("/y")]]
    ran = run(service, '"$@" volume list', PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert rb"/f\xfcr/x" in ran.stdout
    assert b"/y" in ran.stdout


def test_what_others_have_named_cannot_move_the_cursor_or_forge_a_line(
    backcast: Backcast, script: Script
) -> None:
    script["GET", VOLUMES] = [[volume("/a\x1b[2J\nvm2 forged"), volume("/b\u202e\x9b1m")]]
    ran = backcast("volume", "list")
    assert ran.out.count("\n") == 3
    assert r"/a\x1b[2J\nvm2 forged" in ran.out
    assert r"/b\u202e\x9b1m" in ran.out
    assert backcast("volume", "list", "--json").objects[0]["path"] == "/a\x1b[2J\nvm2 forged"


def test_texts_notes_errors_and_traces_are_printable_too(
    backcast: Backcast, script: Script
) -> None:
    hostile = "\x1b]0;title\x07"
    script["GET", f"{VOLUMES}/vm/points/1"] = [{"session": "s", "path": f"/x{hostile}\nforged"}]
    script["GET", "/v1/tenants/default/snapshots/s"] = [{"barrier": []}]
    shown = backcast("snapshot", "show", "vm@1").out
    assert r"/x\x1b]0;title\x07\nforged" in shown
    script["GET", VOLUMES] = [[{hostile: 1}]]
    for arguments in (("volume", "list"), ("volume", hostile), ("snapshot", "show", hostile)):
        ran = backcast(*arguments)
        assert ran.status != 0
        assert "\x1b" not in ran.err
        assert "\x07" not in ran.err


def test_printable_text_stays_as_it_is() -> None:
    assert printable("für /dev/vda ✓") == "für /dev/vda ✓"
    assert printable("a\tb\udc80") == r"a\tb\udc80"
    assert printable_document({"a\n": ["b\r", 1, None, {"c": "d\0"}]}) == {
        r"a\n": [r"b\r", 1, None, {"c": r"d\x00"}]
    }


def test_a_relative_path_in_a_folder_that_was_deleted(
    service: ScriptedService, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    ran = run(service, f'rmdir {gone}; "$@" volume add vm disk.raw', cwd=gone)
    assert ran.returncode == 2
    assert b"disk.raw: is relative to a folder that was deleted" in ran.stderr
    ran = run(service, f'rmdir {gone}; "$@" volume list', cwd=tmp_path, BACKCAST_HOME="home")
    assert b"Traceback" not in ran.stderr


def test_a_path_that_is_not_utf8_is_refused_and_nothing_is_asked_for(
    service: ScriptedService,
) -> None:
    ran = run(service, r""""$@" volume add vm "$(printf '/x/\377\033')" """)
    assert ran.returncode == 2
    assert rb"/x/\udcff\x1b: is not UTF-8" in ran.stderr
    assert service.requests == []


@pytest.mark.parametrize(
    "command",
    ["snapshot list", "volume retain", "snapshot take a", "--tenant", "events tail --topic"],
)
def test_a_name_that_is_not_utf8_is_refused_and_nothing_is_asked_for(
    service: ScriptedService, command: str
) -> None:
    rest = " volume list" if command == "--tenant" else ""
    ran = run(service, rf""""$@" {command} "$(printf 'a\377')"{rest}""")
    assert ran.returncode == 2
    assert rb"a\udcff: is not UTF-8" in ran.stderr
    assert service.requests == []
