"""Checkpoints of the catalog, and whether the catalog is behind the store.

A checkpoint is a base, which has all rows, or a delta, which has those that changed since the
checkpoints that it builds on. `libs.checkpoints.chain` says which, and
`libs.catalogdb.recovery.changes` why nothing that changed is left out.

Order of a checkpoint: number taken (catalog) → parts → head (store) → recorded as durable, and as
what the next one builds on (catalog). A crash after any step leaves parts without a head, or a head
that the next comparison finds: its number is one that this catalog took, so it proves nothing
against it. A head that was not recorded can be restored, and no later checkpoint builds on it.

What the store must know before something is done relies on `Checkpoints.write`: a pack is deleted,
and an expiry is answered, only after a checkpoint that says why is durable.
"""

import itertools
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from libs.catalogdb.log.log import last_position
from libs.catalogdb.pool import Catalog
from libs.catalogdb.recovery.adoption import group_heads, unknown_sessions
from libs.catalogdb.recovery.changes import RecordedLink, record_link
from libs.catalogdb.recovery.incarnation import (
    Incarnation,
    begin_checkpoint,
    read_incarnation,
    reading_state,
    record_comparison,
)
from libs.checkpoints.chain import links_kept
from libs.checkpoints.checkpoint import Head, parts_of
from libs.checkpoints.rows import GoneRow, Row
from libs.checkpoints.shelf import Checkpoint, CheckpointShelf
from libs.errors import UnavailableError
from libs.events.topics import PACKS, SNAPSHOTS
from libs.store.layout import (
    MANIFESTS_PREFIX,
    CheckpointName,
    manifest_folder,
    parse_manifest_object,
)
from libs.store.port import ObjectStore

log = logging.getLogger(__name__)


_LOST = (
    "the catalog is empty, and the store has a history: `backcast catalog rebuild` fills the "
    "catalog from the store, unless the bucket is the wrong one"
)


class Standing(StrEnum):
    """How the catalog stands to the store."""

    #: It knows what the store knows.
    CURRENT = "current"
    #: It was in a later state once: it must be reconciled.
    BEHIND = "behind"
    #: Nothing was ever decided in it, but the store has a history: a person must ask for a rebuild.
    LOST = "lost"
    #: It had checkpoints in its store, and this one has none: is it the right bucket?
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found, and why."""

    standing: Standing
    reason: str
    newest: Checkpoint | None


class Checkpoints:
    """Writes checkpoints and compares the catalog with them. Thread-safe.

    Args:
        catalog: the catalog, in the catalog service's role.
        store: the bucket.
        shelf: the checkpoints in it.
        keep_count: so many of the newest ones are kept.
    """

    def __init__(
        self, catalog: Catalog, store: ObjectStore, shelf: CheckpointShelf, keep_count: int
    ) -> None:
        self.shelf = shelf
        self._catalog = catalog
        self._store = store
        self._keep_count = keep_count
        self._lock = threading.Lock()
        #: Positions of the log that the store knows of.
        self._witnessed: Mapping[str, int] = {}

    def write(self) -> CheckpointName:
        """Return when a checkpoint that knows every decision made before the call is durable.

        If nothing of what a checkpoint says has changed, that is the newest one that was recorded.
        """
        with self._lock:
            while True:
                number = begin_checkpoint(self._catalog)
                written = self._write(number)
                if written:
                    return written

    def witness(self) -> None:
        """Return when the store knows every decision logged before the call."""
        last = {topic: last_position(self._catalog, topic) for topic in (SNAPSHOTS, PACKS)}
        if any(self._witnessed.get(topic, -1) < position for topic, position in last.items()):
            self.write()

    def _write(self, number: int) -> CheckpointName | None:
        with reading_state(self._catalog, number) as state:
            if state is None:  # another catalog service took a later number: it is that one's turn
                return None
            name = CheckpointName(state.incarnation, number)
            stands = bool(state.chain) and self.shelf.continues(name, state.chain[-1].link)
            if stands and not state.dirty:
                self._witnessed = state.positions
                return CheckpointName(state.incarnation, state.chain[-1].link.number)
            kept = links_kept([link.rows for link in state.chain], state.dirty) if stands else 0
            count, digests = self._put_parts(name, state.rows_after(kept))
            head = Head(
                kind="state",
                made_at=datetime.now(UTC),
                positions=state.positions,
                parts=digests,
                chain=tuple(link.link for link in state.chain[:kept]),
            )
        link = RecordedLink(self.shelf.put_head(name, head), count)
        record_link(self._catalog, name.incarnation, state.chain, kept, link, state.moment)
        self._witnessed = state.positions
        self.shelf.thin_out(self._keep_count, name)
        about = {"incarnation": name.incarnation, "number": number, "rows": count, "base": not kept}
        log.info("checkpoint", extra=about)
        return name

    def _put_parts(
        self, name: CheckpointName, rows: Iterable[Row | GoneRow]
    ) -> tuple[int, tuple[bytes, ...]]:
        """Write rows as parts; how many they are, and the digest of each part."""
        counted = itertools.count()
        numbered = (row for row, _ in zip(rows, counted, strict=False))
        digests = tuple(
            self.shelf.put_part(CheckpointName(name.incarnation, name.number, part), plain)
            for part, plain in enumerate(parts_of(numbered))
        )
        return next(counted), digests

    def compare(self) -> Comparison:
        """Whether the catalog is behind the store; if it is current, this is recorded.

        Manifests beyond a group's head are looked for only in a life of the server that was not
        compared yet: within one life the catalog does not go back.
        """
        own = read_incarnation(self._catalog)
        newest = self.newest_state(own)
        comparison = self._judge(own, newest)
        if comparison.standing is Standing.CURRENT and not own.compared:
            record_comparison(self._catalog)
        return comparison

    def newest_state(self, own: Incarnation) -> Checkpoint | None:
        """The newest checkpoint in the store.

        One that a listing leaves out would be missed, and its decisions with it. So a catalog that
        was not compared yet looks twice, and the one that it knows to be durable is asked for by
        itself if nothing as new is listed.

        Raises:
            UnavailableError: a listing leaves out what the store has.
        """
        newest = self.shelf.newest_state()
        if not own.compared:
            again = self.shelf.newest_state()
            newest = max((one for one in (newest, again) if one), key=_place, default=None)
        known = CheckpointName(own.number, own.durable)
        is_older = newest is None or _place(newest) < (known.incarnation, known.number)
        if own.durable and is_older and self.shelf.has_head(known):
            raise UnavailableError(
                f"LIST checkpoints: expected all objects that there are; it leaves out that of "
                f"checkpoint {own.number}/{own.durable}, which HEAD shows; nothing is concluded"
            )
        return newest

    def _judge(self, own: Incarnation, newest: Checkpoint | None) -> Comparison:
        known = (own.number, own.checkpoint)
        unknown = newest and (newest.name.incarnation, newest.name.number) > known
        if own.empty and (unknown or (not newest and self._has_manifests())):
            return Comparison(Standing.LOST, _LOST, newest)
        if newest is None:
            if own.durable:
                reason = (
                    f"checkpoint {own.number}/{own.durable} is not in the store; is this the right "
                    f"bucket?"
                )
                return Comparison(Standing.FOREIGN, reason, None)
        elif unknown:
            reason = (
                f"the store has checkpoint {newest.name.incarnation}/{newest.name.number}, the "
                f"catalog knows of none after {own.number}/{own.checkpoint}"
            )
            return Comparison(Standing.BEHIND, reason, newest)
        if not own.compared:
            if own.moved:
                return Comparison(Standing.BEHIND, "the catalog was restored or promoted", newest)
            for key in self._unknown_manifests():
                reason = f"the store has manifest {key}, which the catalog does not know"
                return Comparison(Standing.BEHIND, reason, newest)
        return Comparison(Standing.CURRENT, "", newest)

    def _unknown_manifests(self) -> Iterator[str]:
        """Manifests beyond the heads of groups, of sessions that the catalog never heard of.

        That of an open session proves nothing: Postgres may have been killed while it committed.
        """
        for head in group_heads(self._catalog):
            folder = manifest_folder(head.tenant, head.group)
            names = {
                parse_manifest_object(stat.key).session: stat.key
                for stat in self._store.list(folder, f"{folder}{head.sequence + 1:010d}")
            }
            for session in unknown_sessions(self._catalog, list(names)):
                yield names[session]

    def _has_manifests(self) -> bool:
        return any(True for _ in self._store.list(MANIFESTS_PREFIX))


def _place(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.name.incarnation, checkpoint.name.number
