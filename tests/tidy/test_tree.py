import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tidy import checks

ROOT = Path(__file__).parents[2]
FOLDERS = ("libs", "services", "deploy", "bench", "docs", "k8s", "tests")

Check = Callable[[str, str], Iterator[str]]

#: (check, path) → why the rule does not hold there.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def _sources() -> list[tuple[str, str]]:
    return [
        (str(file.relative_to(ROOT)), file.read_text())
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
    ]


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
def test_the_tree_is_tidy(check: Check) -> None:
    violations = [
        violation
        for path, text in _sources()
        if (check.__name__, path) not in EXCEPTIONS
        for violation in check(path, text)
    ]
    assert not violations, "\n" + "\n".join(violations)


def test_no_folder_is_crowded() -> None:
    paths = [path for path, _ in _sources() if path.startswith(("libs/", "services/", "deploy/"))]
    violations = list(checks.crowded_folders(paths))
    assert not violations, "\n" + "\n".join(violations)


def test_every_exception_is_still_needed() -> None:
    texts = dict(_sources())
    for (name, path), reason in EXCEPTIONS.items():
        assert reason
        check: Check = getattr(checks, name)
        assert any(check(path, texts.get(path, ""))), f"{name} holds for {path} now"


def test_every_place_that_runs_something_beside_its_caller_still_does() -> None:
    texts = dict(_sources())
    for path, reason in checks.BESIDE_ALLOWED.items():
        assert reason
        assert any(checks.lone_threads(path.replace("/", "/x/", 1), texts[path])), path


@pytest.mark.parametrize("suffix", ["md", "sql", "yaml", "toml", "sh"])
def test_nothing_is_left_for_later_in_other_texts(suffix: str) -> None:
    violations = [
        violation
        for folder in FOLDERS
        for file in (ROOT / folder).rglob(f"*.{suffix}")
        for violation in checks.unfinished(str(file), file.read_text())
    ]
    assert not violations, "\n" + "\n".join(violations)


def test_the_makefile_has_every_target_that_texts_name() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [ROOT / "README.md", ROOT / ".ci/run", *(ROOT / "docs").rglob("*.md")]
    named = {
        target
        for text in texts
        for target in re.findall(r"(?:^|`|\$ |step )make ([a-z-]+)", text.read_text(), re.MULTILINE)
    }
    assert named <= targets


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*## \w", makefile, re.MULTILINE))


PLANTED: list[tuple[Check, str, str]] = [
    (checks.lone_threads, "services/a.py", "threading.Thread(target=f).start()\n"),
    (checks.lone_threads, "services/a.py", "from threading import Thread\nThread(target=f)\n"),
    (checks.lone_threads, "libs/a.py", "asyncio.create_task(f())\n"),
    (checks.lone_threads, "libs/a.py", "loop.run_in_executor(None, f)\n"),
    (checks.lone_threads, "libs/a.py", "with ThreadPoolExecutor(2) as threads: pass\n"),
    (checks.lone_connections, "libs/a.py", "db = psycopg.connect(dsn)\n"),
    (checks.long_file, "libs/a.py", "x = 1\n" * 401),
    (checks.long_functions, "libs/a.py", "def f() -> None:\n" + "    f()\n" * 60),
    (checks.long_functions, "libs/a.py", "async def f() -> None:\n" + "    f()\n" * 60),
    (checks.logic_in_init, "libs/a/__init__.py", "x = open('f')\n"),
    (checks.bare_suppressions, "libs/a.py", "x = 1  # noqa\n"),
    (checks.bare_suppressions, "libs/a.py", "x = 1  # noqa: E501\n"),
    (checks.bare_suppressions, "libs/a.py", "x = 1  # type: ignore\n"),
    (checks.bare_suppressions, "libs/a.py", "x = 1  # type: ignore[arg-type]\n"),
    (checks.unfinished, "libs/a.py", "# " + "TO" + "DO: later\n"),
    (checks.nounless_names, "libs/disk_utils.py", ""),
    (checks.nounless_names, "libs/helpers/a.py", ""),
    (checks.nounless_names, "libs/a.py", "class PackManager: ...\n"),
]


@pytest.mark.parametrize(("check", "path", "text"), PLANTED)
def test_each_check_finds_what_is_planted(check: Check, path: str, text: str) -> None:
    assert list(check(path, text))


@pytest.mark.parametrize(
    ("check", "path", "text"),
    [
        (checks.long_file, "libs/a.py", "x = 1\n" * 400),
        (checks.long_functions, "libs/a.py", "def f() -> None:\n" + "    f()\n" * 59),
        (checks.logic_in_init, "libs/a/__init__.py", '"""Card."""\n'),
        (checks.logic_in_init, "libs/a/b.py", "x = open('f')\n"),
        (checks.bare_suppressions, "libs/a.py", "x = 1  # noqa: E501, S101 -- a long URL\n"),
        (checks.bare_suppressions, "libs/a.py", "x = 1  # type: ignore[arg-type]  # no stubs\n"),
        (checks.nounless_names, "libs/commons.py", "class Utilization: ...\n"),
    ],
)
def test_no_check_cries_wolf(check: Check, path: str, text: str) -> None:
    assert not list(check(path, text))


def test_a_folder_is_crowded_from_the_fifteenth_module_on() -> None:
    full = [f"libs/a/m{number}.py" for number in range(14)]
    entries = ["libs/a/__init__.py", "libs/a/__main__.py", "libs/a/b/m.py"]
    assert not list(checks.crowded_folders([*full, *entries]))
    assert list(checks.crowded_folders([*full, "libs/a/m14.py"]))
