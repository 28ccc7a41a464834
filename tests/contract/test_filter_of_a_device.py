"""A filter in front of a block device: marks, cut and hand-over are those of a file."""

import contextlib
from pathlib import Path

from tests.contract.test_filter_handover import upgraded
from tests.contract.test_filter_programs import SIZE, Site, content_of, named
from tests.contract.test_nbd_programs import needs, run
from tests.support.loop_devices import LoopDevice
from tests.support.writing_guest import SECONDS_MAX


def test_a_device_is_tracked_cut_and_handed_over(loop: LoopDevice, tmp_path: Path) -> None:
    needs("qemu-io")
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(SIZE)
    loop.attach(backing)
    site = Site(tmp_path, loop.path)
    with contextlib.ExitStack() as ending:
        process = site.start()
        ending.callback(process.kill)
        site._wait(process)
        base = site.seal()
        run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 1 1M 4k", "-c", "discard 2M 64k")
        successor = upgraded(site, process)
        ending.callback(successor.kill)
        run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 2 5M 1M", "-c", "write -z 8M 64k")
        at_cut = loop.path.read_bytes()
        _, tracker, view = site.take(base)
        run("qemu-io", "-f", "raw", site.uri, "-c", "write -P 3 0 16M")
        assert named(tracker) == {16, 32, *range(80, 96), 128}
        assert content_of(view) == at_cut
        view.close()
        successor.terminate()
        assert successor.wait(SECONDS_MAX) == 0
