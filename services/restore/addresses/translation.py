"""Address translation: source address → logical address → chunk → storage address, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from libs.blockmap.node import ID_SIZE_BYTES, MapRun
from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.snapshots.leases import resolve_pack
from libs.copies.stores import STORE_NAMES, Copy, Stores, object_key
from libs.errors import BadInputError, DamagedDataError, NotFoundError
from libs.keys.opening import read_known_pack
from libs.packs.layout import CHUNK_SIZE_BYTES, split_place
from libs.packs.trailer import Item, ItemKind
from libs.ranges import ChunkRun, runs_of
from libs.reading.frames import frame_entry
from libs.reading.volume import VolumeReader, VolumeReaders

#: Chunks that one call of `find_addresses` looks through: 64 GiB of volume, 36 MiB of map.
_SCAN_CHUNK_COUNT_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """A byte of a disk or file on a node."""

    node: str
    path: str
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class LogicalAddress:
    """A byte of a volume; it never changes."""

    volume: str
    offset_bytes: int
    chunk_index: int


@dataclass(frozen=True, slots=True)
class StorageAddress:
    """A byte in a pack, and where the object has its frame; it changes when packs are rewritten."""

    #: Name of the pack, 32 hexadecimal digits.
    generation: str
    frame: int
    #: Byte offset in the plain frame.
    position: int
    #: The same in every store.
    object_key: str
    #: Names of the stores that have a copy of it, in the order in which they are read.
    copies: tuple[str, ...]
    frame_offset_bytes: int
    frame_size_bytes: int


@dataclass(frozen=True, slots=True)
class Translation:
    """A byte on its way from the source down to the store."""

    #: Number of the snapshot.
    sequence: int
    source: SourceAddress
    logical: LogicalAddress
    #: Chunk id in hexadecimal, or "zero".
    chunk: str
    #: The domain in which the id names the chunk; None for zeros.
    domain: UUID | None
    #: None for zeros, which are stored nowhere.
    storage: StorageAddress | None


@dataclass(frozen=True, slots=True)
class AddressRun:
    """The same byte in consecutive chunks."""

    #: Of the byte in the first of the chunks.
    offset_bytes: int
    chunk_index: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class Addresses:
    """What of a volume at a recovery point resolves to a storage address."""

    #: "chunk", or "node": a part of a block map, which has no logical address.
    kind: str
    #: Id of the chunk or node in hexadecimal.
    id: str
    #: Ascending.
    addresses: list[AddressRun]
    #: Where to look on; None when the volume's end was reached.
    next_first_chunk: int | None


def translate(volume: VolumeReader, offset_bytes: int) -> Translation:
    """Translate a byte of a volume down to the store.

    Raises:
        BadInputError: the volume ends before this offset.
    """
    point = volume.point
    if not 0 <= offset_bytes < point.size_bytes:
        raise BadInputError(
            f"offset {offset_bytes}: volume {point.label} has {point.size_bytes} bytes"
        )
    index, within = divmod(offset_bytes, CHUNK_SIZE_BYTES)
    placed = volume.locate(ChunkRun(index, 1))
    return Translation(
        sequence=point.sequence,
        source=SourceAddress(point.node, point.path, offset_bytes),
        logical=LogicalAddress(point.name, offset_bytes, index),
        chunk=placed[0].id.hex() if placed else "zero",
        domain=placed[0].pack.domain if placed else None,
        storage=_storage_address(placed[0].pack, placed[0].place, within) if placed else None,
    )


def find_addresses(
    readers: VolumeReaders,
    stores: Stores,
    volume: VolumeReader,
    address: tuple[UUID, int, int],
    first_chunk: int,
) -> Addresses:
    """Translate a storage address up to the volume. Looks through a bounded part of the block map.

    Args:
        readers: gives the catalog and the keys.
        stores: hold the pack, whose trailer says what lies at the address.
        volume: where to look for it.
        address: generation, frame number, byte offset in the plain frame.
        first_chunk: where to begin looking.

    Raises:
        NotFoundError: no live pack of the volume's domains has something there.
    """
    generation, frame, position = address
    pack = resolve_pack(
        readers.catalog,
        volume.lease,
        volume.point.domain_nos,
        generation,
        readers.deadline_seconds,
    )
    item = _item_at(_items_of(pack, readers, stores), pack, frame, position)
    end_of_volume = -(-volume.point.size_bytes // CHUNK_SIZE_BYTES)
    end = min(end_of_volume, first_chunk + _SCAN_CHUNK_COUNT_MAX)
    runs: list[ChunkRun] = []
    if item.kind is ItemKind.CHUNK and first_chunk < end:
        found = volume.lookup(ChunkRun(first_chunk, end - first_chunk))
        tag = volume.point.domains.index(pack.domain)
        runs = list(runs_of(_indexes_of(tag, item.id, found)))
        if runs and not _resolves_to(volume, runs[0].first, pack, item):
            runs = []  # the index has another copy, and this one is on its way out
    within = position - split_place(item.place)[1]
    return Addresses(
        kind=item.kind.name.lower(),
        id=item.id.hex(),
        addresses=[
            AddressRun(run.first * CHUNK_SIZE_BYTES + within, run.first, run.count) for run in runs
        ],
        next_first_chunk=end if end < end_of_volume else None,
    )


def _storage_address(pack: PackLocation, place: int, within: int) -> StorageAddress:
    number, position = split_place(place)
    entry = frame_entry(pack, number)
    return StorageAddress(
        generation=pack.generation.hex,
        frame=number,
        position=position + within,
        object_key=object_key(pack),
        copies=tuple(STORE_NAMES[store_no] for store_no in pack.copies),
        frame_offset_bytes=entry.offset,
        frame_size_bytes=entry.stored_size_bytes,
    )


def _items_of(pack: PackLocation, readers: VolumeReaders, stores: Stores) -> tuple[Item, ...]:
    def read(copy: Copy) -> tuple[Item, ...]:
        return read_known_pack(pack, copy.get_range, readers.vault).items

    try:
        return stores.read(pack, read)
    except NotFoundError as err:  # pinned, so the store has lost it
        raise DamagedDataError(f"pack {pack.generation.hex}: {err}") from err


def _item_at(items: tuple[Item, ...], pack: PackLocation, frame: int, position: int) -> Item:
    for item in items:
        number, start = split_place(item.place)
        if number == frame and start <= position < start + item.size_bytes:
            return item
    raise NotFoundError(
        f"pack {pack.generation.hex}: nothing lies at byte {position} of frame {frame}"
    )


def _indexes_of(tag: int, id_: bytes, runs: Iterator[MapRun]) -> Iterator[int]:
    for run in runs:
        at = run.ids.find(id_)
        while at >= 0:
            position, rest = divmod(at, ID_SIZE_BYTES)
            if rest == 0 and run.tags[position] == tag:
                yield run.first + position
            at = run.ids.find(id_, at + 1)


def _resolves_to(volume: VolumeReader, index: int, pack: PackLocation, item: Item) -> bool:
    (placed,) = volume.locate(ChunkRun(index, 1))
    return (placed.pack.pack_no, placed.place) == (pack.pack_no, item.place)
