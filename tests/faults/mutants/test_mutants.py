"""Each rule is taken out of a copy of the code, and the test that stands for it must fail.

`make test-faults SCALE=sample` tries a sample of them, `make test-mutants` all. The copies share
their files by hard links; the tests that need a catalog share one PostgreSQL, in which each run has
a database of its own. A first run without a bug shows that the tests pass.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.local.home import BackcastHome
from deploy.local.servers.postgres import PostgresServer
from tests.faults.conftest import Scale
from tests.faults.mutants.mutant import Mutant
from tests.faults.mutants.table import MUTANTS

PROCESS_COUNT = 2
#: Of the planted bugs that a sample tries, always the same ones.
_SAMPLE_COUNT = 5
_SECONDS_MAX = 300
#: All tests of the table in one run, beside whatever else the machine does.
_SOUND_SECONDS_MAX = 1800
_FOLDERS = ("libs", "services", "deploy", "tests", "docs")
#: In the copy, instead of starting a cluster for every mutant.
_SHARED_SERVERS = """

@pytest.fixture(scope="session")
def servers():
    import os
    from types import SimpleNamespace

    return SimpleNamespace(postgres=SimpleNamespace(dsn=os.environ["SHARED_POSTGRES_DSN"]))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree as it is, whose tests use the shared server."""
    copy = tmp_path_factory.mktemp("tree")
    for name in _FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(name, copy / name, ignore=ignore, symlinks=True)
    shutil.copy("pyproject.toml", copy)
    conftest = copy / "tests" / "conftest.py"
    conftest.write_text(conftest.read_text() + _SHARED_SERVERS)
    return copy


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(BackcastHome(tmp_path_factory.mktemp("postgres"), tied=True))
    server.prepare(lambda _: None)
    server.spawn()
    server.wait_ready()
    yield server
    server.stop()


def run(
    tree: Path, dsn: str, tests: Sequence[str], chosen: str, seconds_max: float = _SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    """Run tests of a tree; a test that hangs counts as failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    if chosen:
        command += ["-k", chosen]
    environment = os.environ | {"SHARED_POSTGRES_DSN": dsn}
    try:
        return subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True,
            timeout=seconds_max, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        return subprocess.CompletedProcess(command, 1, f"took longer than {err.timeout} s", "")


def caught_by(mutant: Mutant, tree: Path, folder: Path, dsn: str) -> str:
    """The test that failed; empty if none did."""
    copy = folder / mutant.name.replace(" ", "-").replace("'", "")
    shutil.copytree(tree, copy, copy_function=os.link, symlinks=True)
    mutant.plant(copy)
    result = run(copy, dsn, [mutant.tests], mutant.chosen)
    shutil.rmtree(copy)
    assert result.returncode in (0, 1), f"mutant {mutant.name}:\n{result.stdout[-3000:]}"
    failed = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].rpartition("::")[2] if failed else ""


def test_the_text_of_every_planted_bug_is_in_the_code(tree: Path, tmp_path: Path) -> None:
    for number, mutant in enumerate(MUTANTS):
        copy = tmp_path / str(number)
        (copy / mutant.file).parent.mkdir(parents=True)
        shutil.copy(tree / mutant.file, copy / mutant.file)
        mutant.plant(copy)
        compile((copy / mutant.file).read_text(), mutant.file, "exec")


def test_every_planted_bug_is_caught(
    tree: Path,
    postgres: PostgresServer,
    tmp_path: Path,
    scale: Scale,
    tally: Callable[..., None],
) -> None:
    dsn, planted = postgres.dsn, list(MUTANTS)
    if scale is Scale.SAMPLE:  # `make test` has all tests without a bug
        planted = random.Random(1).sample(planted, _SAMPLE_COUNT)
    else:
        tests = sorted({mutant.tests for mutant in planted})
        sound = run(tree, dsn, tests, "", _SOUND_SECONDS_MAX)
        assert sound.returncode == 0, f"without any bug:\n{sound.stdout[-5000:]}"
    with ThreadPoolExecutor(PROCESS_COUNT) as threads:
        caught = list(threads.map(lambda one: caught_by(one, tree, tmp_path, dsn), planted))
    for mutant, test in zip(planted, caught, strict=True):
        print(f"{mutant.name:56} | {mutant.rule:70} | {test or 'NOT CAUGHT'}")
    missed = [mutant.name for mutant, test in zip(planted, caught, strict=True) if not test]
    tally("planted bugs", planted=len(planted), caught=len(planted) - len(missed))
    assert not missed
    assert len(MUTANTS) >= 90
