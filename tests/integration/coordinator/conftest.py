"""Coordinators of a real catalog, and nodes with the real code of an agent, without HTTP."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.catalogdb.conftest import lasting_site, site
from tests.integration.coordinator.nodes import Cluster
from tests.integration.coordinator.registering import Site
from tests.support.catalog import CatalogSite

__all__ = ["lasting_site", "site"]


@pytest.fixture
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture
def cluster(site: CatalogSite, threads: Executor, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(site, threads, tmp_path)
    yield made
    made.close()


@pytest.fixture
def coordinator(site: CatalogSite, threads: Executor) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(site, threads, stack)
