"""The sweeper: deletes objects of the store that the catalog does not need.

They come from crashes between a PUT and its registration, from PUTs that arrived after everybody
had given them up, from sessions that were rejected after their manifest was written.

Order: uploads that nobody can register are written down as dead → page by page of the listing:
DELETE of what is dead, what no row names is written down as suspect → the position is recorded →
at the end, unless the suspects are so many that a person must look
(`libs.catalogdb.deletion.brake`): each that still is unknown is written down as dead → DELETE → it
is a suspect no more. A crash after any step leaves what the next pass deletes; a pass goes on where
the one before it stopped.

Uploads are single PUTs, so there are no parts of unfinished ones to look for.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from libs.catalogdb.deletion.suspects import (
    clear_unknown,
    hold_back_unknown,
    list_unknown,
    note_unknown,
)
from libs.catalogdb.deletion.sweeping import (
    Verdict,
    advance,
    begin_pass,
    bury_abandoned,
    bury_unknown,
    claim_prefix,
    finish_prefix,
    judge_manifests,
    judge_packs,
    list_prefixes,
)
from libs.catalogdb.pool import Catalog
from libs.copies.stores import PRIMARY, STORE_NAMES
from libs.errors import BadInputError
from libs.store.layout import (
    MANIFESTS_PREFIX,
    PACKS_PREFIX,
    parse_manifest_object,
    parse_pack_object,
)
from libs.store.port import Leftovers, ObjectStat, ObjectStore, check_prefix

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Objects that are judged by one statement; S3 lists as many at once.
_PAGE_COUNT = 1000
#: Pages of one step of a survey: seconds, where a client waits 60 s for an answer.
_SURVEYED_PAGES_MAX = 16


@dataclass(frozen=True, slots=True)
class SweepPolicy:
    """When an object is looked at more closely."""

    #: What the catalog does not know is left alone while it is younger, by the store's clock. A
    #: hint that nothing rests on.
    young_seconds: float
    #: A sweeper that is not heard of for so long is taken for dead.
    claim_seconds: float


@dataclass(slots=True)
class SweepTally:
    """What a pass saw and did; a survey counts what a pass would delete."""

    objects: int = 0
    #: Deleted packs and manifests and their bytes.
    packs: int = 0
    manifests: int = 0
    deleted_bytes: int = 0
    #: Those of them that no row names; the others are of dead generations and of ended sessions.
    unnamed: int = 0
    unnamed_bytes: int = 0
    #: Objects that no row names and that wait for a person's word: too many to be right.
    held_back: int = 0
    held_back_bytes: int = 0
    #: Objects that no row names and that were too young to be judged.
    young: int = 0
    young_bytes: int = 0
    #: Objects whose key is none of ours; they are never touched.
    foreign: int = 0
    #: Files of puts that never ended.
    leftovers: int = 0

    def count(self, key: str, size_bytes: int, verdict: Verdict) -> None:
        """Count an object that is deleted."""
        is_pack = key.startswith(PACKS_PREFIX)
        self.packs += is_pack
        self.manifests += not is_pack
        self.deleted_bytes += size_bytes
        if verdict is Verdict.UNKNOWN:
            self.unnamed += 1
            self.unnamed_bytes += size_bytes


class Sweeper:
    """For one thread but for surveys; any number of sweepers may run in other processes.

    Args:
        catalog: the catalog, in the catalog service's role.
        store: the object store, with the right to delete.
        policy: what to leave alone.
        leftovers: the same store, if it keeps files of unfinished puts.
        now: the time, to tell an object's age.
        store_no: the number of the store.
        witness: returns when the store knows what was decided before the call; asked before
            anything is deleted.
    """

    def __init__(  # noqa: PLR0913 -- a sweep's surroundings
        self,
        catalog: Catalog,
        store: ObjectStore,
        policy: SweepPolicy,
        leftovers: Leftovers | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        store_no: int = PRIMARY,
        witness: Callable[[], None] = lambda: None,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._policy = policy
        self._leftovers = leftovers
        self._now = now
        self.store_no = store_no
        self._witness = witness

    def run(
        self,
        stopping: Callable[[], bool] = lambda: False,
        progressed: Callable[[], None] = lambda: None,
        tally: SweepTally | None = None,
    ) -> SweepTally:
        """One pass over the store, or over what other sweepers leave of it.

        Args:
            stopping: asked between pages.
            progressed: called after each page, for health checks.
            tally: counted in while the pass goes on; a new one if None.

        Raises:
            NotReconciledError: nothing is deleted while the catalog may be older than the store.
            BackcastError: store or catalog fail.
        """
        tally = tally or SweepTally()
        begun = begin_pass(self._catalog)
        while bury_abandoned(self._catalog, _PAGE_COUNT) == _PAGE_COUNT:
            progressed()
        seconds = self._policy.claim_seconds
        while claim := claim_prefix(self._catalog, self.store_no, begun, seconds):
            for page in _pages(self._store.list(claim.prefix, claim.after)):
                self._sweep(page, tally)
                stop = stopping()
                after = page[-1].key
                advance(self._catalog, self.store_no, claim.prefix, after, 0 if stop else seconds)
                progressed()
                if stop:
                    return tally
            finish_prefix(self._catalog, self.store_no, claim.prefix)
        self._settle(tally, progressed)
        if self._leftovers:
            tally.leftovers = self._leftovers.delete_leftovers(self._old())
        return tally

    def survey(self, cursor: str | None = None) -> tuple[SweepTally, str | None]:
        """What a pass over the next piece of the listing would delete now.

        Writes nothing and claims nothing; any thread may call it. Only a piece of it is bounded in
        time: a bucket of 100 million objects takes hours to list. A pass that goes on where one was
        stopped leaves what lies before that to the next one.

        Args:
            cursor: where the step before ended; None to begin.

        Returns:
            The piece's tally, and the cursor of the next step; None: the listing is at its end.

        Raises:
            BadInputError: no such cursor.
            NotReconciledError, BackcastError: as `run`.
        """
        prefixes = list_prefixes(self._catalog, self.store_no)
        prefix, _, after = (cursor or f"{prefixes[0]}:").partition(":")
        if prefix not in prefixes or not (after or prefix).startswith(prefix):
            raise BadInputError(f"cursor {prefix[:40]!r}: expected what the step before answered")
        check_prefix(after)
        tally, pages = SweepTally(), 0
        for one in prefixes[prefixes.index(prefix) :]:
            for page in _pages(self._store.list(one, after if one == prefix else "")):
                for stray, verdict in self._strays(page, tally):
                    tally.count(stray.key, stray.size_bytes, verdict)
                pages += 1
                if pages == _SURVEYED_PAGES_MAX:
                    return tally, f"{one}:{page[-1].key}"
        return tally, None

    def _sweep(self, page: Sequence[ObjectStat], tally: SweepTally) -> None:
        """Delete what is dead of a page, and write down what no row names."""
        strays = [(one.key, one.size_bytes, verdict) for one, verdict in self._strays(page, tally)]
        self._delete_dead([(key, size) for key, size, of in strays if of is Verdict.DEAD], tally)
        unknown = [(self._item(key), size) for key, size, of in strays if of is Verdict.UNKNOWN]
        if unknown:
            note_unknown(self._catalog, unknown)

    def _settle(self, tally: SweepTally, progressed: Callable[[], None]) -> None:
        """Delete what no row names, whoever wrote it down, or what of it the brake lets go."""
        for page in self._unknown_pages():
            verdicts = self._judge([key for key, _, _ in page])
            # Written down as dead by a sweeper that died before it deleted them.
            dead = [(key, size) for key, size, _ in page if verdicts.get(key) is Verdict.DEAD]
            self._delete_dead(dead, tally)
            clear_unknown(
                self._catalog,
                [self._item(key) for key, _, _ in page if verdicts.get(key) is not Verdict.UNKNOWN],
            )
            progressed()
        halted = hold_back_unknown(self._catalog)
        for page in self._unknown_pages():
            held = [(key, size) for key, size, accepted in page if halted and not accepted]
            gone = [key for key, _ in held if self._store.stat(key) is None]
            clear_unknown(self._catalog, [self._item(key) for key in gone])
            tally.held_back += len(held) - len(gone)
            tally.held_back_bytes += sum(size for key, size in held if key not in gone)
            self._delete_unknown(
                [(key, size) for key, size, accepted in page if accepted or not halted], tally
            )
            progressed()
        if halted:  # some may have gone
            hold_back_unknown(self._catalog)

    def _delete_dead(self, objects: Sequence[tuple[str, int]], tally: SweepTally) -> None:
        if not objects:
            return
        self._witness()
        for key, size_bytes in objects:
            self._store.delete(key)
            tally.count(key, size_bytes, Verdict.DEAD)
        clear_unknown(self._catalog, [self._item(key) for key, _ in objects])

    def _delete_unknown(self, objects: Sequence[tuple[str, int]], tally: SweepTally) -> None:
        """Write them down as dead, then delete them; what somebody has claimed since stays."""
        packs = [parse_pack_object(key) for key, _ in objects if key.startswith(PACKS_PREFIX)]
        buried = bury_unknown(self._catalog, packs)
        if objects:
            self._witness()
        for key, size_bytes in objects:
            if key.startswith(MANIFESTS_PREFIX) or parse_pack_object(key) in buried:
                self._store.delete(key)
                tally.count(key, size_bytes, Verdict.UNKNOWN)
        clear_unknown(self._catalog, [self._item(key) for key, _ in objects])

    def _unknown_pages(self) -> Iterator[list[tuple[str, int, bool]]]:
        after, prefix = "", self._item("")
        while page := list_unknown(self._catalog, after, _PAGE_COUNT):
            own = [
                (item.removeprefix(prefix), size, accepted)
                for item, size, accepted in page
                if item.startswith(prefix) and (":" in item) == bool(prefix)
            ]
            if own:
                yield own
            after = page[-1][0]

    def _item(self, key: str) -> str:
        """How a suspect of this store is written down; no key has a colon."""
        return key if self.store_no == PRIMARY else f"{STORE_NAMES[self.store_no]}:{key}"

    def _strays(
        self, page: Sequence[ObjectStat], tally: SweepTally
    ) -> Iterator[tuple[ObjectStat, Verdict]]:
        """The objects of a page that are not needed, with what the catalog says of them."""
        verdicts = self._judge([one.key for one in page])
        old = self._old()
        for one in page:
            verdict = verdicts.get(one.key)
            tally.objects += 1
            tally.foreign += verdict is None
            if verdict is Verdict.UNKNOWN and one.modified_at > old:
                tally.young += 1
                tally.young_bytes += one.size_bytes
            elif verdict is not None and verdict is not Verdict.KEEP:
                yield one, verdict

    def _judge(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """What the catalog says about objects; those with foreign keys are missing."""
        generations = dict(_parsed(keys, PACKS_PREFIX, parse_pack_object))
        by_generation = judge_packs(self._catalog, list(generations.values()))
        verdicts = {key: by_generation[name] for key, name in generations.items()}
        manifests = dict(_parsed(keys, MANIFESTS_PREFIX, parse_manifest_object))
        if manifests:
            sessions = {key: name.session for key, name in manifests.items()}
            verdicts |= judge_manifests(self._catalog, sessions)
        return verdicts

    def _old(self) -> datetime:
        return self._now() - timedelta(seconds=self._policy.young_seconds)


def _parsed(keys: Sequence[str], prefix: str, parse: Callable[[str], T]) -> Iterator[tuple[str, T]]:
    for key in keys:
        if key.startswith(prefix):
            try:
                yield key, parse(key)
            except BadInputError:
                log.info("foreign object in the bucket", extra={"key": key})


def _pages(objects: Iterator[ObjectStat]) -> Iterator[list[ObjectStat]]:
    while page := list(itertools.islice(objects, _PAGE_COUNT)):
        yield page
