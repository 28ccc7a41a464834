"""The ledger against a ledger that is only dictionaries, over random histories of an attempt."""

import random
from collections import Counter

import pytest

from libs.blockmap.node import NodeId
from libs.blockmap.tagged import with_tag
from libs.blockmap.writer import MapChange
from libs.catalogdb.sessions.attempts import PackUse
from services.chunker import ledger as ledger_module
from services.chunker.ledger import Ledger


def id_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def change(
    left: tuple[int, ...] = (), entered: tuple[int, ...] = (), node: int | None = None
) -> MapChange:
    return MapChange(
        None,
        None if node is None else NodeId(id_of(node)),
        left_ids=b"".join(map(id_of, left)),
        entered_ids=b"".join(map(id_of, entered)),
    )


def test_an_id_is_given_to_one_caller_only() -> None:
    ledger = Ledger()
    assert ledger.unknown([id_of(1), id_of(1), id_of(2)]) == [id_of(1), id_of(2)]
    assert ledger.claim([id_of(1)]) == {id_of(1)}
    assert ledger.claim([id_of(1), id_of(2)]) == {id_of(2)}
    assert ledger.unknown([id_of(1), id_of(2)]) == []


def test_an_id_of_one_domain_says_nothing_of_another() -> None:
    """An agent may claim any id under any tag."""
    ledger, other = Ledger(), with_tag(1, id_of(1))
    ledger.claim([id_of(1)])
    ledger.registered([id_of(1)], 7, {})
    assert ledger.unknown([id_of(1), other]) == [other]
    ledger.locate({other: 9})
    ledger.settled(
        MapChange(None, None, b"\1", id_of(2), entered_tags=b"\0\1\1", entered_ids=id_of(1) * 3)
    )
    assert ledger.take_departed(1) == [with_tag(1, id_of(2))]
    assert ledger.use({}) == {7: PackUse(entered=1), 9: PackUse(entered=2)}


def test_addresses_are_counted_whether_they_settle_before_or_after_their_pack() -> None:
    ledger = Ledger()
    ledger.claim([id_of(1), id_of(2)])
    ledger.settled(change(entered=(1, 1)))
    ledger.registered([id_of(1), id_of(2)], 7, {})
    ledger.settled(change(entered=(1, 2), node=2))
    assert ledger.unplaced() == []
    assert ledger.use({}) == {7: PackUse(entered=5)}


def test_the_winner_of_an_item_is_counted_and_found_from_then_on() -> None:
    """Scenarios 5 and 22: somebody else registered it first."""
    ledger = Ledger()
    ledger.claim([id_of(1), id_of(2)])
    ledger.settled(change(entered=(1, 2)))
    ledger.registered([id_of(1), id_of(2)], 7, {id_of(2): 3})
    ledger.settled(change(entered=(2,)))
    assert ledger.use({}) == {7: PackUse(entered=1), 3: PackUse(entered=2)}


def test_departed_ids_are_handed_out_once_enough_of_them_are_there() -> None:
    ledger = Ledger()
    ledger.settled(change(left=(1, 1, 2)))
    assert ledger.take_departed(4) == []
    assert ledger.take_departed(3) == [id_of(1), id_of(1), id_of(2)]
    assert ledger.take_departed(1) == []
    ledger.departed({5: 3})
    assert ledger.use({}) == {5: PackUse(departed=3)}


class Truth:
    """Which pack each id lies in, and what entered, kept the simple way."""

    def __init__(self) -> None:
        self.packs: dict[int, int] = {}
        self.entered: Counter[int] = Counter()


def play(rng: random.Random) -> tuple[Ledger, Truth]:
    """An attempt: spans are looked up, packs are registered late, map places settle in between."""
    ledger, truth = Ledger(), Truth()
    #: The catalog's index: id → pack.
    stored = {number: rng.randrange(1, 4) for number in rng.sample(range(60), 25)}
    waiting: list[int] = []
    for _ in range(rng.randrange(60)):
        match rng.randrange(3):
            case 0:
                span = [rng.randrange(60) for _ in range(rng.randrange(1, 9))]
                unknown = ledger.unknown(map(id_of, span))
                numbers = [int.from_bytes(id_) for id_ in unknown]
                ledger.locate({id_of(n): stored[n] for n in numbers if n in stored})
                fresh = ledger.claim(id_of(n) for n in numbers if n not in stored)
                waiting += [int.from_bytes(id_) for id_ in fresh]
                for number in span:
                    truth.packs.setdefault(number, stored.get(number, 0))
            case 1 if waiting:
                count = rng.randrange(1, len(waiting) + 1)
                batch, waiting = waiting[:count], waiting[count:]
                pack = rng.randrange(10, 20)
                winners = {at: 30 for at in range(count) if rng.random() < 0.2}
                by_id = {id_of(batch[at]): winner for at, winner in winners.items()}
                ledger.registered([id_of(n) for n in batch], pack, by_id)
                stored |= {n: winners.get(at, pack) for at, n in enumerate(batch)}
                truth.packs |= {n: stored[n] for n in batch}
            case _:
                known = list(truth.packs)
                entered = tuple(rng.choices(known, k=rng.randrange(6))) if known else ()
                ledger.settled(change(entered=entered))
                truth.entered.update(entered)
    ledger.registered([id_of(n) for n in waiting], 40, {})
    truth.packs |= dict.fromkeys(waiting, 40)
    return ledger, truth


def counts(ledger: Ledger, truth: Truth) -> tuple[dict[int, int], dict[int, int]]:
    """Entered addresses per pack: as the ledger has them, and as they are."""
    places = Counter(truth.packs[int.from_bytes(id_)] for id_ in ledger.unplaced())
    use = {pack: one.entered for pack, one in ledger.use(places).items() if one.entered}
    expected: Counter[int] = Counter()
    for number, addresses in truth.entered.items():
        expected[truth.packs[number]] += addresses
    return use, dict(expected)


@pytest.mark.parametrize("remembered", [0, 3, 1000])
def test_counts_are_exact_however_little_is_remembered(
    remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_REMEMBERED_MAX", remembered)
    for seed in range(300):
        found, expected = counts(*play(random.Random(seed)))
        assert found == expected, f"seed {seed}"


def test_the_harness_notices_a_winner_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = Ledger.registered
    monkeypatch.setattr(
        Ledger, "registered", lambda self, ids, pack, _: registered(self, ids, pack, {})
    )
    histories = [counts(*play(random.Random(seed))) for seed in range(50)]
    assert any(found != expected for found, expected in histories)
