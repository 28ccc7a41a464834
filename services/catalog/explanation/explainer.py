"""Who uses this chunk? Reads the block maps of the snapshots that count on its pack."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from libs.blockmap.tagged import tagged_ids, with_tag
from libs.catalogdb.deletion.rewriting import next_point
from libs.catalogdb.packs.explanation import packs_of_item
from libs.catalogdb.pool import Catalog
from libs.copies.stores import Stores
from libs.errors import NotFoundError
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReaders

_FRAME_COUNT_MAX = 8
_DEADLINE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class ChunkAddress:
    """Where a chunk begins in a volume, at a live snapshot."""

    tenant: str
    volume: str
    sequence: int
    offset_bytes: int


class Explainer:
    """Thread-safe.

    Args:
        catalog: the catalog, in the catalog service's role.
        stores: where block maps lie.
        vault: the domains' keys.
    """

    def __init__(self, catalog: Catalog, stores: Stores, vault: KeyVault) -> None:
        self._catalog = catalog
        frames = FrameReader(stores, vault, _FRAME_COUNT_MAX)
        self._readers = VolumeReaders(catalog, vault, frames, frames, _DEADLINE_SECONDS)

    def addresses(
        self, chunk_id: bytes, snapshot_count_max: int, count_max: int
    ) -> list[ChunkAddress]:
        """Where live snapshots have a chunk.

        Args:
            chunk_id: 32 bytes.
            snapshot_count_max: snapshots whose maps are read at most, a bound for the time.
            count_max: addresses at most.
        """
        packs = packs_of_item(self._catalog, chunk_id)
        return list(
            itertools.islice(self._addresses(chunk_id, packs, snapshot_count_max), count_max)
        )

    def _addresses(
        self, chunk_id: bytes, packs: Mapping[int, int], snapshots: int
    ) -> Iterator[ChunkAddress]:
        volume_no, sequence = 0, 0
        for _ in range(snapshots):
            point = next_point(self._catalog, list(packs.values()), volume_no, sequence)
            if point is None:
                return
            volume_no, sequence = point.volume_no, point.sequence
            # In a domain that does not have the chunk, the id would name another one.
            wanted = {
                with_tag(tag, chunk_id)
                for tag, domain_no in enumerate(point.domain_nos)
                if domain_no in packs
            }
            whole = ChunkRun(0, max(1, -(-point.size_bytes // CHUNK_SIZE_BYTES)))
            try:
                with self._readers.open(point) as reader:
                    for run in reader.lookup(whole):
                        for number, id_ in enumerate(tagged_ids(run.tags, run.ids)):
                            if id_ in wanted:
                                offset = (run.first + number) * CHUNK_SIZE_BYTES
                                yield ChunkAddress(point.tenant, point.name, sequence, offset)
            except NotFoundError:  # it has expired since
                continue
