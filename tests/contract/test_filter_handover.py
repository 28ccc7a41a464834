"""A filter hands over to its successor while guests write."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import SourceError
from services.change_capture.drivers.filter.client import FilterClient
from services.change_capture.filter.messages import CutNow, HoldWrites
from tests.contract.test_filter_programs import SIZE, Site, content_of, named
from tests.contract.test_nbd_programs import needs
from tests.support.writing_guest import SECONDS_MAX, WritingGuest

_BLOCKS = SIZE // 4096


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextlib.contextmanager
def writing(site: Site) -> Iterator[list[WritingGuest]]:
    """Three guests, each with blocks of its own."""
    listen = f"unix:{site.folder / 'nbd.sock'}"
    guests = [WritingGuest(listen, range(n, _BLOCKS, 3), seed=n) for n in range(3)]
    try:
        yield guests
    finally:
        for guest in guests:
            guest.stop()


def upgraded(site: Site, old: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """A successor that serves; the old process waits to be stopped, and is."""
    new = site.start(TAKE_OVER="true")
    wait_for_log(site, "taken over", new)
    assert old.poll() is None
    old.terminate()
    assert old.wait(SECONDS_MAX) == 0
    return new


def wait_for_log(site: Site, message: str, process: subprocess.Popen[bytes]) -> None:
    deadline, log = time.monotonic() + SECONDS_MAX, site.folder / "log"
    while f'"{message}"' not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_no_guest_notices_and_no_mark_is_lost(site: Site) -> None:
    with contextlib.ExitStack() as ending:
        first_process = site.start()
        ending.callback(first_process.kill)
        site._wait(first_process)
        base = site.seal()
        with writing(site) as guests:
            process = first_process
            for number in range(1, 4):
                guests[0].wait_for(20)
                (site.folder / "log").write_text("")
                process = upgraded(site, process)
                ending.callback(process.kill)
                for guest in guests:
                    guest.wait_for(20)
                assert [guest.lost for guest in guests] == [[], [], []], number
        _, tracker, view = site.take(base)
        chunks = set.union(*(guest.chunks for guest in guests))
        assert named(tracker) >= chunks
        assert content_of(view) == site.image.read_bytes()
        view.close()
        process.terminate()
        assert process.wait(SECONDS_MAX) == 0
    for guest in guests:
        guest.check(site.image)


def test_a_signal_is_enough_and_the_predecessor_ends(site: Site) -> None:
    """As systemd reloads it; the metrics' address goes on to the successor."""
    with contextlib.ExitStack() as ending:
        process = site.start()
        ending.callback(process.kill)
        site._wait(process)
        base = site.seal()
        with writing(site) as guests:
            process.send_signal(signal.SIGHUP)
            assert process.wait(SECONDS_MAX) == 0
            for guest in guests:
                guest.wait_for(20)
            assert [guest.lost for guest in guests] == [[], [], []]
        _, tracker, view = site.take(base)
        assert named(tracker) >= set.union(*(guest.chunks for guest in guests))
        view.close()
        successor = _pid_of_the_filter(site)
        os.kill(successor, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_MAX
        while site.control.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    for guest in guests:
        guest.check(site.image)


def test_a_guest_of_qemu_notices_nothing(site: Site) -> None:
    """`qemu-io` writes, is handed over in the middle, and verifies on the same connection."""
    needs("qemu-io")
    with contextlib.ExitStack() as ending:
        process = site.start()
        ending.callback(process.kill)
        site._wait(process)
        guest = subprocess.Popen(
            ["qemu-io", "-f", "raw", site.uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ending.callback(guest.kill)
        assert guest.stdin is not None
        guest.stdin.write("write -P 5 1M 3M\n")
        guest.stdin.flush()
        deadline = time.monotonic() + SECONDS_MAX
        while site.image.read_bytes()[(4 << 20) - 1] != 5:
            assert time.monotonic() < deadline
        successor = upgraded(site, process)
        ending.callback(successor.kill)
        said, _ = guest.communicate(
            "read -P 5 1M 3M\nwrite -P 6 8M 64k\nread -P 6 8M 64k\nflush\nquit\n", SECONDS_MAX
        )
        assert guest.returncode == 0, said
        assert "failed" not in said
        assert "error" not in said.lower()
        assert said.count("read 3145728/3145728 bytes") == 1
        successor.terminate()
        assert successor.wait(SECONDS_MAX) == 0


def test_a_barrier_is_not_broken_by_a_successor_that_waits(site: Site) -> None:
    with contextlib.ExitStack() as ending:
        process = site.start()
        ending.callback(process.kill)
        site._wait(process)
        agent = FilterClient(site.control)
        agent.ask(HoldWrites(30.0))
        successor = site.start(TAKE_OVER="true")
        ending.callback(successor.kill)
        agent.ask(CutNow())
        agent.close()
        wait_for_log(site, "taken over", successor)
        for one in (process, successor):
            one.terminate()
            assert one.wait(SECONDS_MAX) == 0


def test_a_successor_that_would_serve_otherwise_is_refused_and_nothing_stops(site: Site) -> None:
    with contextlib.ExitStack() as ending:
        process = site.start()
        ending.callback(process.kill)
        site._wait(process)
        with writing(site) as guests:
            guests[0].wait_for(5)
            for other in ({"EXPORT": "another"}, {"DIRECT": "true"}, {"STATE_FOLDER": "/tmp"}):
                successor = site.start(None, TAKE_OVER="true", **other)
                ending.callback(successor.kill)
                assert successor.wait(SECONDS_MAX) == 11
            guests[0].wait_for(5)
            assert [guest.lost for guest in guests] == [[], [], []]
        view = site.take(None)[2]
        view.close()
        process.terminate()
        assert process.wait(SECONDS_MAX) == 0


def test_a_successor_without_a_predecessor_starts_as_ever(site: Site) -> None:
    with site.running(TAKE_OVER="true"):
        base = site.seal()
    with site.running(TAKE_OVER="true"):
        _, tracker, view = site.take(base)
        assert named(tracker) == set()
        view.close()


def _pid_of_the_filter(site: Site) -> int:
    client = FilterClient(site.control)
    raw = client._socket.getsockopt(1, 17, 12)  # SOL_SOCKET, SO_PEERCRED
    client.close()
    return int.from_bytes(raw[:4], "little")


def test_views_end_at_a_hand_over_with_the_reason(site: Site) -> None:
    with contextlib.ExitStack() as ending:
        process = site.start()
        ending.callback(process.kill)
        site._wait(process)
        view = site.take(None)[2]
        successor = upgraded(site, process)
        ending.callback(successor.kill)
        with pytest.raises(SourceError):
            content_of(view)
        view.close()
        base = site.seal()
        _, tracker, again = site.take(base)
        assert tracker.trust == "candidates"
        again.close()
        successor.terminate()
        assert successor.wait(SECONDS_MAX) == 0
