"""Rewriting with real packs and maps: live items move, dead ones go, every live byte stays."""

from pathlib import Path

import pytest

from tests.integration.catalog.protected import Protected, in_folder
from tests.support.catalog import CatalogSite


@pytest.fixture
def protected(site: CatalogSite, tmp_path: Path) -> Protected:
    made = in_folder(site, tmp_path)
    made.protect("disk")
    return made


def test_a_mostly_dead_pack_gives_its_space_back(protected: Protected) -> None:
    protected.take("disk", *range(1, 41))
    (old,) = protected.packs()
    protected.take("disk", *range(1, 5), *range(101, 137))
    protected.expire("disk", 1)
    before = {stat.key: stat.size_bytes for stat in protected.store.list("packs/")}

    tally = protected.rewriter().run()

    assert (tally.rewritten, tally.written, tally.given_up) == (1, 1, 0)
    assert protected.packs("c") == [old]
    protected.check()
    assert protected.collect() == 1
    protected.check()
    after = {stat.key: stat.size_bytes for stat in protected.store.list("packs/")}
    assert sum(after.values()) < sum(before.values()) - 34 * 65536
    assert protected.site.sql("SELECT FROM marking") == []
