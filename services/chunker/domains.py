"""Chunks of other tenants' domains that an agent announces: what it may claim, and checking it.

A capture may name chunks of a domain that its tenant was granted. Nothing is ever stored there: a
claim is good if the tenant may use the domain, the domain has the chunk in a live pack, which is
then pinned, and whatever sample of bytes the agent is asked for has the announced ids. A chunk that
the domain does not have, or only damaged, is asked for and stored in the tenant's own domain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from libs.blockmap.tagged import OWN_TAG, are_all_own, bare_id, tag_of
from libs.errors import ForbiddenError
from libs.events.block_changes import ExtentsChanged
from libs.packs.chunk import ChunkHasher, split_chunks


@dataclass(frozen=True, slots=True)
class OtherDomain:
    """Another tenant's domain in the group's list."""

    domain_no: int
    #: Names chunks there.
    hasher: ChunkHasher
    #: Whether the tenant may use it now; maps of before may name its chunks nevertheless.
    granted: bool


def check_tags(others: Sequence[OtherDomain], tags: bytes) -> None:
    """Refuse tags of domains that the tenant may not use: a hash alone grants nothing.

    Args:
        others: the group's list of domains from tag 1 on.
        tags: what the agent says.

    Raises:
        ForbiddenError: a tag is not in the list, or its domain is not granted.
    """
    for tag in set(tags) - {OWN_TAG}:
        if tag > len(others) or not others[tag - 1].granted:
            raise ForbiddenError(
                f"chunks of domain tag {tag} were announced, which the tenant may not use; the "
                f"agent must announce them as its own"
            )


def renamed(
    event: ExtentsChanged, ids: Sequence[bytes], own: Mapping[bytes, bytes]
) -> ExtentsChanged:
    """An event with other names for chunks that their domain lacks.

    Args:
        event: what the agent announced.
        ids: its tagged ids.
        own: announced id → id in the tenant's own domain, where the chunk is stored instead.
    """
    names = [own.get(id_, id_) for id_ in ids]
    tags = bytes(map(tag_of, names))
    return replace(event, ids=b"".join(map(bare_id, names)), tags=tags if any(tags) else b"")


def have_ids(
    own: ChunkHasher, others: Sequence[OtherDomain], chunks: memoryview, announced: Sequence[bytes]
) -> bool:
    """Whether chunks have the tagged ids that they were announced with."""
    if are_all_own(announced):
        return own.chunk_ids(chunks) == b"".join(announced)
    hashers = [own, *[other.hasher for other in others]]
    return all(
        hashers[tag_of(id_)].chunk_id(chunk) == bare_id(id_)
        for chunk, id_ in zip(split_chunks(chunks), announced, strict=True)
    )
