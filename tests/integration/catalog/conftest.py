import pytest

from deploy.local.cluster import LocalCluster
from libs.store.buckets import make_bucket
from libs.store.s3 import S3Store
from tests.integration.catalog.protected import Protected
from tests.integration.catalogdb.conftest import lasting_site, site
from tests.support.buckets import bucket_at
from tests.support.catalog import CatalogSite

__all__ = ["lasting_site", "site"]


@pytest.fixture
def in_bucket(site: CatalogSite, servers: LocalCluster, bucket: str) -> Protected:
    """A catalog and a bucket that no sweep has seen; no volumes yet."""
    where = bucket_at(servers.s3, bucket)
    make_bucket(where)
    site.sql("UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'")
    return Protected(site, S3Store(where))
