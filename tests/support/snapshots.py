"""Sealed snapshots for tests, made of bytes in memory by the chunker's own code, without Kafka."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from uuid import UUID

from libs.blockmap.tagged import OWN_TAG
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.protected import Volume, add_volume
from libs.catalogdb.sessions.attempts import CaptureBegun
from libs.catalogdb.sessions.sealing import Sealed
from libs.catalogdb.sessions.session import PartView, SessionView, open_session, read_session
from libs.copies.stores import Stores
from libs.events.batches import BatchesDigest
from libs.events.block_changes import CaptureCompleted, CaptureStarted, ExtentsChanged
from libs.ids import uuid7
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.chunk import ZERO_CHUNK, ChunkHasher
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun, pack_runs, runs_of
from libs.reading.frames import FrameReader
from libs.spans.connection import SpanConnection
from libs.store.port import ObjectStore
from services.change_capture.coordinator.tenants import ensure_tenant
from services.chunker.packer import Packer, SharedPack
from services.chunker.parts.nodes import KnownNodes
from services.chunker.parts.work import PartWork, attempt_packs
from services.chunker.sealer import Sealer, StoredPart
from services.chunker.surroundings import Surroundings
from tests.support.catalog import BOOT, NODE, CatalogSite, Worker, cut

#: Begins a step of a capture's work on another lane, or does not.
Share = Callable[[Callable[[], None]], Future[None] | None]
#: Domain tag under which the test's agent announces a chunk.
TagOf = Callable[[bytes], int]
_SPAN_CHUNKS = 128
_DEADLINE_SECONDS = 600


class SnapshotTaker:
    """Takes snapshots of volumes whose content is given.

    Args:
        site: the catalog.
        store: where packs and manifests go.
        kek: wraps the keys of domains.
        share: what a lane may leave to others; by default one lane does everything.
    """

    def __init__(
        self,
        site: CatalogSite,
        store: ObjectStore,
        kek: KeyEncryptionKey,
        share: Share = lambda _step: None,
    ) -> None:
        self._site = site
        self._share = share
        self._vault = KeyVault(store, kek)
        self._packer = Packer(site.chunker, Stores(store), buffer_count_max=2)
        self._frames = FrameReader(Stores(store), self._vault)
        self._sealer = Sealer(site.chunker, store, self._vault)

    def protect(self, tenant: str, group: str, *volumes: str) -> list[Volume]:
        """A group of volumes on the test's node."""
        ensure_tenant(self._site.coordinator, self._vault, tenant)
        announce_node(self._site.coordinator, NODE)
        return [
            add_volume(self._site.coordinator, tenant, name, group, NODE.name, f"/dev/{name}")
            for name in volumes
        ]

    def take(
        self,
        tenant: str,
        group: str,
        contents: Mapping[str, bytes],
        tag_of: TagOf = lambda _chunk: OWN_TAG,
    ) -> SessionView:
        """A sealed snapshot of a group, given the content of each of its volumes."""
        view = open_session(
            self._site.coordinator, tenant, group, uuid7(), _DEADLINE_SECONDS, full=False
        )
        assert isinstance(view, SessionView)
        cut(self._site, view)
        self.fill(view, contents, tag_of)
        assert isinstance(self._sealer.seal(view.session), Sealed)
        return read_session(self._site.coordinator, view.session)

    def fill(
        self,
        view: SessionView,
        contents: Mapping[str, bytes],
        tag_of: TagOf = lambda _chunk: OWN_TAG,
    ) -> None:
        """Do all of an open session but the seal."""
        for number, part in enumerate(view.parts):
            worker = Worker(self._site, view, number)
            self._capture(worker.attempt, view, part, contents[part.volume_name], tag_of)

    def _capture(
        self, attempt: UUID, view: SessionView, part: PartView, content: bytes, tag_of: TagOf
    ) -> None:
        chunks = _chunks_of(content)
        started = started_of(view, part, len(content))
        packs = attempt_packs(self._vault, attempt, view, SharedPack())

        def dial(*_: object) -> SpanConnection:
            return MemorySpans(chunks)

        around = Surroundings(
            catalog=self._site.chunker,
            vault=self._vault,
            packer=self._packer,
            nodes=KnownNodes(self._site.chunker, self._frames),
            known_chunk_sample=128,
            share=self._share,
            dial=dial,
        )
        hashers = [ChunkHasher(packs.keys.id_key), *[other.hasher for other in packs.others]]
        work = PartWork(part, started, packs, around)
        for batch, start in enumerate(range(0, len(chunks), _SPAN_CHUNKS)):
            indexes = _indexes_of(chunks, batch)
            tags = bytes(tag_of(chunks[index]) for index in indexes)
            named = zip(tags, [chunks[index] for index in indexes], strict=True)
            work.take_span(
                ExtentsChanged(
                    session=view.session,
                    capture=part.capture,
                    volume=part.volume,
                    batch=batch,
                    runs=pack_runs(runs_of(indexes)),
                    # A claim of a domain that is not in the list is made with any id.
                    ids=b"".join(
                        hashers[min(tag, len(hashers) - 1)].chunk_id(chunk) for tag, chunk in named
                    ),
                    zero_runs=b"",
                    settled_below=start,
                    tags=tags if any(tags) else b"",
                )
            )
        root = work.finish()
        self._packer.flush(packs)
        self._sealer.count_departed([work])
        self._packer.finish(packs)
        completed = completed_of(started, BatchesDigest())
        begun = CaptureBegun(BOOT, 0, 0)
        assert not self._sealer.finish_parts([StoredPart(work, begun, root, completed)]).stale


def started_of(
    view: SessionView, part: PartView, size_bytes: int = CHUNK_SIZE_BYTES, boot: UUID = BOOT
) -> CaptureStarted:
    """What an agent says when it begins to capture a part in full."""
    return CaptureStarted(
        session=view.session,
        capture=part.capture,
        tenant=view.tenant,
        group=view.group_id,
        volume=part.volume,
        node=part.node,
        base=view.base,
        boot=boot,
        complete=True,
        tracking="none",
        volume_size_bytes=size_bytes,
        chunk_size_bytes=CHUNK_SIZE_BYTES,
    )


def completed_of(started: CaptureStarted, digest: BatchesDigest) -> CaptureCompleted:
    """What an agent says when it has published these batches."""
    return CaptureCompleted(
        session=started.session,
        capture=started.capture,
        volume=started.volume,
        batches=digest.count,
        batches_digest=digest.digest(),
        changed_bytes=0,
        read_bytes=0,
        consistency="quiet",
        seconds=0.0,
    )


class MemorySpans(SpanConnection):
    """A span connection to an agent that has everything in memory; it never loses a span."""

    def __init__(self, chunks: Sequence[bytes]) -> None:  # no socket
        self._chunks = chunks
        self._queue = b""

    @property
    def is_usable(self) -> bool:
        return True

    def want(self, batch: int, wanted: Sequence[bool], chunk_size_bytes: int) -> bool:
        indexes = _indexes_of(self._chunks, batch)
        self._queue = b"".join(
            self._chunks[index] for index, want in zip(indexes, wanted, strict=True) if want
        )
        return True

    def reread(self, runs: Sequence[ChunkRun], chunk_size_bytes: int) -> None:
        raise AssertionError("want always has the span")

    def receive_into(self, buffer: memoryview) -> None:
        buffer[:], self._queue = self._queue[: len(buffer)], self._queue[len(buffer) :]

    def close(self) -> None:
        pass


def _chunks_of(content: bytes) -> list[bytes]:
    return [
        content[at : at + CHUNK_SIZE_BYTES].ljust(CHUNK_SIZE_BYTES, b"\0")
        for at in range(0, len(content), CHUNK_SIZE_BYTES)
    ]


def _indexes_of(chunks: Sequence[bytes], batch: int) -> list[int]:
    """Chunks of a span that are not zero."""
    start = batch * _SPAN_CHUNKS
    end = min(start + _SPAN_CHUNKS, len(chunks))
    return [index for index in range(start, end) if chunks[index] != ZERO_CHUNK]
