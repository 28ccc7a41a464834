"""Fixtures of all tests: the real servers of `deploy.local`, started when a test first asks."""

import random

import hypothesis
import pytest

from deploy.local.fixtures import bucket, database, local_servers, seaweedfs, servers
from tests.support.folder_share import pytest_runtest_setup
from tests.support.loop_devices import loop
from tests.support.tally import (
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    tally,
)

__all__ = [
    "bucket",
    "database",
    "local_servers",
    "loop",
    "pytest_configure",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "seaweedfs",
    "servers",
    "tally",
]

# A test that waits for a processor, as under `nice`, is slow and not wrong.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scale",
        choices=["sample", "full", "soak"],
        default="sample",
        help="how many faults tests/faults tries",
    )
    parser.addoption("--seed", type=int, help="of random histories, as a failure prints it")
    parser.addoption(
        "--crash-point",
        metavar="SCENARIO@SEED:NUMBER:KIND",
        help="run one case of tests/faults/crash_points again, as a failure prints it",
    )


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of a random history: another one in each test, printed when it fails."""
    given: int | None = request.config.getoption("--seed")
    chosen = random.randrange(2**32) if given is None else given
    print(f"to repeat this history: --seed {chosen}")
    return chosen
