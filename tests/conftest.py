"""Fixtures of all tests: the real servers of `deploy.local`, started when a test first asks."""

import pytest

from deploy.local.fixtures import bucket, database, seaweedfs, servers
from tests.support.loop_devices import loop

__all__ = ["bucket", "database", "loop", "seaweedfs", "servers"]


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
