"""Windows of plans (`libs.restoring.plan`), resolved in the catalog and pinned."""

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from libs.catalogdb.packs.location import PackLocation
from libs.catalogdb.snapshots.leases import PlannedWindow
from libs.keys.vault import KeyVault
from libs.packs.layout import split_place
from libs.ranges import ChunkRun, pack_runs, runs_of
from libs.reading.frames import frame_entry
from libs.reading.volume import VolumeReader
from libs.restoring.plan import PlannedFrame, PlannedPack, PlanWindow


@dataclass(slots=True)
class _NeededPack:
    """A pack of a window, and which of its frames were found to be needed."""

    pack: PackLocation
    frames: dict[int, PlannedFrame] = field(default_factory=dict)


def plan_window(
    volume: VolumeReader,
    vault: KeyVault,
    presign: Callable[[PackLocation], list[str]],
    wanted: ChunkRun,
) -> PlanWindow:
    """Resolve and pin one window.

    It hands out keys of the packs that it names, and the id keys of their domains: of a domain that
    is not the tenant's own no more than its chunks in this volume need.

    Args:
        volume: read under the restore's own lease, so that the pins last until the restore ends.
        vault: derives the packs' keys.
        presign: gives the URLs that read a pack, at least one.
        wanted: at most `libs.restoring.plan.WINDOW_CHUNK_COUNT_MAX` chunks.
    """
    placed = volume.locate(wanted)
    next_chunk = None
    if not placed or placed[-1].chunk_index < wanted.end - 1:  # else there is no gap to jump over
        next_chunk = volume.next_chunk(wanted.end)
    ordinals: dict[int, int] = {}
    packs: list[_NeededPack] = []
    pack_column, place_column = array("H"), array("I")
    for chunk in placed:
        ordinal = ordinals.setdefault(chunk.pack.pack_no, len(packs))
        if ordinal == len(packs):
            packs.append(_NeededPack(chunk.pack))
        number = split_place(chunk.place)[0]
        if number not in packs[ordinal].frames:
            packs[ordinal].frames[number] = PlannedFrame(number, *frame_entry(chunk.pack, number))
        pack_column.append(ordinal)
        place_column.append(chunk.place)
    return PlanWindow(
        first_chunk=wanted.first,
        chunk_count=wanted.count,
        packs=[_planned(needed, volume.point.domain, vault, presign) for needed in packs],
        runs=pack_runs(runs_of(chunk.chunk_index for chunk in placed)),
        ids=b"".join([chunk.id for chunk in placed]),
        pack_ordinals=_little_endian(pack_column),
        places=_little_endian(place_column),
        next_chunk=next_chunk,
    )


def figures_of(window: PlanWindow) -> PlannedWindow:
    """What the event log keeps of a window."""
    frames = [frame for pack in window.packs for frame in pack.frames]
    return PlannedWindow(
        first_chunk=window.first_chunk,
        chunk_count=window.chunk_count,
        packs=len(window.packs),
        frames=len(frames),
        planned_bytes=sum(frame.stored_size_bytes for frame in frames),
    )


def _planned(
    needed: _NeededPack,
    own: UUID,
    vault: KeyVault,
    presign: Callable[[PackLocation], list[str]],
) -> PlannedPack:
    pack = needed.pack
    keys = vault.get(pack.domain, pack.key_id)
    url, *other_urls = presign(pack)
    return PlannedPack(
        generation=pack.generation.hex,
        url=url,
        other_urls=other_urls,
        size_bytes=pack.size_bytes,
        key=keys.pack_key(pack.generation),
        id_key=None if pack.domain == own else keys.id_key,
        frames=[frame for _, frame in sorted(needed.frames.items())],
    )


def _little_endian(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()
