"""Either process of a hand-over is killed at each step, while guests write.

No guest ever reads a wrong byte, no acknowledged write is lost, and what is tracked names every
write or is said to be lost. Where the predecessor still has everything, no guest notices.
"""

import contextlib
import subprocess
import time
from pathlib import Path

import pytest

from libs.errors import BackcastError
from services.change_capture.drivers.port import SourceOrder, Tracker
from tests.contract.test_filter_handover import writing
from tests.contract.test_filter_programs import Site, content_of, named
from tests.support.ending_filter import PREDECESSOR, SUCCESSOR
from tests.support.writing_guest import SECONDS_MAX, WritingGuest

_MOMENTS = ("before", "after")
#: Until the successor has committed, the predecessor goes on with everything.
_UNNOTICED = {f"{step}:{when}" for step in ("inherit", "lock") for when in _MOMENTS} | {
    "commit:before"
}


class Supervisor:
    """Starts each of two filters again when it has been killed or has failed, as Kubernetes does.

    A filter that is started again takes over from the one that serves, if one does.
    """

    def __init__(self, site: Site, ending: contextlib.ExitStack) -> None:
        self._site = site
        self._ending = ending
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, which: str, step: str | None, **settings: str) -> subprocess.Popen[bytes]:
        module = ["tests.support.ending_filter", step] if step else None
        process = self._site.start(module=module, **settings)
        self.processes[which] = process
        self._ending.callback(process.kill)
        return process

    def attend(self) -> None:
        for which, process in list(self.processes.items()):
            if process.poll() is not None:
                self.start(which, None, TAKE_OVER="true")

    def until_all_write(self, guests: list[WritingGuest]) -> None:
        """Until every guest has done some more writes."""
        wanted = [guest.count + 10 for guest in guests]
        deadline = time.monotonic() + SECONDS_MAX
        while any(guest.count < count for guest, count in zip(guests, wanted, strict=True)):
            self.attend()
            assert time.monotonic() < deadline, (self._site.folder / "log").read_text()
            assert not any(guest.failure for guest in guests), [one.failure for one in guests]
            time.sleep(0.02)

    def take(self, base: SourceOrder) -> tuple[Tracker, bytes]:
        """What a cut is tracked and read as, by whichever filter serves.

        One that was started again may take over meanwhile, which ends the view.
        """
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                _, tracker, view = self._site.take(base)
                try:
                    return tracker, content_of(view)
                finally:
                    view.close()
            except BackcastError:
                assert time.monotonic() < deadline, (self._site.folder / "log").read_text()
                self.attend()
                time.sleep(0.05)


@pytest.mark.parametrize("when", _MOMENTS)
@pytest.mark.parametrize("step", [*PREDECESSOR, *SUCCESSOR])
def test_no_byte_is_wrong_and_no_write_is_missed(tmp_path: Path, step: str, when: str) -> None:
    site = Site(tmp_path)
    killed = f"{step}:{when}"
    with contextlib.ExitStack() as ending:
        supervisor = Supervisor(site, ending)
        old = supervisor.start("old", killed if step in PREDECESSOR else None)
        site._wait(old)
        base = site.seal()
        with writing(site) as guests:
            for guest in guests:
                guest.wait_for(10)
            new = supervisor.start("new", killed if step in SUCCESSOR else None, TAKE_OVER="true")
            victim = old if step in PREDECESSOR else new
            assert victim.wait(SECONDS_MAX) == -9, (site.folder / "log").read_text()
            supervisor.until_all_write(guests)
            if killed in _UNNOTICED:
                assert [guest.lost for guest in guests] == [[], [], []]
                assert old.poll() is None
        tracker, content = supervisor.take(base)
        if killed in _UNNOTICED:
            assert tracker.trust == "candidates", tracker.lost
        if tracker.trust == "candidates":
            assert named(tracker) >= set.union(*(guest.chunks for guest in guests))
        else:
            assert tracker.lost is not None
        assert content == site.image.read_bytes()
        for guest in guests:
            guest.check(site.image)
