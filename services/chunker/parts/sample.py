"""The sample of a capture: what the agent's tracker believes unchanged, compared with the base.

A chunk that is not what the base's map says was overlooked by the tracker. Then nothing that it did
not announce can be believed: the session is rejected with the code ``tracking-lost``, a person is
told, and the group's next session on this base compares everything.
"""

import functools
from collections.abc import Callable

from libs.blockmap.node import ID_SIZE_BYTES, NodeHasher, NodeId
from libs.blockmap.tagged import OWN_TAG, tag_of, tagged_ids
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
        wrong += [
            index for index in range(run.first, run.end) if not _may_be(next(ids), known.get(index))
        ]
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


def _may_be(id_: bytes, known: bytes | None) -> bool:
    """Whether a chunk with this id, in the tenant's own domain, is what the base has.

    What the base has of another domain has an id under that domain's key, so nothing can be said.
    """
    return id_ == known or (known is not None and tag_of(known) != OWN_TAG)


def _known(reader: MapReader, base: MapRoot, run: ChunkRun) -> dict[int, bytes]:
    """Index → tagged id of the base's chunks in a run that are not zero."""
    return {
        found.first + number: id_
        for found in reader.lookup(base, run)
        for number, id_ in enumerate(tagged_ids(found.tags, found.ids))
    }
