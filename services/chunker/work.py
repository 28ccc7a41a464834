"""The work on one capture by one attempt: spans in, packs and a block map out.

Each span goes through `take_span` on one of the lanes: look up its ids, ask the agent for those
that are new, receive them straight into the frame that is being filled, hash them again, and put
what was found into the block map. When all batches of the capture are through, `finish` writes the
rest.
"""

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from libs.blockmap.node import NodeHasher, NodeId
from libs.blockmap.tagged import OWN_TAG, tagged_ids
from libs.blockmap.tree import MapRoot
from libs.blockmap.writer import MapChange, MapWriter
from libs.catalogdb.packs.index import count_by_pack, lookup_and_pin
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.attempts import Progress, Stale
from libs.catalogdb.sessions.session import PartView
from libs.errors import DamagedDataError, UnavailableError
from libs.events.block_changes import Batch, CaptureStarted, ExtentsChanged, UnchangedSampled
from libs.packs.chunk import ChunkHasher
from libs.packs.frame import compress
from libs.packs.layout import CHUNK_SIZE_BYTES, FRAME_PLAIN_SIZE_BYTES_MAX
from libs.packs.trailer import ItemKind
from libs.ranges import ChunkRun, runs_of, unpack_runs
from libs.reading.frames import FrameReader
from libs.reading.nodes import read_node
from libs.runtime.retries import retried
from libs.spans.connection import SpanConnection
from services.chunker.domains import check_found, check_tags, have_ids
from services.chunker.frames import OpenFrame
from services.chunker.packer import AttemptPacks, Packer, StaleAttemptError
from services.chunker.sample import overlooked, report_overlooked
from services.chunker.watermarks import Watermarks

_ID = 32
_OWN_DOMAIN = bytes([OWN_TAG])
#: Chunks of one aligned MiB stay in one frame, so that reading 1 MiB back touches at most two.
_GROUP_CHUNKS = FRAME_PLAIN_SIZE_BYTES_MAX // CHUNK_SIZE_BYTES
#: Departed ids are counted in batches of this size.
_DEPARTED_BATCH = 4096
#: A connection to the agent that breaks is dialled again for so long: a switch that reboots costs a
#: pause, not the session. An agent that was restarted refuses at once.
_REDIAL_SECONDS_MAX = 15.0


@dataclass(slots=True)
class _Lane:
    """What a thread needs while it takes spans of this capture."""

    connection: SpanConnection
    frame: OpenFrame


class CaptureWork:
    """Thread-safe: spans may be taken by several lanes at once; `finish` comes after all of them.

    Args:
        part: the part as the catalog has it.
        started: what the agent said when the capture began.
        packs: the attempt and its keys.
        catalog: the catalog.
        packer: stores frames.
        frames: reads the base's map nodes back.
        known_chunk_sample: one of so many known chunks is asked for and checked.
        share: begins a step on a lane that has nothing to do; None if there is none. It must not
            queue the step behind others, as `finish` waits for it.
        dial: connects to the agent.
    """

    def __init__(  # noqa: PLR0913 -- one capture's surroundings
        self,
        part: PartView,
        started: CaptureStarted,
        packs: AttemptPacks,
        catalog: Catalog,
        packer: Packer,
        frames: FrameReader,
        known_chunk_sample: int,
        share: Callable[[Callable[[], None]], Future[None] | None],
        dial: Callable[..., SpanConnection] = SpanConnection,
    ) -> None:
        self.part = part
        self.started = started
        self.packs = packs
        self._catalog = catalog
        self._packer = packer
        self._frames = frames
        self._sample_rate = 1 / known_chunk_sample
        self._share = share
        self._dial = dial
        self._hasher = ChunkHasher(packs.keys.id_key)
        self._size_chunks = -(-started.volume_size_bytes // CHUNK_SIZE_BYTES)
        self._idle_lanes: list[_Lane] = []
        self._idle_frames: list[OpenFrame] = []
        #: Frames that other lanes store.
        self._shared: list[Future[None]] = []
        self._connections: list[SpanConnection] = []
        self._lock = threading.Lock()
        self._changed_bytes = 0
        self._sent_bytes = 0
        self._watermarks = Watermarks()
        self._nodes = OpenFrame()
        self._map_lock = threading.Lock()
        self._node_hasher = NodeHasher(packs.keys.id_key)
        base_id = NodeId(part.base_root) if part.base_root else None
        self._base = MapRoot(base_id, part.base_level)
        self._map = MapWriter(
            self._node_hasher,
            base=self._base,
            base_size_chunks=-(-part.base_size_bytes // CHUNK_SIZE_BYTES),
            size_chunks=self._size_chunks,
            fetch=self._fetch_node,
            emit=self._emit_node,
            changed=self._count_change,
            complete=started.complete,
        )

    @property
    def progress(self) -> Progress:
        """Figures so far; what the agent has read is known at the end."""
        return Progress(
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
            ForbiddenError: it names a chunk of a domain that the tenant may not use, or that the
                domain does not have.
            DamagedDataError: bytes do not match the ids they were announced with.
            SourceError: the agent cannot serve the capture any more.
            UnavailableError: the agent, the store or the catalog does not answer.
        """
        runs = unpack_runs(event.runs, self._size_chunks)
        ids = tagged_ids(event.tags, event.ids)
        check_tags(self.packs.others, event.tags)
        if ids:
            self._take_chunks(event.batch, runs, ids)
        self._enter(event, runs)

    def check_sample(self, event: UnchangedSampled) -> None:
        """Compare what the agent believes unchanged with the base; TrackingLostError if not so."""
        fetch, hasher = self._fetch_node, self._node_hasher
        if wrong := overlooked(event, self._size_chunks, self._base, hasher, fetch):
            report_overlooked(self._catalog, self.packs.tenant, self.part, wrong)
        with self._map_lock:
            self._map.settle_below(self._watermarks.through(event.batch, 0))

    def finish(self) -> MapRoot:
        """Write the rest of the block map and of the packs; all is registered when it returns."""
        for lane in self._idle_lanes:
            self._pass_on(lane.frame)
            lane.connection.close()
        with self._map_lock:
            root = self._map.finish()
            self._flush(self._nodes)
        for stored in self._shared:
            stored.result()
        self._packer.flush(self.packs)
        self._count_departed(self.packs.ledger.take_departed(1))  # while the last pack is uploaded
        self._packer.finish(self.packs)
        return root

    def abandon(self) -> None:
        """Let go of connections, also of those that a lane waits for, and of the open pack."""
        self._packer.abandon(self.packs)
        with self._lock:
            for connection in self._connections:
                connection.close()

    def _take_chunks(self, batch: int, runs: Sequence[ChunkRun], ids: Sequence[bytes]) -> None:
        fresh = self._fresh(ids)
        indexes = [index for run in runs for index in range(run.first, run.end)]
        wanted, taken = [], set[bytes]()
        for id_ in ids:
            first = id_ in fresh and id_ not in taken
            taken.add(id_)
            wanted.append(first or (id_ not in fresh and random.random() < self._sample_rate))  # noqa: S311 -- a sample, no secret
        lane = self._borrow()
        asked = [
            (index, id_) for index, id_, want in zip(indexes, ids, wanted, strict=True) if want
        ]
        try:
            self._fetch(lane, batch, wanted, asked, fresh)
        except BaseException:
            lane.connection.close()
            raise
        with self._lock:
            self._idle_lanes.append(lane)
            self._changed_bytes += len(ids) * CHUNK_SIZE_BYTES
            self._sent_bytes += len(asked) * CHUNK_SIZE_BYTES

    def _fresh(self, ids: Sequence[bytes]) -> set[bytes]:
        """Of these ids, those that this caller shall store."""
        packs, ledger = self.packs, self.packs.ledger
        unknown = ledger.unknown(ids)
        if not unknown:
            return set()
        found = retried(
            lambda: lookup_and_pin(
                self._catalog, packs.domains, packs.attempt, unknown, packs.pinned
            )
        )
        if isinstance(found, Stale):
            raise StaleAttemptError
        ledger.locate({id_: pack for id_, pack in zip(unknown, found, strict=True) if pack})
        missing = [id_ for id_, pack in zip(unknown, found, strict=True) if not pack]
        check_found(missing)
        return ledger.claim(missing)

    def _fetch(
        self,
        lane: _Lane,
        batch: int,
        wanted: list[bool],
        asked: Sequence[tuple[int, bytes]],
        fresh: set[bytes],
    ) -> None:
        """Ask for chunks and take them in; a connection that breaks is dialled again for the rest.

        The agent may have let go of the span, or not: it is asked the same way, and reads the
        chunks again if they have left its window.
        """
        positions = [position for position, want in enumerate(wanted) if want]
        taken, is_asked = 0, False

        def receive_into(view: memoryview) -> None:
            nonlocal is_asked
            try:
                if not is_asked:
                    self._ask(lane, batch, len(wanted), positions[taken:], asked[taken:])
                    is_asked = True
                lane.connection.receive_into(view)
            except UnavailableError:
                is_asked = False
                lane.connection.close()
                raise

        if not asked:  # then the agent is told just that
            retried(lambda: receive_into(memoryview(bytearray())), _REDIAL_SECONDS_MAX)
        while taken < len(asked):
            taken = self._receive(lane, asked, taken, fresh, receive_into)

    def _ask(
        self,
        lane: _Lane,
        batch: int,
        count: int,
        positions: Sequence[int],
        asked: Sequence[tuple[int, bytes]],
    ) -> None:
        if not lane.connection.is_usable:
            lane.connection = self._connect()
        wanted = set(positions)
        if not lane.connection.want(batch, [at in wanted for at in range(count)], CHUNK_SIZE_BYTES):
            runs = list(runs_of(index for index, _ in asked))
            lane.connection.reread(runs, CHUNK_SIZE_BYTES)

    def _receive(
        self,
        lane: _Lane,
        asked: Sequence[tuple[int, bytes]],
        at: int,
        fresh: set[bytes],
        receive_into: Callable[[memoryview], None],
    ) -> int:
        """Receive one MiB's chunks, verify them, keep the fresh ones; the position behind them."""
        group = asked[at][0] // _GROUP_CHUNKS
        end = at + 1
        while end < len(asked) and asked[end][0] // _GROUP_CHUNKS == group:
            end += 1
        length = (end - at) * CHUNK_SIZE_BYTES
        if not lane.frame.has_room(length):
            lane.frame = self._pass_on(lane.frame)
        view = lane.frame.space(length)
        retried(lambda: receive_into(view), _REDIAL_SECONDS_MAX)
        ids = [id_ for _, id_ in asked[at:end]]
        self._verify(view, ids, asked[at][0])
        lane.frame.keep_chunks(view, ids, fresh)
        return end

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
        future = self._share(lambda: self._flush_and_release(frame))
        if future is None:
            self._flush(frame)
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

    def _flush_and_release(self, frame: OpenFrame) -> None:
        self._flush(frame)
        with self._lock:
            self._idle_frames.append(frame)

    def _flush(self, frame: OpenFrame) -> None:
        """Compress a frame and give it to the packer."""
        if frame.fill:
            self._packer.store(self.packs, compress(frame.filled), frame.items)
            frame.clear()

    def _enter(self, event: ExtentsChanged, runs: Sequence[ChunkRun]) -> None:
        """Enter a batch in the block map; nodes that no later batch can change are written."""
        with self._map_lock:
            at, tags = 0, event.tags or _OWN_DOMAIN * (len(event.ids) // _ID)
            for run in runs:
                end = at + run.count
                self._map.put(run.first, tags[at:end], event.ids[at * _ID : end * _ID])
                at = end
            for run in unpack_runs(event.zero_runs, self._size_chunks):
                self._map.clear(run.first, run.count)
            self._map.settle_below(self._watermarks.through(event.batch, event.settled_below))

    def _emit_node(self, node_id: NodeId, encoded: bytes) -> None:
        """Keep a new map node for packing; called by the map writer, under the map's lock.

        A node of this attempt is written once: what lies below it is pinned by the same attempt.
        Nodes of others are never looked for (scenario 3).
        """
        if not self.packs.ledger.claim([node_id]):
            return
        if not self._nodes.has_room(len(encoded)):
            self._flush(self._nodes)
        self._nodes.space(len(encoded))[:] = encoded
        self._nodes.keep(ItemKind.NODE, node_id, len(encoded))

    def _fetch_node(self, node_id: NodeId) -> bytes:
        return read_node(self._catalog, self._frames, self.packs.domain_no, node_id)

    def _count_change(self, change: MapChange) -> None:
        """Count a settled place of the map; called by the map writer.

        Departed ids are looked up as they come: a volume that shrinks by a tebibyte has 16 million.
        """
        self.packs.ledger.settled(change)
        self._count_departed(self.packs.ledger.take_departed(_DEPARTED_BATCH))

    def _count_departed(self, ids: list[bytes]) -> None:
        if ids:
            counts = retried(lambda: count_by_pack(self._catalog, self.packs.domains, ids))
            self.packs.ledger.departed(counts)

    def _borrow(self) -> _Lane:
        with self._lock:
            lane = self._idle_lanes.pop() if self._idle_lanes else None
        if lane and lane.connection.is_usable:
            return lane
        connection = retried(self._connect, _REDIAL_SECONDS_MAX)
        return _Lane(connection, lane.frame if lane else OpenFrame())

    def _connect(self) -> SpanConnection:
        part = self.part
        connection = self._dial(part.span_address, part.capture, self.started.boot, part.token)
        with self._lock:
            self._connections.append(connection)
            over = self.packs.over
        if over:  # `abandon` may have been before us
            connection.close()
            raise StaleAttemptError
        return connection
