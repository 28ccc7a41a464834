import threading
import time

from libs.runtime.threads import start_thread
from services.change_capture.filter.gate import Gate


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestGate:
    def test_a_hold_waits_for_those_inside(self) -> None:
        gate = Gate()
        passage = gate.passage()
        passage.enter()
        closed = threading.Event()
        holder = start_thread("hold", lambda: gate.close(60) and closed.set())
        until(lambda: gate.is_closed)
        assert not closed.is_set()
        passage.leave()
        holder.join(30)
        assert closed.is_set()
        assert gate.open()

    def test_who_comes_to_a_closed_gate_waits_until_it_opens(self) -> None:
        gate, inside = Gate(), threading.Event()
        passage = gate.passage()
        assert gate.close(60)
        writer = start_thread("write", lambda: (passage.enter(), inside.set()))
        assert not inside.wait(0.05)
        assert gate.is_holding
        assert gate.open()
        writer.join(30)
        assert inside.is_set()

    def test_a_hold_ends_by_itself_and_says_so(self) -> None:
        gate = Gate()
        passage = gate.passage()
        assert gate.close(0.05)
        passage.enter()  # nobody opens it
        assert not gate.is_holding
        assert not gate.open()

    def test_a_release_after_the_deadline_is_of_a_broken_hold_although_nobody_wrote(self) -> None:
        gate = Gate()
        assert gate.close(0.05)
        over = time.monotonic() + 0.05
        until(lambda: time.monotonic() >= over)
        assert not gate.open()

    def test_a_write_that_does_not_end_breaks_the_hold(self) -> None:
        gate = Gate()
        passage = gate.passage()
        passage.enter()
        assert not gate.close(0.05)
        assert not gate.is_closed

    def test_a_connection_that_ends_inside_holds_nobody_up(self) -> None:
        gate = Gate()
        passage = gate.passage()
        passage.enter()
        gate.remove(passage)
        assert gate.close(60)

    def test_no_writer_is_inside_while_the_gate_is_held(self) -> None:
        """Writers in a loop; each hold sees a number that does not move."""
        gate, over = Gate(), threading.Event()
        counts = [0] * 3

        def write(number: int) -> None:
            passage = gate.passage()
            while not over.is_set():
                passage.enter()
                counts[number] += 1
                passage.leave()

        writers = [start_thread("write", write, number) for number in range(3)]
        for _ in range(50):
            assert gate.close(60)
            before = list(counts)
            time.sleep(0.0005)
            assert counts == before
            assert gate.open()
            time.sleep(0.0005)
        over.set()
        for writer in writers:
            writer.join(30)
        assert min(counts) > 0
