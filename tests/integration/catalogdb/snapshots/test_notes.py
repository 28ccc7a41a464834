"""Notes on snapshots."""

import pytest

from libs.catalogdb.log.log import read_log
from libs.catalogdb.snapshots.expiry import Expired, expire
from libs.catalogdb.snapshots.notes import note_snapshot
from libs.catalogdb.snapshots.points import find_volume_at
from libs.errors import NotFoundError
from libs.events.topics import SNAPSHOTS
from libs.points import RecoveryPoint
from tests.support.catalog import TENANT, CatalogSite, item, protect, take_snapshot


def note_of(site: CatalogSite, moment: str) -> str | None:
    return find_volume_at(site.restore, TENANT, RecoveryPoint("disk", moment)).note


def test_a_note_is_shown_until_it_is_taken_away(site: CatalogSite) -> None:
    protect(site, "disk")
    worker, _ = take_snapshot(site, "disk", item(1))
    session = worker.view.session
    assert note_of(site, "1") is None
    for note in ("before the upgrade", "before the upgrade", "after it", None):
        note_snapshot(site.catalog, TENANT, session, "ops", note)
        assert note_of(site, "1") == note
    types = [one.envelope.type for one in read_log(site.catalog, SNAPSHOTS, 0, 99)]
    assert types.count("backcast.snapshots.snapshot_noted") == 3


def test_only_a_live_snapshot_of_the_tenant_has_a_note(site: CatalogSite) -> None:
    protect(site, "disk")
    protect(site, "disk", tenant="other")
    worker, _ = take_snapshot(site, "disk", item(1))
    take_snapshot(site, "disk", item(2))
    session = worker.view.session
    with pytest.raises(NotFoundError):
        note_snapshot(site.catalog, "other", session, "ops", "mine")
    assert isinstance(expire(site.catalog, TENANT, session, "ops"), Expired)
    with pytest.raises(NotFoundError):
        note_snapshot(site.catalog, TENANT, session, "ops", "late")
