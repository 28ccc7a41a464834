from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from libs.store.folder import FolderStore
from tests.integration.catalog.protected import Protected, in_folder
from tests.integration.catalog.recovery.timeline import Timeline, timeline
from tests.integration.catalogdb.conftest import lasting_site, site
from tests.support.catalog import CatalogSite, Worker, item, open_on, protect

__all__ = ["lasting_site", "site"]


@pytest.fixture
def unused(site: CatalogSite) -> int:
    """A live pack with items 1 and 2 that nothing needs; a collector may condemn it."""
    protect(site, "old")
    worker = Worker(site, open_on(site, "old"))
    pack_no = worker.store(item(1), item(2))
    Worker(site, worker.view)  # takes over, so the pins fall
    site.sql("INSERT INTO candidate VALUES (%s) ON CONFLICT DO NOTHING", pack_no)
    return pack_no


@pytest.fixture
def worker(site: CatalogSite, unused: int) -> Worker:
    """A chunker that works on a snapshot of `vm`."""
    protect(site, "vm")
    return Worker(site, open_on(site, "vm"))


@pytest.fixture
def protected(site: CatalogSite, tmp_path: Path) -> Protected:
    """Volumes `a` and `b` of one tenant, with real packs."""
    made = in_folder(site, tmp_path)
    made.protect("a", "b")
    return made


@pytest.fixture
def line(servers: LocalCluster, tmp_path: Path) -> Iterator[Timeline]:
    """Volumes `disk` and `other` in a catalog that can be set back."""
    with timeline(servers.postgres.dsn, FolderStore(tmp_path)) as made:
        made.protected.protect("disk", "other")
        yield made
