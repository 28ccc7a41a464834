"""The Debian package of a node: built, listed, unpacked and run by the distribution's Python."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.node.package import build
from libs.version import VERSION
from tests.contract.test_nbd_programs import needs, run

_PYTHON = Path("/usr/bin/python3")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("dpkg-deb", "dpkg")
    return build(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    run("dpkg-deb", "--raw-extract", package, folder)
    return folder


def test_has_our_code_what_it_needs_and_the_units(package: Path) -> None:
    listed = run("dpkg-deb", "--contents", package)
    paths = {line.split()[5] for line in listed.splitlines()}
    for path in (
        "./usr/lib/backcast/services/change_capture/filter/__main__.py",
        "./usr/lib/backcast/services/change_capture/agent/__main__.py",
        "./usr/lib/backcast/libs/errors.py",
        "./usr/lib/backcast/site-packages/xxhash/__init__.py",
        "./usr/lib/systemd/system/backcast-filter@.service",
        "./usr/lib/systemd/system/backcast-agent.service",
        "./usr/lib/tmpfiles.d/backcast.conf",
        "./usr/share/doc/backcast-node/examples/filter.env",
    ):
        assert path in paths, path
    assert not any("__pycache__" in path or "/tests/support/" in path for path in paths)
    assert {line.split()[1] for line in listed.splitlines()} == {"root/root"}
    fields = run("dpkg-deb", "--field", package, "Package", "Version", "Depends")
    assert f"Version: {VERSION}\n" in fields
    assert "python3 (>= 3.11)" in fields


def test_its_scripts_are_ones_of_a_shell(unpacked: Path) -> None:
    for name in ("postinst", "prerm"):
        script = unpacked / "DEBIAN" / name
        assert os.access(script, os.X_OK)
        run("sh", "-n", script)


def test_its_units_are_ones_of_systemd(unpacked: Path) -> None:
    needs("systemd-analyze")
    units = unpacked / "usr/lib/systemd/system"
    instance = unpacked / "backcast-filter@vm.service"
    shutil.copy(units / "backcast-filter@.service", instance)
    for unit in (instance, units / "backcast-agent.service"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        ours = [line for line in done.stderr.splitlines() if "backcast" in line]
        assert ours == []


def test_the_filter_starts_from_it(unpacked: Path, tmp_path: Path) -> None:
    """With the settings of its unit, by the distribution's Python."""
    if not _PYTHON.exists() or "Python 3.11" not in run(_PYTHON, "--version"):
        pytest.skip("needs Debian's Python 3.11")
    unit = (unpacked / "usr/lib/systemd/system/backcast-filter@.service").read_text()
    set_by_unit = dict(re.findall(r"^Environment=(BACKCAST_\w+)=(.*)$", unit, re.MULTILINE))
    (command,) = re.findall(r"^ExecStart=/usr/bin/python3 (.*)$", unit, re.MULTILINE)
    example = (unpacked / "usr/share/doc/backcast-node/examples/filter.env").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    code = unpacked / "usr/lib/backcast"
    done = subprocess.run(
        [_PYTHON, *command.split(), "--print-config"],
        env={
            **{name: text.replace("%i", "vm") for name, text in set_by_unit.items()},
            **settings,
            "PYTHONPATH": f"{code}:{code / 'site-packages'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "/run/backcast/nbd/vm.sock" in done.stdout
    assert json.dumps(settings["BACKCAST_FILTER_VOLUME"])[1:-1] in done.stdout
