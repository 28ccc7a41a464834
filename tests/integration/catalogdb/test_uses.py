"""Random histories of volumes that share chunks: what is counted is where the chunks are.

A history plays chunkers, collectors and rewriters, a transaction at a time. Its oracle knows, for
each live snapshot, which address has which chunk, and asks the index where that lies. After each
step, the open rows of `pack_use` must say exactly that of every head, the rows that cover an older
snapshot must name the packs that it needs and no others, and all those packs must be live. No live
pack without a row may be unknown to collectors.
"""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from libs.catalogdb.deletion.condemning import condemn_unused
from libs.catalogdb.packs.index import count_by_pack
from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import reject_session
from libs.catalogdb.snapshots.expiry import Refused, expire
from libs.errors import InvariantViolation
from tests.support.catalog import (
    TENANT,
    CatalogSite,
    Worker,
    item,
    open_on,
    protect,
)
from tests.support.rewriting import Rewriting

#: Few of each, so that chunks are shared, left and come back all the time.
GROUPS, ADDRESSES, CHUNKS = ("a", "b"), 6, 8
STEPS = 200
#: Of steps that a history can take.
KINDS = 10
#: A history goes on until it has taken every step; one in some hundred needs more than 200.
STEPS_MAX = 10 * STEPS

Map = dict[int, bytes]


@dataclass
class Capture:
    """A session under way."""

    worker: Worker
    before: Map
    after: Map
    finished: bool = False
    #: Ids that this attempt knows to lie in packs that it pinned.
    located: dict[bytes, int] = field(default_factory=dict)

    def changed(self) -> list[int]:
        """Addresses with another chunk than in the base."""
        return [address for address, id_ in self.after.items() if self.before.get(address) != id_]

    def wanted(self) -> list[bytes]:
        """Chunks that are not located yet."""
        return sorted({self.after[address] for address in self.changed()} - self.located.keys())


class History:
    """Two groups of one domain."""

    def __init__(self, site: CatalogSite, seed: int) -> None:
        self.site = site
        self.rng = random.Random(seed)
        for group in GROUPS:
            self.domain_no = protect(site, group).domain_no
        self.captures: dict[str, Capture] = {}
        #: Group → sequence → content of the live snapshots.
        self.snapshots: dict[str, dict[int, Map]] = {group: {} for group in GROUPS}
        self.heads: dict[str, int] = dict.fromkeys(GROUPS, 0)
        #: How often each step was taken.
        self.taken: Counter[str] = Counter()

    def play(self) -> None:
        """Take random steps; after each, everything must hold."""
        works = [self.looks_up, self.stores, self.finishes]
        loops = [self.expires, self.collects, self.rewrites]
        for number in range(STEPS_MAX):
            if number >= STEPS and len(self.taken) == KINDS:
                break
            group = self.rng.choice(GROUPS)
            capture = self.captures.get(group)
            if self.rng.random() < 0.4:
                steps = loops
            elif capture is None:
                steps = [self.opens]
            elif capture.finished:
                steps = [*[self.seals] * 8, self.is_rejected]
            else:
                steps = [*works * 3, self.is_taken_over, self.is_rejected]
            step = self.rng.choice(steps)
            if step(group):
                self.taken[step.__name__] += 1
                self.check()

    # ---- chunkers

    def opens(self, group: str) -> bool:
        full = self.rng.random() < 0.2
        view = open_on(self.site, group, full=full)
        head = self.snapshots[group].get(self.heads[group])
        assert (view.base is None) == (full or head is None)
        before = {} if full or head is None else head
        after = dict(head or {})
        for _ in range(self.rng.randrange(5)):
            after[self.rng.randrange(ADDRESSES)] = item(self.rng.randrange(CHUNKS))
        self.captures[group] = Capture(Worker(self.site, view), before, after)
        return True

    def looks_up(self, group: str) -> bool:
        """Pins what is known; without it, everything is stored and meets winners."""
        capture = self.captures[group]
        wanted = capture.wanted()
        packs = capture.worker.look_up(*wanted)
        assert isinstance(packs, list)
        capture.located |= {id_: pack for id_, pack in zip(wanted, packs, strict=True) if pack}
        return bool(wanted)

    def stores(self, group: str) -> bool:
        return self.store(self.captures[group], self.rng.randint(1, 3))

    def is_taken_over(self, group: str) -> bool:
        capture = self.captures[group]
        capture.worker = Worker(self.site, capture.worker.view)
        capture.located.clear()
        return True

    def finishes(self, group: str) -> bool:
        capture = self.captures[group]
        self.store(capture, ADDRESSES)
        left = [capture.before[a] for a in capture.changed() if a in capture.before]
        departed = count_by_pack(self.site.chunker, [self.domain_no], left)
        entered = Counter(capture.located[capture.after[a]] for a in capture.changed())
        capture.worker.finish(
            {pack: PackUse(entered[pack], departed.get(pack, 0)) for pack in departed | entered}
        )
        capture.finished = True
        return True

    def seals(self, group: str) -> bool:
        capture = self.captures.pop(group)
        self.heads[group] += 1
        assert capture.worker.seal() == Sealed(capture.worker.view.session, self.heads[group])
        self.snapshots[group][self.heads[group]] = capture.after
        return True

    def is_rejected(self, group: str) -> bool:
        session = self.captures.pop(group).worker.view.session
        return reject_session(self.site.chunker, "chunker", session, "cancelled", "by hand")

    # ---- the catalog's loops

    def expires(self, group: str) -> bool:
        """A snapshot goes; an open session's base is pinned."""
        sequence = self.heads[group] - self.rng.randrange(3)
        if group in self.captures or sequence not in self.snapshots[group]:
            return False
        ((session,),) = self.site.sql(
            """SELECT session FROM snapshot JOIN volume_group USING (group_no)
               WHERE name = %s AND sequence = %s""",
            group,
            sequence,
        )
        if isinstance(expire(self.site.catalog, TENANT, session, by="a test"), Refused):
            return False
        del self.snapshots[group][sequence]
        return True

    def collects(self, _: str) -> bool:
        return condemn_unused(self.site.catalog, 0, self.rng.randint(1, 20)).packs > 0

    def rewrites(self, _: str) -> bool:
        """Only what a live snapshot needs is moved."""
        contents = [content for live in self.snapshots.values() for content in live.values()]
        needed = {id_ for content in contents for id_ in content.values()}
        index = self.index()
        packs = sorted({index[id_] for id_ in needed})
        chosen = self.rng.sample(packs, min(len(packs), self.rng.choice([1, 1, 1, 2])))
        marking = Rewriting(self.site, *chosen)
        everything = [item(number) for number in range(CHUNKS)]
        live = [id_ for id_ in sorted(needed) if index[id_] in marking.packs]
        return bool(live) and marking.commit(everything, live)

    # ---- what must hold

    def check(self) -> None:
        index = self.index()
        live = set(self.live_packs())
        assert self.leaked() == [], "packs that no collector would ever look at"
        for group, snapshots in self.snapshots.items():
            for sequence, content in snapshots.items():
                truth = Counter(index[id_] for id_ in content.values())
                assert live >= truth.keys(), f"{group}@{sequence} needs packs that are gone"
                rows = self.rows(group, sequence)
                assert rows.keys() == truth.keys(), f"{group}@{sequence}"
                if sequence == self.heads[group]:
                    assert rows == truth, f"{group}@{sequence}"

    # ---- steps of the above

    def store(self, capture: Capture, count: int) -> bool:
        ids = capture.wanted()[:count]
        if ids:
            pack = capture.worker.claim()
            winners = capture.worker.register(pack, *ids)
            assert isinstance(winners, dict)
            capture.located |= self.places(ids, pack.pack_no, winners)
        return bool(ids)

    def places(self, ids: list[bytes], pack_no: int, winners: dict[int, int]) -> dict[bytes, int]:
        return {id_: winners.get(position, pack_no) for position, id_ in enumerate(ids)}

    def index(self) -> dict[bytes, int]:
        return {
            high.bytes + low.bytes: pack_no
            for high, low, pack_no in self.site.sql(
                f"SELECT id_high, id_low, pack_no FROM chunk_{self.domain_no}"
            )
        }

    def live_packs(self) -> list[int]:
        return [
            pack_no
            for (pack_no,) in self.site.sql(
                "SELECT pack_no FROM pack WHERE state = 'l' ORDER BY pack_no"
            )
        ]

    def leaked(self) -> list[tuple[int]]:
        return self.site.sql(
            """SELECT pack_no FROM pack p WHERE state = 'l'
                 AND NOT EXISTS (SELECT FROM pack_use u WHERE u.pack_no = p.pack_no)
                 AND NOT EXISTS (SELECT FROM candidate c WHERE c.pack_no = p.pack_no)"""
        )

    def rows(self, group: str, sequence: int) -> dict[int, int]:
        """Packs whose rows cover a snapshot; with the addresses, where the row is open."""
        return dict(
            self.site.sql(
                """SELECT pack_no, sum(addresses)::int FROM pack_use JOIN volume USING (volume_no)
                   WHERE name = %s AND first_sequence <= %s
                     AND (last_sequence IS NULL OR last_sequence >= %s) GROUP BY 1""",
                group,
                sequence,
                sequence,
            )
        )


class IgnoresWinners(History):
    """Planted: counts its own pack for what another pack holds (scenarios 5 and 22)."""

    def places(self, ids: list[bytes], pack_no: int, winners: dict[int, int]) -> dict[bytes, int]:
        return dict.fromkeys(ids, pack_no)


class ForgetsMoves(History):
    """Planted: the seal does not learn where a rewritten pack's items went (scenario 24)."""

    def rewrites(self, _: str) -> bool:
        rewritten = super().rewrites(_)
        self.site.sql("UPDATE pack SET moved_to = NULL")
        return rewritten


class BuildsUponOlderSnapshots(History):
    """Planted: counts differences to an older snapshot than the head (scenario 23)."""

    def opens(self, group: str) -> bool:
        super().opens(group)
        capture, older = self.captures[group], self.snapshots[group].get(self.heads[group] - 1)
        if capture.before and older:
            capture.before = older
        return True


@pytest.mark.parametrize("history_no", range(3))
def test_uses_are_exact_after_any_history(site: CatalogSite, seed: int, history_no: int) -> None:
    """Scenarios 5, 22, 23 and 24."""
    history = History(site, seed)
    history.play()
    assert len(history.taken) == KINDS, "every step was taken"


@pytest.mark.parametrize("planted", [IgnoresWinners, ForgetsMoves, BuildsUponOlderSnapshots])
def test_a_planted_mistake_is_found(site: CatalogSite, planted: type[History]) -> None:
    with pytest.raises((AssertionError, InvariantViolation)):
        play_ten(site, planted)


def play_ten(site: CatalogSite, history: type[History]) -> None:
    for seed in range(10):
        site.empty()
        history(site, seed).play()
