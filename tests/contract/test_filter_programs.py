"""The volume filter as a process, used by programs that others wrote."""

import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.runtime.buffers import large_buffer
from services.change_capture.drivers.filter.client import FilterClient
from services.change_capture.drivers.filter.driver import FilterDriver
from services.change_capture.drivers.port import FrozenView, SourceOrder, Tracker
from services.change_capture.filter.messages import About, Ask, CutNow, HoldWrites, expect
from services.change_capture.filter.places import control_path
from tests.contract.test_nbd_programs import needs, run
from tests.support.roots import EVERYTHING, TENANT

SIZE = 64 << 20


class Site:
    """An image, and what a filter process in front of it needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "image"
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        self.uri = f"nbd+unix:///?socket={folder / 'nbd.sock'}"
        self.driver = FilterDriver(folder / "filters", EVERYTHING)
        self.volume = uuid4()
        with self.image.open("rb") as file:
            self.control = control_path(folder / "filters", file.fileno())

    def start(self, module: list[str] | None = None, **settings: str) -> subprocess.Popen[bytes]:
        folder = self.folder
        own = {
            "VOLUME": str(self.image),
            "NBD_LISTEN": f"unix:{folder / 'nbd.sock'}",
            "STATE_FOLDER": str(folder / "state"),
            "CONTROL_FOLDER": str(folder / "filters"),
            **settings,
        }
        environment = {
            **{name: text for name, text in os.environ.items() if "BACKCAST" not in name},
            **{f"BACKCAST_FILTER_{name}": text for name, text in own.items()},
        }
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *(module or ["services.change_capture.filter"])],
                env=environment,
                stderr=log,
                stdout=log,
            )

    @contextlib.contextmanager
    def running(self, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """A filter process that answers; it is stopped cleanly if it runs still."""
        process = self.start(**settings)
        try:
            self._wait(process)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(SourceError):
                FilterClient(self.control).close()
                return
            assert process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def take(self, base: SourceOrder | None) -> tuple[SourceOrder, Tracker, FrozenView]:
        view = self.driver.view(TENANT, self.image)
        order = SourceOrder(
            volume=self.volume,
            session=uuid4(),
            path=self.image,
            base=base.session if base else None,
            is_trusted=True,
            secret=b"s" * 32,
        )
        return order, self.driver.tracker(order, view), view

    def seal(self) -> SourceOrder:
        order, tracker, view = self.take(None)
        view.close()
        tracker.settle(sealed=True)
        return order


def named(tracker: Tracker) -> set[int]:
    assert tracker.trust == "candidates", tracker.lost
    return {
        number
        for one in tracker.candidates()
        for number in range(
            one.extent.start // CHUNK_SIZE_BYTES, one.extent.end // CHUNK_SIZE_BYTES
        )
    }


def content_of(view: FrozenView) -> bytes:
    whole = memoryview(large_buffer(view.size_bytes))
    view.read_into(0, whole)
    return bytes(whole)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class TestFilterProcess:
    def test_is_what_qemu_and_libnbd_expect_of_a_disk(self, site: Site, tmp_path: Path) -> None:
        needs("qemu-img", "qemu-io", "nbdinfo", "nbdcopy")
        other = tmp_path / "other"
        other.write_bytes(random.Random(3).randbytes(8 << 20))
        with site.running():
            (about,) = json.loads(run("nbdinfo", "--json", site.uri))["exports"]
            assert about["export-size"] == SIZE
            assert about["can_multi_conn"]
            assert about["can_fua"]
            assert about["can_flush"]
            assert about["can_trim"]
            assert about["can_zero"]
            assert not about["is_read_only"]
            assert "volume" in run("nbdinfo", "--list", site.uri)
            run("nbdcopy", str(other), site.uri)
            assert site.image.read_bytes()[: 8 << 20] == other.read_bytes()
            said = run(
                *("qemu-io", "-f", "raw", site.uri),
                *("-c", "write -P 17 1000 70000", "-c", "read -P 17 1000 70000"),
                *("-c", "write -z 65536 65536", "-c", "read -P 0 65536 65536"),
                *("-c", "write -f -P 3 40M 1M", "-c", "flush", "-c", "discard 1M 2M"),
                *("-c", "read -P 0 1M 2M", "-c", "aio_write -P 9 50M 64k", "-c", "aio_flush"),
            )
            assert "failed" not in said
            assert "error" not in said
            run("nbdcopy", site.uri, str(tmp_path / "copy"))
            assert (tmp_path / "copy").read_bytes() == site.image.read_bytes()
            said = run("qemu-img", "compare", "-f", "raw", "-F", "raw", site.uri, str(site.image))
            assert "identical" in said
            extents = json.loads(run("nbdinfo", "--map", "--json", site.uri))
            assert sum(one["length"] for one in extents) == SIZE
            assert any(one["type"] == 3 for one in extents)
            unknown = site.uri.replace("///", "///nobody")
            refused = subprocess.run(["nbdinfo", unknown], capture_output=True, check=False)
            assert refused.returncode != 0

    def test_names_what_was_written_since_the_base_and_reads_the_cut(self, site: Site) -> None:
        needs("qemu-io")
        with site.running():
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 1 0 8M")
            first = site.seal()
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 1M 4k", "-c", "write -z 5M 1M")
            at_cut = site.image.read_bytes()
            _, tracker, view = site.take(first)
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 3 0 16M")
            assert named(tracker) == {16, *range(80, 96)}
            assert content_of(view) == at_cut
            assert view.consistency() == "frozen"
            view.close()

    def test_a_clean_stop_keeps_what_is_tracked_and_a_kill_loses_it(self, site: Site) -> None:
        needs("qemu-io")
        with site.running():
            first = site.seal()
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 1M 4k")
        with site.running() as process:
            second, tracker, view = site.take(first)
            assert named(tracker) == {16}
            view.close()
            tracker.settle(sealed=True)
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 3 2M 4k")
            process.send_signal(signal.SIGKILL)
            process.wait()
        with site.running():
            _, tracker, view = site.take(second)
            assert tracker.trust == "everything"
            assert tracker.lost is not None
            assert tracker.lost.reason == "unclean"
            assert content_of(view) == site.image.read_bytes()
            view.close()

    def test_a_write_behind_its_back_is_lost(self, site: Site) -> None:
        with site.running():
            first = site.seal()
        with site.image.open("r+b") as file:
            file.write(b"another hand")
        with site.running():
            _, tracker, view = site.take(first)
            assert tracker.lost is not None
            view.close()

    def test_an_agent_that_is_gone_holds_no_write_and_loses_no_mark(self, site: Site) -> None:
        """Its connection ends after the hold, after the cut, and with a view."""
        needs("qemu-io")
        with site.running():
            first = site.seal()
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 1M 4k")
            for orders in ([HoldWrites(30.0)], [HoldWrites(30.0), CutNow()]):
                agent = FilterClient(site.control)
                for order in orders:
                    agent.ask(order)
                agent.close()
                run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 2M 4k")
            _, _, view = site.take(first)
            view._client.close()
            deadline = time.monotonic() + 30
            agent = FilterClient(site.control)
            while expect(agent.ask(Ask())[0], About).view_count:
                assert time.monotonic() < deadline
            with pytest.raises(SourceError):
                content_of(view)
            agent.close()
            _, tracker, view = site.take(first)
            assert named(tracker) == {16, 32}
            view.close()

    def test_a_scratch_file_that_is_full_breaks_the_view_and_no_write(self, site: Site) -> None:
        needs("qemu-io")
        with site.running(SCRATCH_SIZE_BYTES_MAX=str(4 << 20)):
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 1 0 32M")
            _, _, view = site.take(None)
            said = run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 0 32M")
            assert "failed" not in said
            with pytest.raises(SourceError, match="give the scratch file more room"):
                content_of(view)
            with pytest.raises(SourceError, match="take the snapshot again"):
                view.consistency()
            view.close()
            _, _, again = site.take(None)
            assert content_of(again) == site.image.read_bytes()
            again.close()

    def test_serves_past_the_page_cache(self, site: Site) -> None:
        needs("qemu-io", "qemu-img")
        with site.running(DIRECT="true"):
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 1 0 32M")
            first = site.seal()
            before = site.image.read_bytes()
            said = run(
                *("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 1M 4k"),
                *("-c", "aio_write -P 3 4M 64k", "-c", "aio_write -P 4 6M 64k", "-c", "aio_flush"),
                *("-c", "read -P 3 4M 64k", "-c", "write -z 8M 64k", "-c", "write -P 5 100 50"),
            )
            assert "failed" not in said
            assert site.image.read_bytes()[100:151] == b"\5" * 50 + b"\1"
            _, tracker, view = site.take(first)
            assert named(tracker) == {0, 16, 64, 96, 128}
            at_cut = site.image.read_bytes()
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 9 0 16M")
            assert content_of(view) == at_cut != before
            view.close()
            said = run("qemu-img", "compare", "-f", "raw", "-F", "raw", site.uri, str(site.image))
            assert "identical" in said

    def test_a_stranger_on_the_control_socket_gets_an_end_and_harms_nobody(
        self, site: Site
    ) -> None:
        needs("qemu-io")
        rng = random.Random(11)
        with site.running() as process:
            first = site.seal()
            run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 1M 4k")
            for _ in range(60):
                size = rng.choice([0, 1, 40, 70_000, 0xFFFFFFFF])
                message = rng.randbytes(rng.randrange(64))
                head = rng.choice([b"BCF1", b"BCF2"]) + struct.pack(
                    ">II", rng.choice([size, len(message)]), rng.choice([0, 0, 5])
                )
                with socket.socket(socket.AF_UNIX) as stranger:
                    stranger.settimeout(30)
                    stranger.connect(str(site.control))
                    with contextlib.suppress(BrokenPipeError):
                        stranger.sendall(head + message)
                        stranger.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionResetError):
                        assert stranger.recv(1) in (b"", b"B")
            assert process.poll() is None
            _, tracker, view = site.take(first)
            assert named(tracker) == {16}
            view.close()

    def test_two_filters_of_one_volume_are_refused(self, site: Site) -> None:
        with site.running():
            started = site.start(NBD_LISTEN=f"unix:{site.folder / 'second.sock'}")
            assert started.wait(60) == SourceError.exit_code
            assert "another process has locked it" in (site.folder / "log").read_text()
