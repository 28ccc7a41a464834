"""Random histories of snapshots, expiry, collection, rewriting and sweeping, with crashes.

The oracle is the content of the live snapshots. After each loop every one of them is restored byte
for byte; in the end nothing lies in the store but what they need, with bounded slack.
"""

import random
from collections import Counter

import pytest

from libs.catalogdb.deletion.brake import accept, read_halts
from libs.catalogdb.sessions.session import reject_session
from libs.ids import new_generation
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.store.layout import pack_object
from libs.store.memory import MemoryStore
from services.catalog.deletion.rewriter import RewritePolicy, RewriteTally
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from tests.integration.catalog.protected import Protected
from tests.support.catalog import CatalogSite, Worker, item, open_on

VOLUMES, ADDRESSES, CHUNKS, STEPS = ("a", "b", "c"), 12, 30, 40
POLICY = RewritePolicy(
    live_share_max=0.7, again_seconds=0, deadline_seconds=60, merge_young_seconds=3600
)
#: Besides live chunks: map nodes, trailers, and what packs above the share of POLICY keep.
SLACK = 1 / POLICY.live_share_max


class History:
    """Three volumes of one tenant in one store."""

    def __init__(self, site: CatalogSite, seed: int) -> None:
        site.sql("UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'")
        self.protected = Protected(site, MemoryStore())
        self.protected.protect(*VOLUMES)
        self.rng = random.Random(seed)
        self.heads: dict[str, list[int]] = {volume: [0] * ADDRESSES for volume in VOLUMES}
        self.taken: Counter[str] = Counter()
        self.rewritten = RewriteTally()
        for numbers in (range(1, 13), [1, *range(13, 24)]):
            self.protected.take("a", *numbers)
        self.protected.expire("a", 1)
        self.rewrites()

    def play(self) -> None:
        steps = [
            *[self.takes] * 5,
            *[self.expires] * 5,
            self.collects,
            *[self.rewrites] * 2,
            self.sweeps,
            self.crashes,
        ]
        for _ in range(STEPS):
            step = self.rng.choice(steps)
            self.taken[step.__name__] += 1
            step()
            if step in (self.collects, self.rewrites, self.sweeps):
                self.protected.check()

    def takes(self) -> None:
        """Most chunks stay, some come from other volumes and times."""
        volume = self.rng.choice(VOLUMES)
        numbers = self.heads[volume]
        for _ in range(self.rng.randrange(ADDRESSES)):
            numbers[self.rng.randrange(ADDRESSES)] = self.rng.randrange(CHUNKS)
        self.protected.take(volume, *numbers)

    def expires(self) -> None:
        """Any but a volume's last one."""
        if self.protected.live:
            self.protected.expire(*self.rng.choice(sorted(self.protected.live)))

    def collects(self) -> None:
        self.protected.collect()

    def rewrites(self) -> None:
        tally = self.protected.rewriter(POLICY).run()
        assert tally.given_up == tally.damaged == 0
        self.rewritten.rewritten += tally.rewritten

    def sweeps(self) -> None:
        """Crashes in a row make more unknown objects than the brake lets go: a person does."""
        catalog = self.protected.site.catalog
        sweeper = Sweeper(catalog, self.protected.store, SweepPolicy(0, 60))
        if sweeper.run().held_back:
            (halt,) = read_halts(catalog)
            accept(catalog, halt.name, "a person")
            assert not sweeper.run().held_back

    def crashes(self) -> None:
        """Uploads that nobody will ever register: known, unknown, and of a rejected session."""
        site, store = self.protected.site, self.protected.store
        worker = Worker(site, open_on(site, self.rng.choice(VOLUMES)))
        pack = worker.claim()
        store.put(pack_object(pack.generation), b"never registered")
        store.put(pack_object(new_generation()), b"from nowhere")
        worker.register(worker.claim(), item(self.rng.randrange(CHUNKS)))
        reject_session(site.chunker, "chunker", worker.view.session, "cancelled", "by hand")

    def settle(self) -> None:
        """What the loops do when nothing happens any more."""
        for _ in range(3):
            self.collects()
            self.rewrites()
            self.sweeps()
        self.collects()


@pytest.mark.parametrize("history_no", range(2))
def test_live_snapshots_are_restored_and_nothing_else_stays(
    site: CatalogSite, seed: int, history_no: int
) -> None:
    history = History(site, seed)
    history.play()
    history.settle()
    assert history.rewritten.rewritten, "some pack was rewritten"
    protected = history.protected
    protected.check()

    listed = list(protected.store.list("packs/"))
    generations = {
        pack_object(row[0]) for row in site.sql("SELECT generation FROM pack WHERE state = 'l'")
    }
    assert {stat.key for stat in listed} == generations
    manifests = {row[0] for row in site.sql("SELECT manifest_key FROM snapshot WHERE state = 'l'")}
    assert set(protected.objects("manifests/")) == manifests
    needed = {
        chunk
        for volume in protected.live.values()
        for at in range(0, len(volume), CHUNK_SIZE_BYTES)
        if any(chunk := volume[at : at + CHUNK_SIZE_BYTES])
    }
    nodes = 4096 * len(protected.live)
    chunks = CHUNK_SIZE_BYTES * len(needed)
    stored = sum(stat.size_bytes for stat in listed)
    assert chunks <= stored <= (chunks + nodes) * SLACK + 1024 * len(listed)
