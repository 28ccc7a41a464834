"""The sample of what an agent believes unchanged, compared with the base's map."""

import random
from uuid import uuid4

import pytest

from libs.blockmap.tree import MapRoot, span_chunks
from libs.errors import BadInputError
from libs.events.block_changes import UnchangedSampled
from libs.ranges import pack_runs, runs_of
from services.chunker.parts.sample import overlooked
from tests.unit.blockmap.map_history import HASHER, Clear, History, Put, Snapshot

LEAF = span_chunks(0)
COUNT = 3 * LEAF + 40
#: Chunks from here on are of another domain.
FOREIGN = 3 * LEAF + 10


@pytest.fixture(scope="module")
def history() -> History:
    """A volume of four leaves, one of them and parts of others without data."""
    made = History()
    changes = (Put(5, LEAF, 2), Clear(100, 50), Put(2 * LEAF + 7, 300, 4), Put(FOREIGN, 3, 1))
    made.play(Snapshot(COUNT, True, changes, False))
    return made


def sampled(found: dict[int, bytes | None]) -> UnchangedSampled:
    data = sorted(index for index, id_ in found.items() if id_)
    return UnchangedSampled(
        session=uuid4(),
        capture=uuid4(),
        volume=uuid4(),
        batch=0,
        runs=pack_runs(runs_of(data)),
        ids=b"".join(found[index] or b"" for index in data),
        zero_runs=pack_runs(runs_of(sorted(found.keys() - {*data}))),
    )


def truth(history: History, indexes: list[int]) -> dict[int, bytes | None]:
    return {at: history.chunks[at][1] if at in history.chunks else None for at in indexes}


def check(history: History, found: dict[int, bytes | None], count: int = COUNT) -> list[int]:
    root = history.root or MapRoot(None, 0)
    return overlooked(sampled(found), count, root, HASHER, history.nodes.__getitem__)


def test_what_is_as_the_base_has_it_was_not_overlooked(history: History) -> None:
    rng = random.Random(1)
    for _ in range(20):
        indexes = rng.sample(range(COUNT), 60)
        assert check(history, truth(history, indexes)) == []
    assert check(history, truth(history, list(range(COUNT)))) == []


@pytest.mark.parametrize("now", [b"x" * 32, None], ids=["data", "zeros"])
def test_data_that_changed_or_became_zeros_was_overlooked(
    history: History, now: bytes | None
) -> None:
    for wrong in (5, 2 * LEAF + 7):
        found = truth(history, [0, 5, 6, 700, 2 * LEAF + 7, COUNT - 1])
        assert check(history, found | {wrong: now}) == [wrong]


def test_zeros_that_became_data_were_overlooked(history: History) -> None:
    found = truth(history, [0, 5, 120, LEAF + 200, COUNT - 1])
    for wrong in (0, 120, LEAF + 200, COUNT - 1):
        assert check(history, found | {wrong: b"x" * 32}) == [wrong]


def test_of_a_chunk_of_another_domain_only_zeros_were_overlooked(history: History) -> None:
    """Its id under that domain's key is not known to who hashed it under the tenant's."""
    assert check(history, {FOREIGN: b"x" * 32}) == []
    assert check(history, {FOREIGN: None}) == [FOREIGN]


def test_of_a_volume_that_grew_what_is_new_must_be_zeros(history: History) -> None:
    beyond = 600 * LEAF
    assert check(history, {beyond: None, 5: history.chunks[5][1]}, beyond + 1) == []
    assert check(history, {beyond: b"x" * 32}, beyond + 1) == [beyond]


def test_chunks_beyond_the_volume_are_bad_input(history: History) -> None:
    with pytest.raises(BadInputError):
        check(history, {COUNT: None})


def test_nodes_of_the_base_are_read_once_each(history: History) -> None:
    read: list[bytes] = []

    def fetch(node_id: bytes) -> bytes:
        read.append(node_id)
        return history.nodes[node_id]  # type: ignore[index]  # a node's id is bytes

    event = sampled(truth(history, list(range(0, COUNT, 7))))
    assert overlooked(event, COUNT, history.root or MapRoot(None, 0), HASHER, fetch) == []
    assert len(read) == len({*read})
