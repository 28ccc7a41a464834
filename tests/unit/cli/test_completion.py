"""Completion in a real shell, the version, and the manual page as man reads it."""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from docs.generate import command_manual
from services.cli.parser import build_parser
from tests.unit.cli.conftest import Backcast

#: Completes the words that it is given, as a TAB at the end of the last one would.
_TAB = """
eval "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p backcast | sed 's/.*-F \\([^ ]*\\).*/\\1/') backcast "${COMP_WORDS[COMP_CWORD]}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("volume", "re"), {"remove", "rename", "regroup", "resume", "retain"}),
        (("sess",), {"session"}),
        (("volume", "move", "--no"), {"--node", "--no-freeze"}),
        (("session", "list", "--state", ""), {"open", "sealed", "rejected"}),
    ],
)
def test_bash_completes_what_the_parser_knows(
    backcast: Backcast, typed: tuple[str, ...], expected: set[str]
) -> None:
    script = backcast("completion", "bash").out
    ran = subprocess.run(
        ["bash", "-c", _TAB, "bash", script, "backcast", *typed],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert set(ran.stdout.split()) == expected, ran.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_too(backcast: Backcast, shell: str) -> None:
    ran = backcast("completion", shell)
    assert ran.status == 0
    assert "regroup" in ran.out


def test_a_shell_that_nobody_knows_is_refused(backcast: Backcast) -> None:
    assert backcast("completion", "cmd.exe").status == 2


def test_the_version_is_that_of_the_distribution(backcast: Backcast) -> None:
    ran = backcast("--version")
    assert (ran.status, ran.out) == (0, f"backcast {version('backcast')}\n")


def test_the_manual_has_every_command_and_no_stray_request(tmp_path: Path) -> None:
    page = command_manual(build_parser())
    assert r".SS backcast volume regroup" in page
    assert ".SH EXIT STATUS" in page
    known = {".TH", ".SH", ".SS", ".TP", ".PP", ".B"}
    assert {line.split()[0] for line in page.splitlines() if line.startswith(".")} == known
    assert not [line for line in page.splitlines() if line.startswith("'")]
    groff = shutil.which("groff")
    if groff:
        file = tmp_path / "backcast.1"
        file.write_text(page)
        ran = subprocess.run(
            [groff, "-man", "-Tutf8", "-ww", str(file)], capture_output=True, text=True, check=True
        )
        assert ran.stderr == ""
