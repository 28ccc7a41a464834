"""The harness of faults: how much of it runs, and what it counted.

`--scale full` is `make test-faults`, `--scale soak` is `make soak`; continuous integration runs
`make test-faults SCALE=sample`. Each test asserts its own floor of counts, so a silent skip is a
failure, and hands the counts to `tally`, which prints them at the end and writes them to
`build/faults/<scale>.json`.
"""

from collections.abc import Iterator
from enum import Enum

import pytest

from deploy.local.fixtures import discard, start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from tests.faults.site import FaultSite, ProxiedCluster


class Scale(Enum):
    """How much of the harness runs."""

    SAMPLE = "sample"
    FULL = "full"
    SOAK = "soak"

    def pick(self, sample: int, full: int, soak: int) -> int:
        """The count of this scale."""
        return {Scale.SAMPLE: sample, Scale.FULL: full, Scale.SOAK: soak}[self]


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    return Scale(request.config.getoption("--scale"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultSite]:
    """One cluster behind proxies, whose processes are started again when they end."""
    cluster = ProxiedCluster(BackcastHome(tmp_path_factory.mktemp("proxied"), tied=True))
    start_or_skip(lambda: cluster.up(print, s3=S3Choice.MINIO))
    site = FaultSite(cluster, tmp_path_factory.mktemp("volumes"))
    try:
        with site.supervised():
            yield site
    finally:
        discard(cluster)
        cluster.close_proxies()
