import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.blockmap.tree import MapRoot, span_chunks
from libs.blockmap.writer import MapChange, MapWriter, NewNode, NodeWanted, Steps
from libs.errors import BadInputError, DamagedDataError
from tests.unit.blockmap.map_history import (
    HASHER,
    Clear,
    History,
    Put,
    Snapshot,
    apply,
    run_steps,
)

LEAF = span_chunks(0)
SIZES = (
    0,
    1,
    LEAF - 1,
    LEAF,
    LEAF + 1,
    3000,
    span_chunks(1),
    span_chunks(1) + 700,
    span_chunks(2) + 3,
)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    size = draw(st.sampled_from(SIZES))
    settle = draw(st.booleans())
    changes = [draw(_change(size)) for _ in range(draw(st.integers(0, 6)) if size else 0)]
    if settle:
        changes.sort(key=lambda change: change.first)
    return Snapshot(size, draw(st.booleans()), tuple(changes), settle)


@st.composite
def _change(draw: st.DrawFn, size: int) -> Put | Clear:
    # Positions near the seams of leaves and of higher nodes, where mistakes live.
    seam = draw(st.sampled_from([at for at in (0, *SIZES, 2 * LEAF, 5 * LEAF) if at < size]))
    first = min(size - 1, max(0, seam + draw(st.integers(-3, 3))))
    if draw(st.booleans()):
        return Put(
            first, min(size - first, draw(st.sampled_from((1, 5, 600)))), draw(st.integers(0, 3))
        )
    count = draw(st.sampled_from((1, LEAF - 1, LEAF, 2 * LEAF + 7, span_chunks(1), span_chunks(3))))
    return Clear(first, min(size - first, count))


@settings(max_examples=120, deadline=None)
@given(st.lists(snapshots(), min_size=1, max_size=4))
def test_any_history_reads_back_and_counts_what_left_and_entered(steps: list[Snapshot]) -> None:
    history = History()
    for step in steps:
        history.play(step)


def filled(size: int, *changes: Put | Clear, complete: bool = False) -> Snapshot:
    return Snapshot(size, complete, changes, settle=False)


def test_unchanged_snapshot_shares_the_root_and_reads_nothing() -> None:
    history = History()
    history.play(filled(10 * LEAF, Put(0, 5000, 1)))

    def fetch(node_id: bytes) -> bytes:
        pytest.fail(f"fetched {node_id.hex()}")

    writer = MapWriter(
        HASHER,
        base=history.root,
        base_size_chunks=10 * LEAF,
        size_chunks=10 * LEAF,
        complete=False,
    )
    done: list[NewNode | MapChange] = []
    assert run_steps(writer.finish(), fetch, done) == history.root
    assert done == []


def test_complete_capture_of_equal_content_emits_nothing() -> None:
    history = History()
    content = Put(3, 5000, 1)
    history.play(filled(10 * LEAF, content))
    assert history.play(filled(10 * LEAF, content, complete=True)) == []


def test_one_changed_chunk_emits_one_node_per_level() -> None:
    history = History()
    history.play(filled(span_chunks(1), Put(0, 40 * LEAF, 1)))
    assert len(history.play(filled(span_chunks(1), Put(7777, 1, 2)))) == 2


def test_shrunk_then_grown_volume_shows_zeros_where_old_data_was() -> None:
    history = History()
    history.play(filled(span_chunks(1) + 700, Put(0, 3000, 1), Put(span_chunks(1), 600, 2)))
    history.play(filled(1000))
    history.play(filled(span_chunks(1) + 700))
    assert sorted(history.chunks) == list(range(1000))


def test_shrinking_to_a_part_that_was_empty_forgets_all() -> None:
    history = History()
    history.play(filled(span_chunks(1) + 700, Put(span_chunks(1), 1, 0)))
    history.play(filled(0))
    assert history.root == MapRoot(None, 0)


def test_clearing_a_huge_empty_range_costs_nothing() -> None:
    history = History()
    history.play(filled(span_chunks(4), Put(5, 1, 1)))
    history.play(filled(span_chunks(4), Clear(6, span_chunks(4) - 6)))
    assert list(history.chunks) == [5]


def test_settled_leaves_are_emitted_before_the_end_and_forgotten() -> None:
    done: list[NewNode | MapChange] = []
    writer = MapWriter(
        HASHER,
        base=None,
        base_size_chunks=0,
        size_chunks=span_chunks(2),
        complete=True,
    )
    for leaf in range(2 * LEAF):
        writer.put(leaf * LEAF, bytes(1), b"c" * 32)
        run_steps(writer.settle_below((leaf + 1) * LEAF), _no_base, done)
        emitted = [step for step in done if isinstance(step, NewNode)]
        assert len(emitted) == leaf + 1 + (leaf + 1) // LEAF
    assert writer.pending_count <= 1 + 2


def test_chunks_may_be_set_between_two_steps_of_settling() -> None:
    early = (Put(5, 3, 2), Put(LEAF + 7, 1, 3))
    late: tuple[Put | Clear, ...] = (
        Clear(3 * LEAF, 2 * LEAF),
        Put(9 * LEAF, 9, 0),
        Put(4 * LEAF, 1, 1),
    )
    history = History()
    history.play(filled(10 * LEAF, Put(0, 10 * LEAF, 1)))
    writer = MapWriter(
        HASHER,
        base=history.root,
        base_size_chunks=10 * LEAF,
        size_chunks=10 * LEAF,
        complete=False,
    )
    for change in early:
        apply(writer, change)
    steps = writer.settle_below(2 * LEAF)
    step, waiting, told = next(steps, None), list(late), 0
    while step is not None:
        told += 1
        if waiting:
            apply(writer, waiting.pop(0))
        try:
            node = history.nodes[step.node_id] if isinstance(step, NodeWanted) else None
            step = steps.send(node)
        except StopIteration:
            step = None
    assert told > len(late)
    root = run_steps(writer.finish(), history.nodes.__getitem__, [])
    history.play(filled(10 * LEAF, *early, *late))
    assert history.root == root


def test_steps_end_where_the_bytes_sent_are_not_the_node() -> None:
    history = History()
    history.play(filled(10 * LEAF, Put(0, 10 * LEAF, 1)))
    writer = MapWriter(
        HASHER,
        base=history.root,
        base_size_chunks=10 * LEAF,
        size_chunks=10 * LEAF,
        complete=False,
    )
    apply(writer, Put(5, 1, 2))
    other = next(iter(history.nodes.values()))
    with pytest.raises(DamagedDataError, match="map node"):
        run_steps(writer.finish(), lambda _: other[:-1], [])


def test_changes_below_the_watermark_or_beyond_the_end_are_refused() -> None:
    writer = _empty_writer(2 * LEAF)
    run_steps(writer.settle_below(100), _no_base, [])
    for refused in (99, 2 * LEAF):
        with pytest.raises(BadInputError, match="settled"):
            writer.put(refused, bytes(1), bytes(32))
        with pytest.raises(BadInputError, match="settled"):
            writer.clear(refused, 1)
    with pytest.raises(BadInputError, match="bytes of chunk ids"):
        writer.put(100, bytes(2), bytes(32))


def test_empty_map_has_no_root() -> None:
    for size, level in ((0, 0), (span_chunks(2), 2)):
        assert run_steps(_empty_writer(size).finish(), _no_base, []) == MapRoot(None, level)


class ForgetsWhatLeft(MapWriter):
    """Planted: references of a removed subtree would never be given back."""

    def _left_below(self, level: int, no: int, pending: object) -> Steps[None]:
        yield from ()


class KeepsWhatWasCutOff(MapWriter):
    """Planted: protocol scenario 20, old data shows through after shrinking and growing."""

    def _clear(self, level: int, no: int, first: int, end: int) -> None:
        if first >= self._size_chunks:
            return
        super()._clear(level, no, first, end)


@pytest.mark.parametrize("planted", [ForgetsWhatLeft, KeepsWhatWasCutOff])
def test_harness_finds_planted_bugs(planted: type[MapWriter]) -> None:
    history = History(planted)
    history.play(filled(10 * LEAF, Put(0, 3000, 1)))
    with pytest.raises(AssertionError):
        history.play(filled(1000))


def _empty_writer(size_chunks: int) -> MapWriter:
    return MapWriter(
        HASHER,
        base=None,
        base_size_chunks=0,
        size_chunks=size_chunks,
        complete=False,
    )


def _no_base(node_id: bytes) -> bytes:
    pytest.fail(f"there is no base, and {node_id.hex()} of it was wanted")
