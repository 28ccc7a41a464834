"""Which snapshot a recovery point means, above all while rows come back from the store."""

import pytest

from libs.catalogdb.snapshots.points import find_volume_at
from libs.errors import NotReconciledError
from libs.points import RecoveryPoint
from tests.support.catalog import TENANT, CatalogSite, item, protect, take_snapshot

NOT_COMPARED = "UPDATE incarnation SET life = 'another'"
NOT_RECONCILED = "UPDATE incarnation SET reconciled = false"
WHOLE = "UPDATE incarnation SET life = catalog_life(), reconciled = true"
MOMENTS = ("latest", "-0s", "2999-01-01T00:00:00Z")


@pytest.mark.parametrize("doubt", [NOT_COMPARED, NOT_RECONCILED])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_point_that_is_not_named_by_its_number_waits_for_a_whole_catalog(
    site: CatalogSite, moment: str, doubt: str
) -> None:
    """A rebuild puts rows back in turn: the newest that is there is not the newest."""
    protect(site, "disk")
    take_snapshot(site, "disk", item(1))
    take_snapshot(site, "disk", item(2))
    assert find_volume_at(site.restore, TENANT, RecoveryPoint("disk", moment)).sequence == 2
    site.sql(doubt)
    try:
        with pytest.raises(NotReconciledError, match="the newest that is known is disk@2"):
            find_volume_at(site.restore, TENANT, RecoveryPoint("disk", moment))
        for number in (1, 2):
            found = find_volume_at(site.restore, TENANT, RecoveryPoint("disk", str(number)))
            assert found.sequence == number
        with pytest.raises(NotReconciledError):
            find_volume_at(site.restore, TENANT, RecoveryPoint("disk", "3"))
    finally:
        site.sql(WHOLE)
