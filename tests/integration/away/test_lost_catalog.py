"""A catalog that was emptied: everybody says so, with the way out, and nothing older is given."""

import shutil

import pytest

from libs.errors import NotReconciledError
from libs.rest.client import RestClient
from tests.integration.away.command import backcast
from tests.support.running import TENANT, RunningSite, eventually

WAY_OUT = "backcast catalog rebuild"


def test_a_lost_catalog_is_told_with_the_way_out(site: RunningSite) -> None:
    path = site.volume("kept", 1 << 20)
    assert site.take("kept")["state"] == "sealed"
    assert backcast(site, "catalog", "checkpoint").status == 0
    assert backcast(site, "catalog", "status").status == 0
    empty_postgres(site)

    told = backcast(site, "dev", "up", seconds_max=120)
    assert (told.status, WAY_OUT in told.err) == (0, True), told
    told = backcast(site, "catalog", "status")
    assert (told.status, WAY_OUT in told.out) == (NotReconciledError.exit_code, True), told
    told = backcast(site, "status")
    assert (told.status, WAY_OUT in told.out) == (1, True), told

    assert backcast(site, "catalog", "rebuild", seconds_max=300).status == 0
    assert backcast(site, "catalog", "status").status == 0
    eventually("it is given back", lambda: site.matches("kept", path))


def test_only_a_number_is_answered_while_the_catalog_is_not_whole(site: RunningSite) -> None:
    path = site.volume("two", 1 << 20)
    assert site.take("two")["state"] == "sealed"
    site.kill("catalog")  # it would reconcile, and be done before we look
    site.sql("UPDATE incarnation SET reconciled = false RETURNING number")
    client = RestClient(site.cluster.home.url, site.cluster.home.secret("token"))
    for moment in ("latest", "-0s"):
        with pytest.raises(NotReconciledError, match="two@1"):
            client.get(f"/v1/tenants/{TENANT}/volumes/two/points/{moment}")
    assert site.matches("two", path, "1")
    site.sql("UPDATE incarnation SET reconciled = true RETURNING number")
    assert site.matches("two", path)


def empty_postgres(site: RunningSite) -> None:
    """Its folder is gone, as after the loss of a disk; everything is started again."""
    cluster = site.cluster
    cluster.down(lambda _: None)
    shutil.rmtree(cluster.home.data("postgres"))
    cluster.up(lambda _: None)
