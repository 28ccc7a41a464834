"""Loops of the catalog service run in threads of their own, some of them in the background."""

import os
import threading
from collections.abc import Callable

import pytest

from libs.runtime.health import Health
from libs.runtime.signals import Stop
from services.catalog.loops import Loop, start_loops


@pytest.mark.parametrize("background", [False, True])
def test_only_a_loop_in_the_background_gives_way(background: bool) -> None:
    seen: list[int] = []

    def look(_stop: Stop, _interval_seconds: float, _progressed: Callable[[], None]) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    mine = os.getpriority(os.PRIO_PROCESS, 0)
    (thread,) = start_loops([Loop("one", look, 1, background=background)], Health(), Stop())
    thread.join(20)
    assert (seen[0] > mine) == background
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine
