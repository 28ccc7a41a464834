from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from deploy.local.cluster import LocalCluster
from libs.catalogdb.migrate import migrate
from tests.support.catalog import CatalogSite, create_logins


@pytest.fixture(scope="session")
def lasting_site(servers: LocalCluster) -> Iterator[CatalogSite]:
    """One migrated catalog: emptying it takes a twentieth of the time of making another."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        dsn = servers.postgres.dsn.rpartition("/")[0] + f"/{name}"
        migrate(dsn)
        create_logins(dsn)
        site = CatalogSite(dsn)
        yield site
        site.close()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def site(lasting_site: CatalogSite) -> CatalogSite:
    """A migrated catalog with nothing in it."""
    lasting_site.empty()
    return lasting_site
