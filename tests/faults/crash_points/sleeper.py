"""A step on a thread of its own, so that its process can be paused in the middle of it."""

import threading

from tests.faults.crash_points.effects import Effects, Killed
from tests.faults.crash_points.inline import close_loop
from tests.faults.crash_points.process import Actor


class Sleeper:
    """A step that runs on a thread of its own, and may fall asleep in the middle."""

    def __init__(self, actor: Actor, effects: Effects) -> None:
        self.actor = actor
        self.finished = False
        self._outcome: bool | BaseException = False
        self._effects = effects
        effects.turn.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        effects.turn.wait()
        if self.finished:
            self._thread.join()

    def result(self) -> bool:
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def wake(self, effects: Effects) -> None:
        """Let it go on to the end of its step, and then no further."""
        assert effects.pause is not None
        effects.turn.clear()
        effects.pause.life.asleep = False
        effects.pause.wake()
        effects.turn.wait()
        self._thread.join()
        if not isinstance(self._outcome, Killed):
            self.result()
        if self.actor.replaceable:
            self.actor.life.alive = False

    def _run(self) -> None:
        try:
            self._outcome = self.actor.step()
        except BaseException as err:  # noqa: BLE001 -- raised where the step was taken
            self._outcome = err
        finally:
            close_loop()
            self.finished = True
            self._effects.turn.set()
