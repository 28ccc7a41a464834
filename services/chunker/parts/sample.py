"""The sample of a capture: what the agent's tracker believes unchanged, compared with the base.

A chunk that is not what the base's map says was overlooked by the tracker. Then nothing that it did
not announce can be believed: the session is rejected with the code ``tracking-lost``, a person is
told, and the group's next session on this base compares everything.
"""

import functools
from collections.abc import Callable, Iterator

from libs.blockmap.node import ID_SIZE_BYTES, NodeHasher, NodeId
from libs.blockmap.tree import MapReader, MapRoot
from libs.catalogdb.log.notifications import raise_notification
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.session import PartView
from libs.errors import TrackingLostError
from libs.events.block_changes import UnchangedSampled
from libs.events.notifications import NotificationRaised
from libs.ranges import ChunkRun, unpack_runs

#: Nodes of the base that are kept while one event is checked; its chunks ascend.
_NODES_KEPT = 8


def overlooked(
    event: UnchangedSampled,
    chunk_count: int,
    base: MapRoot,
    hasher: NodeHasher,
    fetch: Callable[[NodeId], bytes],
) -> list[int]:
    """Sampled chunks that are not as the base has them.

    Args:
        event: the sample.
        chunk_count: chunks of the volume.
        base: root of the base's map.
        hasher: names the domain's nodes.
        fetch: gives the bytes of a node of the base.

    Raises:
        BadInputError: the event contradicts itself or the volume's size.
        DamagedDataError: the base's map cannot be read.
    """
    reader = MapReader(hasher, functools.lru_cache(_NODES_KEPT)(fetch))
    wrong = []
    ids = iter([event.ids[at : at + ID_SIZE_BYTES] for at in range(0, len(event.ids), 32)])
    for run in unpack_runs(event.runs, chunk_count):
        known = _known(reader, base, run)
        wrong += [index for index in range(run.first, run.end) if next(ids) != known.get(index)]
    for run in unpack_runs(event.zero_runs, chunk_count):
        wrong += _known(reader, base, run)
    return sorted(wrong)


def report_overlooked(catalog: Catalog, tenant: str, part: PartView, wrong: list[int]) -> None:
    """Tell a person that a tracker overlooked changes, and end the capture.

    The notification is durable before the session is rejected; a crash in between repeats it.

    Raises:
        TrackingLostError: always.
    """
    message = (
        f"volume {part.volume_name} on node {part.node}: what tracks its changes overlooked "
        f"{len(wrong)} of the sampled chunks, the first at byte {wrong[0] << 16}; earlier "
        f"snapshots since tracking began may lack changes too. The next snapshot compares "
        f"everything: take it now"
    )
    notice = NotificationRaised(
        kind=TrackingLostError.code,
        severity="error",
        message=message,
        volume=part.volume_name,
        node=part.node,
    )
    raise_notification(catalog, "chunker", tenant, part.volume_name, notice)
    raise TrackingLostError(message)


def _known(reader: MapReader, base: MapRoot, run: ChunkRun) -> dict[int, bytes]:
    """Index → id of the base's chunks in a run that are not zero."""
    return dict(_entries(reader, base, run))


def _entries(reader: MapReader, base: MapRoot, run: ChunkRun) -> Iterator[tuple[int, bytes]]:
    for found in reader.lookup(base, run):
        for number in range(found.chunk_count):
            at = number * ID_SIZE_BYTES
            yield found.first + number, found.ids[at : at + ID_SIZE_BYTES]
