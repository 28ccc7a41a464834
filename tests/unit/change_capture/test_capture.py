import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.errors import SourceError, UnavailableError
from libs.events.block_changes import CaptureStarted, ExtentsChanged
from libs.events.registry import Event
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.spans.messages import CHUNKS_PER_SPAN_MAX
from services.change_capture.agent.regions import Regions
from services.change_capture.agent.scanner import SCANNED_PER_SPAN_MAX
from services.change_capture.drivers.local.view import LocalView
from services.change_capture.drivers.port import REGION_CHUNKS
from services.change_capture.drivers.scan.tracker import _RecordComparison
from tests.unit.change_capture.capturing import Agent, Model, Volume

_CHUNKS_MAX = 3 * REGION_CHUNKS + 40
_places = st.tuples(st.integers(0, _CHUNKS_MAX - 1), st.integers(1, 150))
_changes = st.one_of(
    st.tuples(st.sampled_from(["write", "write_zeros", "punch"]), _places),
    st.tuples(st.just("resize"), st.integers(0, _CHUNKS_MAX * CHUNK_SIZE_BYTES)),
    st.tuples(st.just("scatter"), st.integers(0, 2**32)),
)


def new_agent(folder: Path, thread_count: int = 2) -> Agent:
    return Agent(folder, Volume(folder / "volume", random.Random(7)), thread_count)


def change(volume: Volume, what: str, where: object) -> None:
    if what == "scatter":
        rng = random.Random(where)  # type: ignore[arg-type]  # an integer here
        for index in rng.sample(range(max(volume.chunk_count, 1)), min(20, volume.chunk_count)):
            volume.write(index, 1)
    else:
        arguments = where if isinstance(where, tuple) else (where,)
        getattr(volume, what)(*arguments)


@settings(deadline=None, max_examples=40)
@given(rounds=st.lists(st.lists(_changes, max_size=4), min_size=1, max_size=5))
def test_events_of_successive_captures_say_what_the_volume_holds(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, object]]]
) -> None:
    agent = new_agent(tmp_path_factory.mktemp("volume"))
    for changes in rounds:
        for what, where in changes:
            change(agent.volume, what, where)
        model = agent.capture()
        assert model.completed.batches == model.batch_count
        assert model.chunks == agent.volume.chunks()


def _region_after_a_partly_filled_span(agent: Agent) -> Model:
    """The last MiB of the last region does not fit behind the others and a chunk of region 0."""
    agent.volume.write(5, 1)
    agent.volume.write(REGION_CHUNKS, CHUNKS_PER_SPAN_MAX)
    model = agent.capture()
    assert model.chunks == agent.volume.chunks()
    return model


def test_a_region_that_is_cut_by_a_full_span_is_not_settled_yet(tmp_path: Path) -> None:
    model = _region_after_a_partly_filled_span(new_agent(tmp_path, thread_count=1))
    settled = [batch.settled_below for batch in model.batches]
    assert settled == [CHUNKS_PER_SPAN_MAX, CHUNKS_PER_SPAN_MAX + REGION_CHUNKS]


def test_the_harness_notices_a_watermark_that_runs_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Regions, "emitted", lambda self, _still_in: int(self._next * REGION_CHUNKS))
    with pytest.raises(AssertionError):
        _region_after_a_partly_filled_span(new_agent(tmp_path, thread_count=1))


def test_the_harness_notices_a_tracker_that_forgets_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_RecordComparison, "cleared", lambda *_: [])
    agent = new_agent(tmp_path)
    agent.volume.write(0, 4)
    agent.capture()
    agent.volume.punch(1, 2)
    assert agent.capture().chunks != agent.volume.chunks()


def test_the_harness_notices_a_fingerprint_that_is_not_kept_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(0, 4)
    first = agent.volume.path.read_bytes()
    agent.capture()
    # The old ones are written again.
    monkeypatch.setattr(
        _RecordComparison, "finish", lambda self: self._writer.add(self._number, self._old)
    )
    agent.volume.write(0, 4)
    agent.capture()
    monkeypatch.undo()
    agent.volume.write_bytes(0, first)
    assert agent.capture().chunks != agent.volume.chunks()


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES + 1])
def test_small_and_odd_sizes_are_captured(tmp_path: Path, size_bytes: int) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write_bytes(0, b"x" * size_bytes)
    model = agent.capture()
    assert model.chunks == agent.volume.chunks()
    assert len(model.chunks) == -(-size_bytes // CHUNK_SIZE_BYTES)
    assert not agent.capture().batches


def test_a_volume_that_shrank_and_grew_shows_zeros_where_it_was_cut(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(0, 2 * REGION_CHUNKS)
    agent.capture()
    agent.volume.resize(10 * CHUNK_SIZE_BYTES)
    agent.capture()
    agent.volume.resize(2 * REGION_CHUNKS * CHUNK_SIZE_BYTES)
    assert agent.capture().chunks == agent.volume.chunks()


def test_an_unchanged_volume_publishes_no_batch(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(3, 200)
    agent.capture()
    model = agent.capture()
    assert not model.batches
    assert model.completed.consistency == "quiet"


def test_a_sparse_tebibyte_costs_its_data_only(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.resize(1 << 40)
    agent.volume.write((1 << 24) - 3, 2)
    model = agent.capture()
    assert {*model.chunks} == {(1 << 24) - 3, (1 << 24) - 2}
    assert model.completed.read_bytes == 2 * CHUNK_SIZE_BYTES


def test_every_second_chunk_of_many_regions_becoming_zero_stays_within_the_size_of_an_event(
    tmp_path: Path,
) -> None:
    """24,576 lone zeros are 288 KiB of runs; `Model.send` checks the size of each event."""
    agent = new_agent(tmp_path, thread_count=1)
    regions = 384
    agent.volume.resize(regions * REGION_CHUNKS * CHUNK_SIZE_BYTES)
    for index in range(0, regions * REGION_CHUNKS, 2):
        agent.volume.write_bytes(index * CHUNK_SIZE_BYTES, b"x")
    agent.capture()
    agent.volume.punch(0, regions * REGION_CHUNKS)
    model = agent.capture()
    assert len(model.batches) > 1
    assert model.chunks == {}


def test_few_changes_go_out_while_the_scan_goes_on(tmp_path: Path) -> None:
    agent = new_agent(tmp_path, thread_count=1)
    chunk_count = 2 * SCANNED_PER_SPAN_MAX // CHUNK_SIZE_BYTES
    for index in range(chunk_count):
        agent.volume.write_bytes(index * CHUNK_SIZE_BYTES, b"x")
    agent.capture()
    agent.volume.write(0, 1)
    agent.volume.write(chunk_count - 1, 1)
    model = agent.capture()
    assert len(model.batches) == 2
    assert model.chunks == agent.volume.chunks()


def test_writing_while_it_is_read_makes_the_snapshot_fuzzy(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(0, 2 * REGION_CHUNKS)
    model = Model(agent.window, {})
    writes = iter([lambda: agent.volume.write(0, 1)])
    model.fault = lambda event: next(writes, lambda: None)() if _is_batch(event) else None
    capture = agent.start(model)
    capture.join()
    capture.stop()
    assert model.completed.consistency == "fuzzy"


@pytest.mark.parametrize("size_bytes", [0, REGION_CHUNKS * CHUNK_SIZE_BYTES])
def test_a_file_that_shrinks_while_it_is_read_aborts(tmp_path: Path, size_bytes: int) -> None:
    agent = new_agent(tmp_path, thread_count=1)
    agent.volume.write(0, 4 * REGION_CHUNKS)
    model = Model(agent.window, {})
    model.fault = lambda event: agent.volume.resize(size_bytes) if _is_batch(event) else None
    capture = agent.start(model)
    capture.join()
    capture.stop()
    assert capture.state == "aborted"
    assert model.aborted.code == SourceError.code
    assert "shrank" in model.aborted.message


def test_a_file_that_grows_while_it_is_read_keeps_the_size_it_had(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write_bytes(0, b"x" * (REGION_CHUNKS * CHUNK_SIZE_BYTES + 100))
    before = agent.volume.chunks()
    model = Model(agent.window, {})
    model.fault = lambda event: agent.volume.write(300, 5) if _is_start(event) else None
    capture = agent.start(model)
    capture.join()
    capture.stop()
    assert model.chunks == before
    assert model.completed.consistency == "fuzzy"


def test_a_producer_that_fails_aborts_and_every_buffer_comes_back_once(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(0, 4 * REGION_CHUNKS)

    def refuse_batches(event: Event) -> None:
        if _is_batch(event):
            raise UnavailableError("Kafka took no record")

    model = Model(agent.window, {}, fault=refuse_batches)
    capture = agent.start(model)
    capture.join()
    assert model.aborted.code == UnavailableError.code
    capture.stop()
    _assert_window_is_whole(agent)


def test_a_fault_of_the_agent_itself_aborts_instead_of_leaving_a_region_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(0, 2 * REGION_CHUNKS)
    read_into = LocalView.read_into

    def broken(view: LocalView, start: int, buffer: memoryview) -> None:
        if start >= REGION_CHUNKS * CHUNK_SIZE_BYTES:
            raise RuntimeError("planted")
        read_into(view, start, buffer)

    monkeypatch.setattr(LocalView, "read_into", broken)
    model = agent.capture()
    assert model.aborted.code == "invariant-violation"
    _assert_window_is_whole(agent)


def test_a_state_folder_that_cannot_be_written_aborts_and_is_named(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(0, 1)
    (tmp_path / "state").write_text("a file where a folder should be")
    model = agent.capture()
    assert str(tmp_path / "state") in model.aborted.message
    assert "state folder" in model.aborted.message


def test_stopping_wakes_a_scanner_that_waits_for_the_window(tmp_path: Path) -> None:
    agent = new_agent(tmp_path)
    agent.volume.write(0, 4 * REGION_CHUNKS)
    buffers = [agent.window.take_buffer(agent.volume_id) for _ in range(4)]
    for batch, buffer in enumerate(buffers):
        agent.window.offer(agent.volume_id, batch, buffer)
    model = Model(agent.window, {})
    capture = agent.start(model)
    stopper = threading.Thread(target=capture.stop)
    stopper.start()
    stopper.join(timeout=10)
    assert not stopper.is_alive()


def _is_batch(event: Event) -> bool:
    return isinstance(event, ExtentsChanged)


def _is_start(event: Event) -> bool:
    return isinstance(event, CaptureStarted)


def _assert_window_is_whole(agent: Agent) -> None:
    """All four buffers can be had, and no two of them are the same one."""
    buffers = [agent.window.take_buffer(agent.volume_id) for _ in range(4)]
    assert len({id(buffer) for buffer in buffers}) == 4
