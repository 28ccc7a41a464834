import threading
from concurrent.futures import ThreadPoolExecutor

from deploy.local.process import wait_until
from services.chunker.lanes import Lanes

SECONDS_MAX = 10


def test_a_step_is_shared_only_while_a_lane_has_nothing_to_do() -> None:
    lanes, go = Lanes(ThreadPoolExecutor(2), 2), threading.Event()
    first = lanes.submit(lambda: _wait(go))
    second = lanes.submit_if_idle(lambda: _wait(go))
    assert second is not None
    assert lanes.submit_if_idle(lambda: None) is None
    waiting = lanes.submit(lambda: None)
    go.set()
    for step in (first, second, waiting):
        step.result(SECONDS_MAX)
    lanes.close()


def test_a_step_that_waits_for_one_it_has_shared_never_waits_for_a_third() -> None:
    lanes = Lanes(ThreadPoolExecutor(2), 2)

    def step() -> None:
        shared = lanes.submit_if_idle(lambda: None)
        if shared:
            shared.result(SECONDS_MAX)

    for one in [lanes.submit(step) for _ in range(500)]:
        one.result(SECONDS_MAX)
    shared = lanes.submit_if_idle(lambda: None)
    assert shared is not None, "every lane is idle again"
    lanes.close()


def test_lanes_whose_steps_failed_are_idle_again() -> None:
    lanes = Lanes(ThreadPoolExecutor(1), 1)
    for _ in range(3):
        shared = lanes.submit_if_idle(_fail)
        assert shared is not None
        assert isinstance(shared.exception(SECONDS_MAX), ZeroDivisionError)
        lanes.submit(lambda: None).result(SECONDS_MAX)
    lanes.close()


def test_steps_that_were_not_begun_are_left_out_when_lanes_close() -> None:
    lanes, go, begun = Lanes(ThreadPoolExecutor(1), 1), threading.Event(), threading.Event()
    running = lanes.submit(lambda: (begun.set(), _wait(go))[1])
    left_out = lanes.submit(lambda: None)
    assert begun.wait(SECONDS_MAX)
    closing = threading.Thread(target=lanes.close)
    closing.start()
    assert wait_until(left_out.cancelled, SECONDS_MAX)
    go.set()
    running.result(SECONDS_MAX)
    closing.join(SECONDS_MAX)
    assert not closing.is_alive()


def _wait(event: threading.Event) -> None:
    assert event.wait(SECONDS_MAX)


def _fail() -> None:
    raise ZeroDivisionError
