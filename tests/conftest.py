"""Fixtures of all tests: the real servers of `deploy.local`, started when a test first asks."""

import pytest

from deploy.local.fixtures import bucket, database, seaweedfs, servers
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
    "loop",
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "seaweedfs",
    "servers",
    "tally",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scale",
        choices=["sample", "full", "soak"],
        default="sample",
        help="how many faults tests/faults tries",
    )
    parser.addoption(
        "--crash-point",
        metavar="SCENARIO@SEED:NUMBER:KIND",
        help="run one case of tests/faults/crash_points again, as a failure prints it",
    )
