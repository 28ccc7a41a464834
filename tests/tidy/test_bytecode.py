"""Whether processes find what they import compiled: half of the time of their starts."""

import os
import subprocess
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_what_make_runs_writes_bytecode_whatever_the_environment_says() -> None:
    rule = "probe: ; @printenv PYTHONDONTWRITEBYTECODE || echo unset"
    said = subprocess.run(
        ["make", "--eval", rule, "probe"],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "unset\n"


@pytest.mark.parametrize("name", ["fastapi.routing", "psycopg.connection", "aiokafka.client"])
def test_setup_has_compiled_what_services_import(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(cache_from_source(spec.origin)).exists(), "run `make setup`"
