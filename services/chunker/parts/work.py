"""The work on one part by one attempt: spans in, packs and a block map out.

Each span goes through `take_span` on one of the lanes: look up its ids, ask the agent for those
that are new, receive them straight into the frame that is being filled, hash them again, and put
what was found into the block map. When all batches of the capture are through, `finish` writes the
rest.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from uuid import UUID

from libs.blockmap.tagged import are_all_own, tag_of, tagged_ids
from libs.blockmap.tree import MapRoot
from libs.catalogdb.packs.index import lookup_and_pin
from libs.catalogdb.sessions.attempts import PartProgress, Stale
from libs.catalogdb.sessions.session import PartView, SessionView
from libs.errors import DamagedDataError
from libs.events.block_changes import Batch, CaptureStarted, ExtentsChanged, UnchangedSampled
from libs.keys.vault import KeyVault
from libs.packs.chunk import ChunkHasher, split_chunks
from libs.packs.layout import CHUNK_SIZE_BYTES, FRAME_PLAIN_SIZE_BYTES_MAX
from libs.ranges import ChunkRun, unpack_runs
from libs.spans.connection import SpanConnection
from services.chunker.domains import OtherDomain, check_tags, have_ids, renamed
from services.chunker.frames import OpenFrame, store_frame
from services.chunker.ledger import Ledger
from services.chunker.packer import AttemptPacks, SharedPack, StaleAttemptError
from services.chunker.parts.fetching import AgentLine, SpanRequest
from services.chunker.parts.mapping import PartMap
from services.chunker.parts.sample import report_overlooked
from services.chunker.surroundings import Surroundings

#: Chunks of one aligned MiB stay in one frame, so that reading 1 MiB back touches at most two.
_GROUP_CHUNKS = FRAME_PLAIN_SIZE_BYTES_MAX // CHUNK_SIZE_BYTES


@dataclass(slots=True)
class _Bench:
    """What a lane needs while it takes spans of this part."""

    connection: SpanConnection
    frame: OpenFrame


def attempt_packs(
    vault: KeyVault, attempt: UUID, view: SessionView, shared: SharedPack
) -> AttemptPacks:
    """What an attempt at a part of a session stores with.

    Args:
        vault: gives the keys.
        attempt: the attempt.
        view: its session.
        shared: with the other attempts of this chunker at parts of the session.

    Raises:
        WrongKeyError: the keys of one of the group's domains cannot be opened.
        UnavailableError: the store does not answer.
    """
    own, *others = view.domains
    return AttemptPacks(
        attempt,
        view.session,
        view.tenant,
        own.domain_no,
        vault.get(own.domain, own.key_id),
        Ledger(),
        [
            OtherDomain(
                other.domain_no,
                ChunkHasher(vault.get(other.domain, other.key_id).id_key),
                other.granted,
            )
            for other in others
        ],
        shared=shared,
    )


class PartWork:
    """Thread-safe: spans may be taken by several lanes at once; `finish` comes after all of them.

    Args:
        part: the part as the catalog has it.
        started: what the agent said when the capture began.
        packs: the attempt and its keys.
        around: what the chunker works with.
    """

    def __init__(
        self, part: PartView, started: CaptureStarted, packs: AttemptPacks, around: Surroundings
    ) -> None:
        self.part = part
        self.started = started
        self.packs = packs
        self._around = around
        self._hasher = ChunkHasher(packs.keys.id_key)
        self._line = AgentLine(part, started.boot, around.dial)
        self._idle_benches: list[_Bench] = []
        self._idle_frames: list[OpenFrame] = []
        #: Frames that other lanes store.
        self._shared: list[Future[None]] = []
        self._lock = threading.Lock()
        self._changed_bytes = 0
        self._sent_bytes = 0
        self._map = PartMap(part, started, packs, around)

    @property
    def progress(self) -> PartProgress:
        """Figures so far; what the agent has read is known at the end."""
        return PartProgress(
            size_bytes=self.started.volume_size_bytes,
            changed_bytes=self._changed_bytes,
            sent_bytes=self._sent_bytes,
            stored_bytes=self.packs.stored_bytes,
        )

    def take(self, event: Batch) -> None:
        """Take a span, or check a sample."""
        if isinstance(event, ExtentsChanged):
            self.take_span(event)
        else:
            self.check_sample(event)

    def take_span(self, event: ExtentsChanged) -> None:
        """Store what is new of a span and enter it in the block map.

        Raises:
            StaleAttemptError: another attempt has taken over.
            BadInputError: the event contradicts itself or the volume's size.
            ForbiddenError: it names a chunk of a domain that the tenant may not use.
            DamagedDataError: bytes do not match the ids they were announced with.
            SourceError: the agent cannot serve the capture any more.
            UnavailableError: the agent, the store or the catalog does not answer.
        """
        runs = unpack_runs(event.runs, self._map.size_chunks)
        ids = tagged_ids(event.tags, event.ids)
        check_tags(self.packs.others, event.tags)
        own = self._take_chunks(event.batch, runs, ids) if ids else {}
        self._map.enter(renamed(event, ids, own) if own else event, runs)

    def check_sample(self, event: UnchangedSampled) -> None:
        """Compare what the agent believes unchanged with the base.

        Raises:
            TrackingLostError: it has changed.
            BadInputError: the event contradicts itself or the volume's size.
        """
        if wrong := self._map.overlooked(event):
            report_overlooked(self._around.catalog, self.packs.tenant, self.part, wrong)
        self._map.pass_by(event.batch)

    def finish(self) -> MapRoot:
        """Hand the rest of the block map and of the frames to the packer; the map's root.

        The open pack stays open: other parts of the session may have something for it.
        """
        for bench in self._idle_benches:
            self._pass_on(bench.frame)
            bench.connection.close()
        root = self._map.finish()
        for stored in self._shared:
            stored.result()
        self._idle_benches, self._idle_frames = [], []
        return root

    def abandon(self) -> None:
        """Let go of connections, also of those that a lane waits for, and of the open pack."""
        self._around.packer.abandon(self.packs)
        self._line.close()

    def _take_chunks(
        self, batch: int, runs: Sequence[ChunkRun], ids: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        """Store what is new; of chunks that another domain lacks, their ids in the tenant's own."""
        fresh, lacking = self._missing(ids)
        wanted = self._wanted(ids, fresh | lacking)
        indexes = [index for run in runs for index in range(run.first, run.end)]
        asked = [
            (index, id_) for index, id_, want in zip(indexes, ids, wanted, strict=True) if want
        ]
        bench = self._borrow()
        request = SpanRequest(
            self._line, bench.connection, batch, wanted, [index for index, _ in asked]
        )
        try:
            own = self._receive(bench, request, asked, fresh, lacking)
        except BaseException:
            request.connection.close()
            raise
        bench.connection = request.connection
        with self._lock:
            self._idle_benches.append(bench)
            self._changed_bytes += len(ids) * CHUNK_SIZE_BYTES
            self._sent_bytes += len(asked) * CHUNK_SIZE_BYTES
        return own

    def _missing(self, ids: Sequence[bytes]) -> tuple[set[bytes], set[bytes]]:
        """Of these ids, those that this caller shall store, and those that another domain lacks."""
        packs, ledger = self.packs, self.packs.ledger
        unknown = ledger.unknown(ids)
        if not unknown:
            return set(), set()
        found = lookup_and_pin(
            self._around.catalog, packs.domains, packs.attempt, unknown, packs.pinned
        )
        if isinstance(found, Stale):
            raise StaleAttemptError
        ledger.locate({id_: pack for id_, pack in zip(unknown, found, strict=True) if pack})
        missing = [id_ for id_, pack in zip(unknown, found, strict=True) if not pack]
        lacking = set[bytes]() if are_all_own(missing) else {id_ for id_ in missing if tag_of(id_)}
        return ledger.claim(id_ for id_ in missing if id_ not in lacking), lacking

    def _wanted(self, ids: Sequence[bytes], needed: set[bytes]) -> list[bool]:
        """Which chunks the agent is asked for: each needed one once, and a sample of the others."""
        rate = 1 / self._around.known_chunk_sample
        wanted, taken = [], set[bytes]()
        for id_ in ids:
            first = id_ in needed and id_ not in taken
            taken.add(id_)
            wanted.append(first or (id_ not in needed and self._around.chance() < rate))
        return wanted

    def _receive(
        self,
        bench: _Bench,
        request: SpanRequest,
        asked: Sequence[tuple[int, bytes]],
        fresh: set[bytes],
        lacking: set[bytes],
    ) -> dict[bytes, bytes]:
        """Receive what was asked for, verify it, keep the fresh chunks in frames.

        Returns:
            for each chunk that another domain lacks, its id in the tenant's own.
        """
        own: dict[bytes, bytes] = {}
        if not asked:
            request.receive(memoryview(bytearray()))
        while (at := request.taken) < len(asked):
            group, end = asked[at][0] // _GROUP_CHUNKS, at + 1
            while end < len(asked) and asked[end][0] // _GROUP_CHUNKS == group:
                end += 1
            length = (end - at) * CHUNK_SIZE_BYTES
            if not bench.frame.has_room(length):
                bench.frame = self._pass_on(bench.frame)
            view = bench.frame.space(length)
            request.receive(view)
            ids = [id_ for _, id_ in asked[at:end]]
            self._verify(view, ids, asked[at][0])
            if lacking:
                names = self._own_names(view, ids, lacking)
                own |= names
                ids, claimed = self._claim(ids, names)
                bench.frame.keep_chunks(view, ids, fresh | claimed)
            else:
                bench.frame.keep_chunks(view, ids, fresh)
        return own

    def _own_names(
        self, view: memoryview, ids: Sequence[bytes], lacking: set[bytes]
    ) -> dict[bytes, bytes]:
        """Ids in the tenant's own domain of the chunks that another domain lacks."""
        return {
            id_: self._hasher.chunk_id(chunk)
            for id_, chunk in zip(ids, split_chunks(view), strict=True)
            if id_ in lacking
        }

    def _claim(
        self, ids: Sequence[bytes], names: Mapping[bytes, bytes]
    ) -> tuple[list[bytes], set[bytes]]:
        """Of renamed chunks, those that are to be stored: the own domain may have some already.

        Returns:
            the ids, with the new name at the one place where a chunk is to be kept; those names.
        """
        claimed, _ = self._missing(list(names.values()))
        left, named = set(claimed), []
        for id_ in ids:
            name = names.get(id_, id_)
            named.append(name if name in left else id_)
            left.discard(name)
        return named, claimed

    def _verify(self, view: memoryview, announced: Sequence[bytes], first: int) -> None:
        if not have_ids(self._hasher, self.packs.others, view, announced):
            raise DamagedDataError(
                f"volume {self.part.volume_name}: bytes near chunk {first} do not match the "
                f"ids that node {self.part.node} announced; the volume changed after it was "
                f"hashed, or the node is at fault"
            )

    def _pass_on(self, frame: OpenFrame) -> OpenFrame:
        """Store a frame, on another lane if one has nothing to do; returns an empty one.

        At the end of a capture one lane may have most of a span before it and the others nothing.
        """
        if not frame.fill:
            return frame
        future = self._around.share(lambda: self._store_and_release(frame))
        if future is None:
            store_frame(self._around.packer, self.packs, frame)
            return frame
        with self._lock:
            # One look at each: it may fail between two.
            kept = [one for one in self._shared if not one.done() or one.exception()]
            self._shared = [*kept, future]
            empty = self._idle_frames.pop() if self._idle_frames else OpenFrame()
        for one in kept:
            if one.done():
                one.result()
        return empty

    def _store_and_release(self, frame: OpenFrame) -> None:
        store_frame(self._around.packer, self.packs, frame)
        with self._lock:
            self._idle_frames.append(frame)

    def _borrow(self) -> _Bench:
        with self._lock:
            bench = self._idle_benches.pop() if self._idle_benches else None
        if bench and bench.connection.is_usable:
            return bench
        connection = self._line.connect_patiently()
        return _Bench(connection, bench.frame if bench else OpenFrame())
