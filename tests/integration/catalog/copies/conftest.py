"""Two real stores, MinIO and SeaweedFS; and two folders, where the catalog alone is in question."""

from pathlib import Path

import pytest

from deploy.local.cluster import LocalCluster
from deploy.local.servers.seaweedfs import SeaweedServer
from libs.store.buckets import make_bucket
from libs.store.folder import FolderStore
from libs.store.s3 import S3Store
from tests.integration.catalog.copies.pair import Pair, pair_of
from tests.support.buckets import bucket_at
from tests.support.catalog import CatalogSite


@pytest.fixture
def pair(site: CatalogSite, servers: LocalCluster, seaweedfs: SeaweedServer, bucket: str) -> Pair:
    """MinIO as the primary store, SeaweedFS as the second."""
    stores = []
    for server in (servers.s3, seaweedfs):
        where = bucket_at(server, bucket)
        make_bucket(where)
        stores.append(S3Store(where))
    return pair_of(site, *stores)


@pytest.fixture
def folders(site: CatalogSite, tmp_path: Path) -> Pair:
    """Two folders."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return pair_of(site, FolderStore(tmp_path / "one"), FolderStore(tmp_path / "two"))
