"""The brake: what is held back, for how long, and what a person's word lets go."""

import msgspec
import pytest

from libs.catalogdb.deletion import brake
from libs.catalogdb.deletion.brake import (
    PASSING_COUNT_MAX,
    Amount,
    Kind,
    accept,
    clear,
    judge,
    keep_only,
    read_halts,
    suspect,
)
from libs.catalogdb.log.log import read_log
from libs.catalogdb.notifications.listing import list_notifications
from libs.errors import ConflictError, NotFoundError
from libs.events.topics import NOTIFICATIONS
from tests.support.catalog import CatalogSite

WHOLE = Amount(100, 1000)


def note(site: CatalogSite, *items: str, size_bytes: int = 1) -> None:
    with site.catalog.transaction() as tx:
        suspect(tx, Kind.UNKNOWN, [(item, size_bytes) for item in items])


def is_halted(site: CatalogSite) -> bool:
    with site.catalog.transaction() as tx:
        return judge(
            tx, Kind.UNKNOWN, lambda part: part.is_large_share_of(WHOLE), "too many objects."
        )


def notices(site: CatalogSite) -> list[str]:
    events = read_log(site.catalog, NOTIFICATIONS, 0, 100)
    return [
        f"{event.envelope.type.rpartition('.')[2]} {msgspec.msgpack.decode(event.value)['about']}"
        for event in events
    ]


@pytest.mark.parametrize(
    ("count", "size_bytes", "expected"),
    [
        (0, 0, False),
        (PASSING_COUNT_MAX, 1000, False),  # a tiny store, or a few orphans
        (PASSING_COUNT_MAX + 1, 5, False),
        (5, 50, False),
        (6, 5, True),  # more than 5 % of the packs
        (5, 51, True),  # or of the bytes
        (100, 1000, True),
    ],
)
def test_a_large_share_is_too_much(count: int, size_bytes: int, expected: bool) -> None:
    assert Amount(count, size_bytes).is_large_share_of(WHOLE) is expected


def test_of_nothing_everything_is_a_large_share() -> None:
    assert Amount(PASSING_COUNT_MAX + 1, 1).is_large_share_of(Amount(0, 0))


def test_a_halt_is_told_once_and_survives_a_restart(site: CatalogSite) -> None:
    note(site, "a", "b", "c", "d")
    assert not is_halted(site)
    note(site, "e", "f")
    assert is_halted(site)
    assert is_halted(site)
    again = site.open_pool(site.dsn_of("catalog"))
    (halt,) = read_halts(again)
    assert (halt.kind, halt.suspects, halt.examples) == (Kind.UNKNOWN, Amount(6, 6), list("abcdef"))
    assert f"backcast gc --accept {halt.name}" in halt.message
    assert notices(site) == ["opened objects-unknown"]
    (told,) = list_notifications(site.catalog)
    assert (told.kind, told.about, told.tenant) == ("brake-engaged", "objects-unknown", "*")


def test_a_halt_goes_with_its_suspects(site: CatalogSite) -> None:
    note(site, *"abcdefg")
    assert is_halted(site)
    with site.catalog.transaction() as tx:
        clear(tx, Kind.UNKNOWN, list("abcd"))
    assert not is_halted(site)
    assert read_halts(site.catalog) == []
    assert notices(site) == ["opened objects-unknown", "resolved objects-unknown"]
    assert list_notifications(site.catalog) == []


def test_a_person_accepts_what_they_were_shown_and_nothing_else(site: CatalogSite) -> None:
    note(site, *"abcdef")
    assert is_halted(site)
    (shown,) = read_halts(site.catalog)
    note(site, "g")
    with pytest.raises(ConflictError, match="changed since"):
        accept(site.catalog, shown.name, "ops")
    assert is_halted(site)
    (shown_again,) = read_halts(site.catalog)
    assert shown_again.name != shown.name
    assert shown_again.since == shown.since
    with pytest.raises(NotFoundError):
        accept(site.catalog, shown.name, "ops")
    assert accept(site.catalog, shown_again.name, "ops") is Kind.UNKNOWN
    assert not is_halted(site)
    # What comes afterwards was not accepted.
    note(site, *"hijklm")
    assert is_halted(site)
    accepted = site.sql("SELECT item FROM suspect WHERE accepted ORDER BY item")
    assert [item for (item,) in accepted] == list("abcdefg")
    assert notices(site) == [
        "opened objects-unknown",
        "resolved objects-unknown",
        "opened objects-unknown",
    ]


def test_kinds_are_held_back_apart(site: CatalogSite) -> None:
    note(site, *"abcdef")
    with site.catalog.transaction() as tx:
        keep_only(tx, Kind.MISSING, [(str(number), 1) for number in range(6)])
        assert judge(tx, Kind.MISSING, lambda _: True, "gone.")
    assert is_halted(site)
    names = {halt.kind: halt.name for halt in read_halts(site.catalog)}
    accept(site.catalog, names[Kind.MISSING], "ops")
    assert is_halted(site)
    assert [halt.kind for halt in read_halts(site.catalog)] == [Kind.UNKNOWN]


def test_suspects_are_bounded(site: CatalogSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brake, "SUSPECTS_MAX", 5)
    note(site, *"abc")
    note(site, *"defg")
    assert site.sql("SELECT count(*) FROM suspect") == [(5,)]
    with site.catalog.transaction() as tx:
        keep_only(tx, Kind.UNKNOWN, [("x", 1), ("a", 1)])
    assert site.sql("SELECT item FROM suspect ORDER BY item") == [("a",), ("x",)]
