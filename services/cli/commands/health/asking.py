"""Asks several things at once, and waits for the answers no longer than a person would."""

import queue
import time
from collections.abc import Callable, Mapping
from typing import Any

from libs.errors import BackcastError, UnavailableError
from libs.runtime.threads import start_thread


def ask_at_once(
    questions: Mapping[str, Callable[[], Any]], seconds_max: float
) -> dict[str, Any | BackcastError]:
    """What each question got: its answer, or why there is none.

    Args:
        questions: by their names. Each is asked in a thread of its own. One that gets no answer in
            time is left alone: its thread keeps no process from ending.
        seconds_max: for all of them together.

    Raises:
        Exception: of a question, if it is none of ours.
    """
    answered: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def answer(name: str, ask: Callable[[], Any]) -> None:
        try:
            answered.put((name, ask()))
        except Exception as err:  # noqa: BLE001 -- raised below, where somebody reads it
            answered.put((name, err))

    for name, ask in questions.items():
        start_thread(f"ask {name}", answer, name, ask, daemon=True)
    until, found = time.monotonic() + seconds_max, dict[str, Any]()
    while len(found) < len(questions):
        try:
            name, got = answered.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if isinstance(got, Exception) and not isinstance(got, BackcastError):
            raise got
        found[name] = got
    late = UnavailableError(f"no answer within {seconds_max:g} s")
    return {name: found.get(name, late) for name in questions}
