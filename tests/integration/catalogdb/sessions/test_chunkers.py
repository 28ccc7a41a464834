"""Chunkers say that they run, and the catalog knows who was heard of."""

from uuid import UUID

from libs.catalogdb.sessions.chunkers import (
    announce_chunker,
    forget_chunker,
    read_chunkers,
    why_none_reads,
)
from libs.ids import uuid7
from tests.support.catalog import CatalogSite

LONG_AGO = "UPDATE chunker SET seen_at = now() - interval '31 seconds' WHERE chunker = %s"


def announce(site: CatalogSite, name: str, partitions: int = 4, trouble: str = "") -> UUID:
    chunker = uuid7()
    announce_chunker(site.chunker, chunker, name, partitions, trouble)
    return chunker


def names(site: CatalogSite) -> list[tuple[str, bool]]:
    return [(one.name, one.is_heard) for one in read_chunkers(site.catalog)]


def test_a_chunker_is_heard_of_until_it_ends(site: CatalogSite) -> None:
    one, two = announce(site, "one"), announce(site, "two", 0, "kafka: no answer for 3 s")
    announce_chunker(site.chunker, one, "one", 8, "")
    found = read_chunkers(site.catalog)
    assert [(each.name, each.partitions, each.trouble) for each in found] == [
        ("one", 8, ""),
        ("two", 0, "kafka: no answer for 3 s"),
    ]
    assert why_none_reads(found) == ""
    forget_chunker(site.chunker, one)
    assert names(site) == [("two", True)]
    assert why_none_reads(read_chunkers(site.catalog)) == "", "it has just started"
    site.sql("UPDATE chunker SET idle_since = now() - interval '31 seconds'")
    announce_chunker(site.chunker, two, "two", 0, "")
    assert "(two runs)" in why_none_reads(read_chunkers(site.catalog))
    announce_chunker(site.chunker, two, "two", 1, "")
    announce_chunker(site.chunker, two, "two", 0, "")
    assert why_none_reads(read_chunkers(site.catalog)) == "", "others have just taken its own"
    forget_chunker(site.chunker, two)
    assert why_none_reads(read_chunkers(site.catalog)).startswith("no chunker runs: no snapshot")


def test_one_that_was_killed_is_known_until_its_name_is_heard_again(site: CatalogSite) -> None:
    site.sql(LONG_AGO, announce(site, "one"))
    assert names(site) == [("one", False)]
    assert "one was last heard of 31 s ago" in why_none_reads(read_chunkers(site.catalog))
    announce(site, "two")
    assert names(site) == [("one", False), ("two", True)]
    announce(site, "one")
    assert names(site) == [("one", True), ("two", True)]


def test_two_of_one_name_are_two_while_both_are_heard_of(site: CatalogSite) -> None:
    announce(site, "one")
    announce(site, "one")
    assert names(site) == [("one", True), ("one", True)]


def test_nobody_is_known_for_longer_than_an_hour(site: CatalogSite) -> None:
    announce(site, "one")
    site.sql("UPDATE chunker SET seen_at = now() - interval '61 minutes'")
    assert names(site) == []
    announce(site, "two")
    assert site.sql("SELECT name FROM chunker") == [("two",)]
