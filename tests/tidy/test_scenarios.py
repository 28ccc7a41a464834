"""Every scenario of the protocol has its test, in one place."""

import re
from pathlib import Path

FOLDER = Path("tests/faults/scenarios")
COUNT = 29


def test_every_scenario_has_a_test() -> None:
    named = re.compile(r"^def test_scenario_(\d\d)_", re.MULTILINE)
    found = {int(no) for path in FOLDER.glob("test_*.py") for no in named.findall(path.read_text())}
    assert found == set(range(1, COUNT + 1))
