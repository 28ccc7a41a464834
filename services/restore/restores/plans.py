"""Plans of whole restores: what whoever restores needs to read packs from the store by itself.

A plan comes in windows of chunks. A window names the packs that hold its chunks, each with a
presigned URL and the key of that one pack, and says of every chunk that is not zero where in
which pack it lies.
"""

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from libs.catalogdb.packs.index import PackLocation
from libs.catalogdb.snapshots.readers import PlannedWindow
from libs.keys.vault import KeyVault
from libs.packs.layout import split_place
from libs.packs.trailer import FrameEntry
from libs.ranges import ChunkRun, pack_runs, runs_of
from libs.reading.frames import frame_entry
from libs.reading.volume import VolumeReader
from libs.store.layout import pack_object

#: Chunks of one window: 2 GiB of volume. Pack ordinals are 16 bits wide.
WINDOW_CHUNK_COUNT_MAX = 32_768


@dataclass(frozen=True, slots=True)
class PlannedPack:
    """A pack of a window: where its object is, what opens it, and the frames that are needed."""

    generation: str
    #: A presigned read, a secret until it expires.
    url: str
    size_bytes: int
    #: 32 bytes that open this pack and no other.
    key: bytes
    #: Frame number → where it lies in the object.
    frames: dict[int, FrameEntry]


@dataclass(frozen=True, slots=True)
class PlanWindow:
    """One window of a plan. Chunks that are not in it are zero."""

    wanted: ChunkRun
    packs: list[PlannedPack]
    #: Chunk indexes as `libs.ranges.pack_runs` writes them; the other columns follow their order.
    runs: bytes
    #: Chunk ids, 32 bytes each.
    ids: bytes
    #: Positions in ``packs``, 16 bits little-endian each.
    pack_ordinals: bytes
    #: frame number << 20 | byte offset in the plain frame, 32 bits little-endian each.
    places: bytes

    @property
    def figures(self) -> PlannedWindow:
        """What the event log keeps of it."""
        frames = [entry for pack in self.packs for entry in pack.frames.values()]
        return PlannedWindow(
            first_chunk=self.wanted.first,
            chunk_count=self.wanted.count,
            packs=len(self.packs),
            frames=len(frames),
            planned_bytes=sum(entry.stored_size_bytes for entry in frames),
        )


def plan_window(
    volume: VolumeReader, vault: KeyVault, presign: Callable[[str], str], wanted: ChunkRun
) -> PlanWindow:
    """Resolve and pin one window.

    Args:
        volume: read under the restore's own reader, so that the pins last until the restore ends.
        vault: derives the packs' keys.
        presign: gives the URL that reads an object.
        wanted: at most WINDOW_CHUNK_COUNT_MAX chunks.
    """
    placed = volume.locate(wanted)
    ordinals: dict[int, int] = {}
    packs: list[PlannedPack] = []
    pack_column, place_column = array("H"), array("I")
    for chunk in placed:
        ordinal = ordinals.setdefault(chunk.pack.pack_no, len(packs))
        if ordinal == len(packs):
            packs.append(_planned(chunk.pack, vault, presign))
        number = split_place(chunk.place)[0]
        if number not in packs[ordinal].frames:
            packs[ordinal].frames[number] = frame_entry(chunk.pack, number)
        pack_column.append(ordinal)
        place_column.append(chunk.place)
    return PlanWindow(
        wanted=wanted,
        packs=packs,
        runs=pack_runs(runs_of(chunk.chunk_index for chunk in placed)),
        ids=b"".join([chunk.id for chunk in placed]),
        pack_ordinals=_little_endian(pack_column),
        places=_little_endian(place_column),
    )


def _planned(pack: PackLocation, vault: KeyVault, presign: Callable[[str], str]) -> PlannedPack:
    return PlannedPack(
        generation=pack.generation.hex,
        url=presign(pack_object(pack.generation)),
        size_bytes=pack.size_bytes,
        key=vault.get(pack.domain, pack.key_id).pack_key(pack.generation),
        frames={},
    )


def _little_endian(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()
