import threading
import time

from libs.runtime.threads import start_thread
from services.change_capture.filter.valve import Valve


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestGate:
    def test_a_hold_waits_for_those_inside(self) -> None:
        valve = Valve()
        passage = valve.passage()
        passage.enter()
        closed = threading.Event()
        holder = start_thread("hold", lambda: valve.close(60) and closed.set())
        until(lambda: valve.is_closed)
        assert not closed.is_set()
        passage.leave()
        holder.join(30)
        assert closed.is_set()
        assert valve.open()

    def test_who_comes_to_a_closed_valve_waits_until_it_opens(self) -> None:
        valve, inside = Valve(), threading.Event()
        passage = valve.passage()
        assert valve.close(60)
        writer = start_thread("write", lambda: (passage.enter(), inside.set()))
        assert not inside.wait(0.05)
        assert valve.is_holding
        assert valve.open()
        writer.join(30)
        assert inside.is_set()

    def test_a_hold_ends_by_itself_and_says_so(self) -> None:
        valve = Valve()
        passage = valve.passage()
        assert valve.close(0.05)
        passage.enter()  # nobody opens it
        assert not valve.is_holding
        assert not valve.open()

    def test_a_release_after_the_deadline_is_of_a_broken_hold_although_nobody_wrote(self) -> None:
        valve = Valve()
        assert valve.close(0.05)
        over = time.monotonic() + 0.05
        until(lambda: time.monotonic() >= over)
        assert not valve.open()

    def test_a_write_that_does_not_end_breaks_the_hold(self) -> None:
        valve = Valve()
        passage = valve.passage()
        passage.enter()
        assert not valve.close(0.05)
        assert not valve.is_closed

    def test_a_connection_that_ends_inside_holds_nobody_up(self) -> None:
        valve = Valve()
        passage = valve.passage()
        passage.enter()
        valve.remove(passage)
        assert valve.close(60)

    def test_no_writer_is_inside_while_the_valve_is_held(self) -> None:
        """Writers in a loop; each hold sees a number that does not move."""
        valve, over = Valve(), threading.Event()
        counts = [0] * 3

        def write(number: int) -> None:
            passage = valve.passage()
            while not over.is_set():
                passage.enter()
                counts[number] += 1
                passage.leave()

        writers = [start_thread("write", write, number) for number in range(3)]
        for _ in range(50):
            assert valve.close(60)
            before = list(counts)
            time.sleep(0.0005)
            assert counts == before
            assert valve.open()
            time.sleep(0.0005)
        over.set()
        for writer in writers:
            writer.join(30)
        assert min(counts) > 0
