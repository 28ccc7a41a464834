"""Tenants, and quotas of what they store."""

import pytest

from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import SessionView, open_session
from libs.catalogdb.status import read_tenant_status
from libs.catalogdb.tenants import list_tenants, read_tenant, set_quota
from libs.errors import NotFoundError, OutOfSpaceError
from libs.ids import uuid7
from libs.sizes import human_bytes
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
    take_snapshot,
)

#: Of every pack that the support makes.
PACK = 1 << 20


def test_each_tenant_is_told_with_its_own_room(site: CatalogSite) -> None:
    protect(site, "disk")
    protect(site, "disk", tenant="other")
    take_snapshot(site, "disk", item(1))
    take_snapshot(site, "disk", item(2))
    found = {one.name: one for one in list_tenants(site.coordinator)}
    assert (found[TENANT].stored_bytes, found["other"].stored_bytes) == (2 * PACK, 0)
    assert (found[TENANT].volumes, found[TENANT].quota_bytes) == (1, None)
    with pytest.raises(NotFoundError):
        read_tenant(site.coordinator, "nobody")
    with pytest.raises(NotFoundError):
        set_quota(site.coordinator, "nobody", 1)


def test_from_its_quota_on_a_tenant_opens_no_session(site: CatalogSite) -> None:
    protect(site, "disk")
    protect(site, "second")
    protect(site, "disk", tenant="other")
    set_quota(site.coordinator, TENANT, PACK)
    size = human_bytes(PACK)
    worker = Worker(site, open_on(site, "disk"))
    other = Worker(site, open_on(site, "second"))
    worker.finish_storing(item(1))
    assert isinstance(worker.seal(), Sealed)
    with pytest.raises(OutOfSpaceError, match=f"stores {size} and may store {size}; no new"):
        open_on(site, "disk")
    # What was begun goes on, the same request is answered, and nobody else is concerned.
    again = open_session(site.coordinator, TENANT, "second", other.view.session, 60)
    assert isinstance(again, SessionView)
    other.finish_storing(item(2))
    assert isinstance(other.seal(), Sealed)
    assert open_on(site, "disk", tenant="other").state == "open"
    assert site.sql("SELECT count(*) FROM snapshot WHERE state = 'l'") == [(2,)]
    found = read_tenant_status(site.catalog, TENANT)
    assert (found.stored_bytes, found.quota_bytes) == (2 * PACK, PACK)
    set_quota(site.coordinator, TENANT, None)
    assert isinstance(open_session(site.coordinator, TENANT, "disk", uuid7(), 60), SessionView)
    assert read_tenant_status(site.catalog, TENANT).stored_bytes is None
