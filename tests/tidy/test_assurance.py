"""What the documents of security claim: tests by name, and every requirement of ASVS once."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Identifiers and levels of OWASP ASVS 5.0.0, levels 1 and 2. The texts are under another licence.
REQUIREMENTS = Path(__file__).with_name("asvs-5.0.0.txt")
DOCUMENTS = [ROOT / "SECURITY.md", *sorted((ROOT / "docs/security").glob("*.md"))]
STATES = {"met", "partly", "not met", "not applicable"}


def missing_tests(text: str, tests: set[str]) -> list[str]:
    """Tests that ``text`` names, as a function or as a file, and that are not among ``tests``."""
    named = re.findall(r"`(?:tests/[\w/]*/)?(test_\w+(?:\.py)?)`", text)
    return sorted(set(named) - tests)


def rows(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each row of a table that begins with a requirement: its id and its other cells."""
    for line in text.splitlines():
        if re.match(r"\| V\d", line):
            first, *others = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            yield first, others


def faults(text: str, expected: dict[str, str]) -> list[str]:
    """What is wrong with the tables of requirements in ``text``."""
    found = dict(rows(text))
    counts = Counter(name for name, _ in rows(text))
    wrong = [f"{name} stands {count} times" for name, count in counts.items() if count > 1]
    wrong += [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} is not of level 1 or 2" for name in found.keys() - expected.keys()]
    for name, cells in found.items():
        level, _, state, how, tests = cells if len(cells) == 5 else ("", "", "", "", "")
        if level != expected.get(name, level) or state not in STATES:
            wrong.append(f"{name}: level {level!r} or state {state!r}")
        if not how or (state == "met" and not tests):
            wrong.append(f"{name}: says neither how nor where it is tested")
    return sorted(wrong)


def all_tests() -> set[str]:
    files = list((ROOT / "tests").rglob("test_*.py"))
    names = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    return names | {file.name for file in files}


def requirements() -> dict[str, str]:
    lines = (line.split() for line in REQUIREMENTS.read_text().splitlines() if line)
    return dict(lines)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_test_that_a_document_of_security_names_is_there(document: Path) -> None:
    assert missing_tests(document.read_text(), all_tests()) == []


def test_every_requirement_of_asvs_has_one_row() -> None:
    text = (ROOT / "docs/security/asvs.md").read_text()
    assert faults(text, requirements()) == []


def test_the_summary_counts_what_the_tables_say() -> None:
    text = (ROOT / "docs/security/asvs.md").read_text()
    counts = Counter(cells[2] for _, cells in rows(text))
    said = re.findall(r"^\| ([a-z ]+) \| (\d+) \|$", text, re.MULTILINE)
    assert {state: int(count) for state, count in said} == counts


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("", "V1.1.1 is missing"),
        ("| V1.1.1 | 1 | a | met | b | c |\n" * 2, "V1.1.1 stands 2 times"),
        ("| V1.1.1 | 1 | a | met | b | c |\n| V9.9.9 | 3 | a | met | b | c |", "V9.9.9 is not of"),
        ("| V1.1.1 | 2 | a | met | b | c |", "V1.1.1: level"),
        ("| V1.1.1 | 1 | a | nearly | b | c |", "V1.1.1: level"),
        ("| V1.1.1 | 1 | a | met | b | |", "V1.1.1: says neither"),
        ("| V1.1.1 | 1 | a | not applicable | | |", "V1.1.1: says neither"),
    ],
)
def test_a_planted_fault_of_the_tables_is_found(table: str, fault: str) -> None:
    assert any(one.startswith(fault) for one in faults(table, {"V1.1.1": "1"}))


def test_a_test_that_is_not_there_is_found() -> None:
    text = "`test_a` and `tests/unit/test_b.py` and `test_c`"
    assert missing_tests(text, {"test_a", "test_b.py"}) == ["test_c"]
