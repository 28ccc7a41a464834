"""Packs that nobody gave up and no row uses: a manifest was not taken back, or rows were lost."""

from pathlib import Path

import pytest

from libs.catalogdb.deletion.brake import Kind, accept, read_halts
from libs.catalogdb.deletion.condemning import list_unused
from tests.integration.catalog.protected import Protected, in_folder
from tests.support.catalog import CatalogSite


@pytest.fixture
def protected(site: CatalogSite, tmp_path: Path) -> Protected:
    """Six snapshots of one pack each, whose references are gone; table ``kept`` has them."""
    made = in_folder(site, tmp_path)
    made.protect("vm")
    for number in range(1, 7):
        made.take("vm", number)
    made.collect()  # which takes what was registered off the candidates
    site.sql("DROP TABLE IF EXISTS kept")
    site.sql("CREATE TEMP TABLE kept AS SELECT * FROM pack_use")
    site.sql("DELETE FROM pack_use")
    list_unused(site.catalog, 0, 1000)
    return made


def test_they_are_kept_while_they_are_many(site: CatalogSite, protected: Protected) -> None:
    assert [protected.collect() for _ in range(2)] == [0, 0]
    (halt,) = read_halts(site.catalog)
    assert (halt.kind, halt.suspects.count) == (Kind.UNCLAIMED, 6)
    site.sql("INSERT INTO pack_use SELECT * FROM kept")
    assert protected.collect() == 0
    assert read_halts(site.catalog) == []
    assert site.sql("SELECT FROM candidate WHERE unclaimed") == []
    protected.check()


def test_they_go_when_a_person_has_accepted_them(site: CatalogSite, protected: Protected) -> None:
    protected.collect()
    (halt,) = read_halts(site.catalog)
    accept(site.catalog, halt.name, "ops")
    assert protected.collect() == 6


def test_they_do_not_keep_what_an_expiry_gave_up(site: CatalogSite, protected: Protected) -> None:
    given_up = protected.packs()[0]
    site.sql("UPDATE candidate SET unclaimed = false WHERE pack_no = %s", given_up)
    assert protected.collect() == 1
    assert protected.packs("d") == [given_up]
