"""Volumes at recovery points: where each chunk lies, and any range of bytes, verified.

Whatever is read is pinned by a lease first (scenario 29), so nothing that is being read goes away.
"""

import contextlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from libs.blockmap.node import MapRun, NodeHasher, NodeId, node_size_bytes
from libs.blockmap.tagged import tagged_ids
from libs.blockmap.tree import MapReader, MapRoot, span_chunks
from libs.catalogdb.packs.damage import WHOLE_PACK, record_damage
from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.pool import Catalog
from libs.catalogdb.snapshots.leases import close_lease, open_lease, resolve
from libs.catalogdb.snapshots.points import SnapshotVolume
from libs.errors import BackcastError, DamagedDataError, NotFoundError, WrongKeyError
from libs.ids import uuid7
from libs.keys.vault import KeyVault
from libs.packs.chunk import ChunkHasher
from libs.packs.layout import CHUNK_ID_SIZE_BYTES, CHUNK_SIZE_BYTES, split_place
from libs.ranges import ByteRange, ChunkRun
from libs.reading.frames import FrameReader, Tally

#: Places of map nodes that a volume's reader remembers; a level of 512 nodes is located at once.
_NODE_PLACES_MAX = 4096


class PlacedChunk(NamedTuple):
    """A chunk of a volume that is not all zeros, and where it is stored."""

    chunk_index: int
    #: 32 bytes, which name it in the pack's domain.
    id: bytes
    pack: PackLocation
    #: frame number << 20 | byte offset within the plain frame.
    place: int


class VolumeReaders:
    """Opens volumes at recovery points for reading. Thread-safe.

    Args:
        catalog: the catalog, in a role that may pin.
        vault: gives the keys of domains.
        nodes: reads frames of map nodes.
        chunks: reads frames of chunks; apart, so that reading much leaves the maps in memory.
        deadline_seconds: a volume that is not read from for so long loses its pins.
    """

    def __init__(
        self,
        catalog: Catalog,
        vault: KeyVault,
        nodes: FrameReader,
        chunks: FrameReader,
        deadline_seconds: float,
    ) -> None:
        self.catalog = catalog
        self.vault = vault
        self.nodes = nodes
        self.chunks = chunks
        self.deadline_seconds = deadline_seconds

    @contextlib.contextmanager
    def open(self, point: SnapshotVolume) -> Iterator["VolumeReader"]:
        """Read a volume while the context lasts, under a lease of its own.

        Raises:
            NotFoundError: the snapshot is no longer live.
            WrongKeyError: the key-encryption key at hand does not open the domain's keys.
        """
        lease = uuid7()
        open_lease(self.catalog, lease, point, self.deadline_seconds, announce=False)
        try:
            yield self.join(point, lease)
        finally:
            close_lease(self.catalog, lease)

    def join(self, point: SnapshotVolume, lease: UUID) -> "VolumeReader":
        """Read a volume under a lease that somebody has opened and will close."""
        return VolumeReader(self, point, lease)


class VolumeReader:
    """One volume at one recovery point. Thread-safe.

    Every method may raise:
        NotFoundError: the lease was closed, or its deadline has passed.
        DamagedDataError: what is stored is not what it must be; it is never returned.
        WrongKeyError: the keys at hand do not open a pack.
        UnavailableError: the catalog or the store does not answer.
    """

    def __init__(self, readers: VolumeReaders, point: SnapshotVolume, lease: UUID) -> None:
        self.point = point
        #: What it pins belongs to this lease.
        self.lease = lease
        #: Counts the frames that were fetched for this volume.
        self.tally = Tally()
        self._readers = readers
        self._root = root_of(point)
        #: Keys the identity of map nodes, and of chunks in the tenant's own domain.
        self.id_key = readers.vault.get(point.domain, point.key_id).id_key
        #: Domain → what names its chunks; those that were met.
        self._hashers = {point.domain: ChunkHasher(self.id_key)}
        self._map = MapReader(NodeHasher(self.id_key), self._fetch_node)
        self._node_places: dict[bytes, tuple[PackLocation, int]] = {}

    def lookup(self, wanted: ChunkRun) -> Iterator[MapRun]:
        """The chunks of ``wanted`` that are not zero, as ascending runs.

        Goes down level by level, so that each level's nodes are located in one transaction.
        """
        subtrees = [] if self._root.node_id is None else [(0, self._root)]
        for level in range(self._root.level, 0, -1):
            self._locate_nodes([subtree for _, subtree in subtrees])
            span = span_chunks(level - 1)
            subtrees = [
                (start + slot * span, child)
                for start, subtree in subtrees
                for slot, child in self._map.children(subtree, level).items()
                if start + slot * span < wanted.end and wanted.first < start + (slot + 1) * span
            ]
        self._locate_nodes([leaf for _, leaf in subtrees])
        for start, leaf in subtrees:
            first = max(wanted.first - start, 0)
            for run in self._map.lookup(leaf, ChunkRun(first, wanted.end - start - first)):
                yield MapRun(start + run.first, run.tags, run.ids)

    def next_chunk(self, first: int) -> int:
        """The first chunk from ``first`` on that is not zero; the number of chunks if none is.

        Reads one node of each level, or two, however long the gap is.
        """
        end = -(-self.point.size_bytes // CHUNK_SIZE_BYTES)
        if first >= end:
            return end
        found = next(self._map.lookup(self._root, ChunkRun(first, end - first)), None)
        return end if found is None else found.first

    def changes_since(self, older: SnapshotVolume, first: int) -> Iterator[ChunkRun]:
        """Where this point differs from another one of the volume, from chunk ``first`` on.

        ``older``, which may be newer, must be pinned by the caller.
        """
        return self._map.diff(root_of(older), self._root, first)

    def ids_since(self, older: SnapshotVolume | None) -> Iterator[list[bytes]]:
        """Tagged ids of the nodes and chunks that this point has where another has other nodes.

        A batch per node, an id for each place that it has; chunks that did not change come along
        with changed ones of their leaf. Memory is that of one node of each level.

        Args:
            older: a point of the same volume that the caller has pinned; None: all ids.
        """
        old = root_of(older) if older else MapRoot(None, 0)
        self._locate_nodes([old, self._root])
        yield from self._ids_since(old, self._root, max(old.level, self._root.level))

    def locate(self, wanted: ChunkRun) -> list[PlacedChunk]:
        """Where the chunks of ``wanted`` that are not zero are stored, ascending; pins the packs.

        One transaction, however many chunks: some ten thousand are a good bound.
        """
        runs = list(self.lookup(wanted))
        indexes = [index for run in runs for index in range(run.first, run.first + run.chunk_count)]
        ids = [id_ for run in runs for id_ in tagged_ids(run.tags, run.ids)]
        if not ids:
            return []
        found = self._resolve(ids)
        return [
            PlacedChunk(index, id_[:CHUNK_ID_SIZE_BYTES], pack, place)
            for index, id_, (pack, place) in zip(indexes, ids, found, strict=True)
        ]

    def read(self, placed: Sequence[PlacedChunk], wanted: ByteRange) -> bytes:
        """The bytes of ``wanted``; every chunk is compared with its id.

        Args:
            placed: what `locate` gave for chunks that include those of ``wanted``.
            wanted: some megabytes at most; they are in memory at once.
        """
        buffer = bytearray(wanted.length)
        first = bisect_left(placed, wanted.start // CHUNK_SIZE_BYTES, key=_index_of)
        end = bisect_left(placed, -(-wanted.end // CHUNK_SIZE_BYTES), key=_index_of)
        for (_, number), chunks in groupby(sorted(placed[first:end], key=_frame_of), key=_frame_of):
            self._read_frame(number, list(chunks), wanted, buffer)
        return bytes(buffer)

    def _ids_since(self, old: MapRoot, new: MapRoot, level: int) -> Iterator[list[bytes]]:
        if new.node_id is None or new.node_id == old.node_id:
            return
        if new.level == level:  # else this node exists only in thought
            yield [new.node_id]
        if level == 0:
            leaf = self._map.node(new.node_id, 0)
            yield tagged_ids(leaf.tags, leaf.ids)
            return
        olds, news = self._map.children(old, level), self._map.children(new, level)
        nothing = MapRoot(None, level - 1)
        changed = [
            (was, now)
            for slot, now in news.items()
            if (was := olds.get(slot, nothing)).node_id != now.node_id
        ]
        self._locate_nodes([now for _, now in changed])
        if level > 1:  # old leaves are not read
            self._locate_nodes([was for was, _ in changed])
        for was, now in changed:
            yield from self._ids_since(was, now, level - 1)

    def _read_frame(
        self, number: int, chunks: Sequence[PlacedChunk], wanted: ByteRange, buffer: bytearray
    ) -> None:
        plain = memoryview(self._frame(number, chunks))
        hasher = self._hasher_of(chunks[0].pack)
        for chunk in chunks:
            position = split_place(chunk.place)[1]
            content = plain[position : position + CHUNK_SIZE_BYTES]
            if hasher.chunk_id(content) != chunk.id:
                damage = DamagedDataError(
                    f"{self._where(chunk)}: its bytes in frame {number} of pack "
                    f"{chunk.pack.generation.hex} are not those of chunk {chunk.id.hex()}"
                )
                self._report(chunk.pack, [chunk.id], damage)
                raise damage
            at = chunk.chunk_index * CHUNK_SIZE_BYTES
            start, end = max(at, wanted.start), min(at + CHUNK_SIZE_BYTES, wanted.end)
            buffer[start - wanted.start : end - wanted.start] = content[start - at : end - at]

    def _frame(self, number: int, chunks: Sequence[PlacedChunk]) -> bytes:
        pack = chunks[0].pack
        try:
            return self._twice(lambda: self._readers.chunks.frame(pack, number, self.tally))
        except WrongKeyError:
            raise
        except (DamagedDataError, NotFoundError) as err:
            self._report(pack, [chunk.id for chunk in chunks], err)
            raise DamagedDataError(f"{self._where(chunks[0])}: {err}") from err

    def _twice(self, read: Callable[[], bytes]) -> bytes:
        """Read again what looks damaged or gone: the answer may have been wrong."""
        try:
            return read()
        except WrongKeyError:
            raise
        except (DamagedDataError, NotFoundError):
            return read()

    def _report(self, pack: PackLocation, items: list[bytes], err: BackcastError) -> None:
        """Record what was found damaged, so that the next capture stores it anew.

        The pack is pinned: if its object is gone, the store has lost it. Whoever reads learns of
        the damage by an error anyway, so that it cannot be recorded now is no error of its own.
        """
        gone = isinstance(err, NotFoundError)
        with contextlib.suppress(BackcastError):
            record_damage(
                self._readers.catalog, pack.pack_no, [WHOLE_PACK] if gone else items, str(err)
            )

    def _where(self, chunk: PlacedChunk) -> str:
        return f"volume {self.point.label} at byte {chunk.chunk_index * CHUNK_SIZE_BYTES}"

    def _resolve(self, ids: Sequence[bytes]) -> list[tuple[PackLocation, int]]:
        readers, point = self._readers, self.point
        resolved = resolve(
            readers.catalog, self.lease, point.domain_nos, ids, readers.deadline_seconds
        )
        return [(resolved.packs[pack_no], place) for pack_no, place in resolved.locations]

    def _locate_nodes(self, subtrees: Sequence[MapRoot]) -> None:
        if len(self._node_places) > _NODE_PLACES_MAX:
            self._node_places.clear()
        ids = [one.node_id for one in subtrees if one.node_id not in self._node_places]
        unknown = [node_id for node_id in ids if node_id is not None]
        if unknown:
            self._node_places.update(zip(unknown, self._resolve(unknown), strict=True))

    def _fetch_node(self, node_id: NodeId) -> bytes:
        pack, place = self._node_places.get(node_id) or self._resolve([node_id])[0]
        try:
            item = self._twice(lambda: self._readers.nodes.item(pack, place, self.tally))
        except WrongKeyError:
            raise
        except (DamagedDataError, NotFoundError) as err:
            self._report(pack, [node_id], err)
            raise DamagedDataError(f"block map of volume {self.point.label}: {err}") from err
        return item[: node_size_bytes(item)]

    def _hasher_of(self, pack: PackLocation) -> ChunkHasher:
        """What names the chunks of the pack's domain, whichever data key sealed it."""
        hasher = self._hashers.get(pack.domain)
        if hasher is None:
            id_key = self._readers.vault.get(pack.domain, pack.key_id).id_key
            hasher = self._hashers.setdefault(pack.domain, ChunkHasher(id_key))
        return hasher


def root_of(point: SnapshotVolume) -> MapRoot:
    """The root of a volume's block map at a recovery point."""
    return MapRoot(NodeId(point.root) if point.root else None, point.root_level)


def chunks_of(wanted: ByteRange) -> ChunkRun:
    """The chunks that hold a range of a volume; the range is not empty."""
    first = wanted.start // CHUNK_SIZE_BYTES
    return ChunkRun(first, -(-wanted.end // CHUNK_SIZE_BYTES) - first)


def _index_of(chunk: PlacedChunk) -> int:
    return chunk.chunk_index


def _frame_of(chunk: PlacedChunk) -> tuple[int, int]:
    return chunk.pack.pack_no, split_place(chunk.place)[0]
