"""One cluster with all services, of which the tests of this folder take something away."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.folder_share import shared_in
from tests.support.running import RunningSite, running_site


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> RunningSite:
    return shared_in(Path(__file__).parent, request, lambda: _running(tmp_path_factory))


@pytest.fixture
def site(running: RunningSite) -> Iterator[RunningSite]:
    """All of it runs before and after each test."""
    yield running
    running.heal()


@contextmanager
def _running(folders: pytest.TempPathFactory) -> Iterator[RunningSite]:
    with running_site(folders) as site:
        site.volume("base", 1 << 16)  # it makes the tenant, whose status is asked
        assert site.take("base")["state"] == "sealed"
        yield site
