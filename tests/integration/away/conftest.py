"""One cluster with all services, of which the tests of this folder take something away."""

from collections.abc import Iterator

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.fixtures import discard, start_or_skip
from deploy.local.home import BackcastHome
from deploy.local.servers.s3 import S3Choice
from tests.support.running import RunningSite


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    cluster = LocalCluster(BackcastHome(tmp_path_factory.mktemp("site"), tied=True))
    start_or_skip(lambda: cluster.up(print, s3=S3Choice.MINIO))
    try:
        site = RunningSite(cluster, tmp_path_factory.mktemp("volumes"))
        site.volume("base", 1 << 16)  # it makes the tenant, whose status is asked
        assert site.take("base")["state"] == "sealed"
        yield site
    finally:
        discard(cluster)


@pytest.fixture
def site(running: RunningSite) -> Iterator[RunningSite]:
    """All of it runs before and after each test."""
    yield running
    running.heal()
