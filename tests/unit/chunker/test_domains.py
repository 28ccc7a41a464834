"""What an agent may claim of another tenant's domain."""

from uuid import UUID

import pytest

from libs.blockmap.tagged import tagged_ids, with_tag
from libs.errors import ForbiddenError
from libs.events.block_changes import ExtentsChanged
from libs.packs.chunk import ChunkHasher
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.ranges import ChunkRun, pack_runs
from services.chunker.domains import OtherDomain, check_tags, have_ids, renamed

OWN = ChunkHasher(b"o" * 32)
OTHERS = (
    OtherDomain(7, ChunkHasher(b"g" * 32), granted=True),
    OtherDomain(8, ChunkHasher(b"h" * 32), granted=False),
)
CHUNKS = [bytes([n]) * CHUNK_SIZE_BYTES for n in (1, 2, 3)]


def test_only_granted_domains_of_the_list_may_be_named() -> None:
    check_tags(OTHERS, b"")
    check_tags(OTHERS, b"\0\1\1\0")
    for tags in (b"\0\2", b"\3", b"\xff"):
        with pytest.raises(ForbiddenError, match="may not use"):
            check_tags(OTHERS, tags)
    with pytest.raises(ForbiddenError):
        check_tags((), b"\1")


def test_an_event_is_renamed_where_a_chunk_is_stored_as_the_tenants_own() -> None:
    own, there, lacking = (bytes([n]) * 32 for n in (1, 2, 3))
    event = ExtentsChanged(
        session=UUID(int=1),
        capture=UUID(int=2),
        volume=UUID(int=3),
        batch=0,
        runs=pack_runs([ChunkRun(0, 4)]),
        ids=own + there + lacking + lacking,
        tags=b"\0\1\1\1",
        zero_runs=b"",
        settled_below=0,
    )
    ids = tagged_ids(event.tags, event.ids)
    name = b"n" * 32
    found = renamed(event, ids, {with_tag(1, lacking): name})
    assert (found.ids, found.tags) == (own + there + name + name, b"\0\1\0\0")
    every = renamed(event, ids, {with_tag(1, lacking): name, with_tag(1, there): own})
    assert (every.ids, every.tags) == (own + own + name + name, b"")


def test_a_sample_is_compared_under_the_id_key_of_its_domain() -> None:
    view = memoryview(b"".join(CHUNKS))
    own = [OWN.chunk_id(chunk) for chunk in CHUNKS]
    theirs = [with_tag(1, OTHERS[0].hasher.chunk_id(chunk)) for chunk in CHUNKS]
    assert have_ids(OWN, OTHERS, view, own)
    assert have_ids(OWN, OTHERS, view, [own[0], theirs[1], own[2]])
    assert have_ids(OWN, OTHERS, view, theirs)
    for wrong in (
        [own[1], own[0], own[2]],
        [own[0], theirs[2], own[2]],
        [own[0], with_tag(1, own[1]), own[2]],
        [own[0], with_tag(2, theirs[1][:32]), own[2]],
        [own[0], theirs[1], own[1]],
    ):
        assert not have_ids(OWN, OTHERS, view, wrong)
