import threading
from uuid import UUID, uuid4

import pytest

from libs.errors import SourceError
from services.change_capture.agent.window import SPAN_SIZE_BYTES, Window

A, B = UUID(int=1), UUID(int=2)


def in_thread(call: object) -> tuple[threading.Thread, list[object]]:
    """Calls it in a thread; what it returned or raised is in the list once the thread ends."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())  # type: ignore[operator]  # a function without arguments
        except SourceError as err:
            outcome.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def joined(started: tuple[threading.Thread, list[object]]) -> object:
    thread, outcome = started
    thread.join(timeout=10)
    assert not thread.is_alive()
    return outcome[0]


def test_there_are_never_more_buffers_than_allowed() -> None:
    window = Window(2)
    first, second = window.take_buffer(A), window.take_buffer(B)
    assert len(first) == len(second) == SPAN_SIZE_BYTES
    third = in_thread(lambda: window.take_buffer(A))
    window.give_back(first)
    assert joined(third) is first


def test_all_buffers_are_made_beforehand_and_no_more() -> None:
    window = Window(2)
    window.preallocate()
    window.preallocate()
    first, second = window.take_buffer(A), window.take_buffer(B)
    assert first is not second
    third = in_thread(lambda: window.take_buffer(A))
    window.give_back(second)
    assert joined(third) is second


def test_a_span_is_claimed_once() -> None:
    window = Window(1)
    buffer = window.take_buffer(A)
    window.offer(A, 0, buffer)
    assert window.claim(A, 1) is None
    assert window.claim(B, 0) is None
    assert window.claim(A, 0) is buffer
    assert window.claim(A, 0) is None


def test_claiming_and_giving_back_lets_a_waiting_scanner_go_on() -> None:
    window = Window(1)
    buffer = window.take_buffer(A)
    window.offer(A, 0, buffer)
    waiting = in_thread(lambda: window.take_buffer(B))
    claimed = window.claim(A, 0)
    assert claimed is not None
    window.give_back(claimed)
    assert joined(waiting) is buffer


def test_stopping_wakes_the_waiting_scanners_of_that_capture_only() -> None:
    window = Window(1)
    buffer = window.take_buffer(B)
    stopped = in_thread(lambda: window.take_buffer(A))
    other = in_thread(lambda: window.take_buffer(B))
    window.stop(A)
    assert isinstance(joined(stopped), SourceError)
    assert other[0].is_alive()
    window.give_back(buffer)
    assert joined(other) is buffer


def test_stopping_frees_the_offered_spans_for_others() -> None:
    window = Window(2)
    for batch in range(2):
        window.offer(A, batch, window.take_buffer(A))
    waiting = [in_thread(lambda: window.take_buffer(B)) for _ in range(2)]
    window.stop(A)
    assert joined(waiting[0]) is not joined(waiting[1])
    assert window.claim(A, 0) is None


def test_a_late_offer_of_a_stopped_capture_is_not_kept() -> None:
    window = Window(1)
    buffer = window.take_buffer(A)
    window.stop(A)
    window.offer(A, 0, buffer)
    assert window.claim(A, 0) is None
    assert window.take_buffer(B) is buffer


def test_a_stopped_capture_gets_no_buffer_until_it_is_forgotten() -> None:
    window = Window(1)
    window.stop(A)
    with pytest.raises(SourceError, match="stopped"):
        window.take_buffer(A)
    window.forget(A)
    window.take_buffer(A)


def test_forgetting_leaves_nothing_behind() -> None:
    window = Window(1)
    for _ in range(100):
        capture = uuid4()
        window.offer(capture, 0, window.take_buffer(capture))
        window.stop(capture)
        window.forget(capture)
    assert window.stopped_count == 0
    assert window.free_count == 1
