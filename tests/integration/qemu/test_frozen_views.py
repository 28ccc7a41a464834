"""A cut disk: its guest writes on, and whatever goes wrong is the capture's and not the guest's."""

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.process import wait_until
from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.qemu import cut
from services.change_capture.drivers.qemu.driver import QemuDriver
from tests.integration.qemu.test_kept_bitmaps import AT_REST
from tests.support.driver_sites import QemuSite
from tests.support.file_systems import mounted, needs_mounts, run
from tests.support.qemu import SECONDS_MAX
from tests.support.roots import EVERYTHING, TENANT
from tests.support.taking import Chunks, Taken, chunks_of

_SLOT_SIZE_BYTES = 4096
_SLOTS_PER_CHUNK = CHUNK_SIZE_BYTES // _SLOT_SIZE_BYTES
_WRITTEN_CHUNKS = 256
_WRITES_PER_CHUNK = 24
_MODEL_CHUNKS = 80


def test_a_view_stays_as_it_was_cut(any_site: QemuSite) -> None:
    any_site.write(0, 64)
    with contextlib.closing(any_site.driver.view(TENANT, any_site.path)) as view:
        before = chunks_of(view)
        any_site.write(3, 5)
        any_site.zero(20, 10)
        any_site.daemon.guest.trim(40 * CHUNK_SIZE_BYTES, 8 * CHUNK_SIZE_BYTES)
        assert chunks_of(view) == before
        assert view.consistency() == "frozen"
    with contextlib.closing(any_site.driver.view(TENANT, any_site.path)) as view:
        after = chunks_of(view)
    assert {n for n in before if before[n] != after.get(n)} >= {*range(3, 8), *range(20, 30)}


def test_a_view_is_of_one_moment_while_the_guest_writes(site: QemuSite) -> None:
    """Numbered writes one after another: a view has all up to one of them, and none after it.

    What each capture names, put upon what was known, is what its own view has. A chunk is written
    to some times, and then not again for long: whoever overlooks one of the last is found out.
    """
    site.resize(_WRITTEN_CHUNKS * CHUNK_SIZE_BYTES)
    slots = [
        number // _WRITES_PER_CHUNK % _WRITTEN_CHUNKS * _SLOTS_PER_CHUNK + number % _SLOTS_PER_CHUNK
        for number in range(1_000_000)
    ]
    ends = threading.Event()
    done = [0]

    def write() -> None:
        for number, slot in enumerate(slots, start=1):
            if ends.is_set():
                return
            content = number.to_bytes(8, "little") * (_SLOT_SIZE_BYTES // 8)
            site.daemon.guest.write(slot * _SLOT_SIZE_BYTES, content)
            done[0] = number

    writer = threading.Thread(target=write)
    writer.start()
    try:
        base: Taken | None = None
        numbers = [0]
        for _ in range(4):
            assert wait_until(lambda: done[0] > numbers[-1], SECONDS_MAX)
            base = Taken(site, base).settle(sealed=True)
            assert base.chunks == base.truth
            numbers.append(last_number(base.truth))
            assert slots_of(base.truth) == written(slots[: numbers[-1]])
    finally:
        ends.set()
        writer.join()
    assert numbers == sorted(set(numbers))


def written(slots: list[int]) -> dict[int, int]:
    return {slot: number for number, slot in enumerate(slots, start=1)}


def slots_of(chunks: Chunks) -> dict[int, int]:
    found = {
        index * _SLOTS_PER_CHUNK + n: chunk[n * _SLOT_SIZE_BYTES : (n + 1) * _SLOT_SIZE_BYTES]
        for index, chunk in chunks.items()
        for n in range(_SLOTS_PER_CHUNK)
    }
    assert all(content[:8] * (_SLOT_SIZE_BYTES // 8) == content for content in found.values())
    return {
        slot: int.from_bytes(content[:8], "little")
        for slot, content in found.items()
        if any(content)
    }


def last_number(chunks: Chunks) -> int:
    return max(slots_of(chunks).values(), default=0)


def test_whatever_a_guest_does_is_what_captures_find(any_site: QemuSite) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    print("seed", seed)
    size = _MODEL_CHUNKS * CHUNK_SIZE_BYTES
    any_site.resize(size)
    model = bytearray(size)
    base: Taken | None = None
    for round_ in range(4):
        for _ in range(rng.randrange(1, 25)):
            start = rng.randrange(size // 512) * 512
            length = min(rng.choice([512, 4096, 65536, 300_032]), size - start)
            if rng.random() < 0.3:
                model[start : start + length] = bytes(length)
                any_site.daemon.guest.write_zeroes(start, length)
            else:
                content = rng.randbytes(length)
                model[start : start + length] = content
                any_site.daemon.guest.write(start, content)
        taken = Taken(any_site, base, finishes=rng.random() < 0.8)
        assert (taken.trust == "candidates") == (base is not None), round_
        truth = {
            n: bytes(chunk)
            for n in range(_MODEL_CHUNKS)
            if any(chunk := model[n * CHUNK_SIZE_BYTES : (n + 1) * CHUNK_SIZE_BYTES])
        }
        assert taken.chunks == taken.truth == truth
        if base is None or rng.random() < 0.7:
            again = Taken(any_site, base)
            assert again.chunks == truth
            base = again.settle(sealed=True)


def test_several_views_of_a_disk_end_in_any_order(site: QemuSite) -> None:
    site.write(0, 8)
    views, truths = [], []
    for n in range(3):
        views.append(site.driver.view(TENANT, site.path))
        truths.append(chunks_of(views[-1]))
        site.write(n, 2)
    for n in (1, 0, 2):
        assert chunks_of(views[n]) == truths[n]
        site.write(n + 3, 1)
        views[n].close()
        site.write(n, 1)
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST
    assert site.daemon.bitmaps() == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with mounted(tmp_path / "small.image", tmp_path / "small", "ext4", 8) as made:
        yield made


@needs_mounts
def test_a_scratch_file_without_room_breaks_the_view_and_no_write(
    small: Path, site: QemuSite
) -> None:
    site.driver = QemuDriver(small, EVERYTHING)
    site.write(0, 320)
    base = Taken(site, None).settle(sealed=True)
    site.write(300, 1)
    with contextlib.ExitStack() as closed:
        view = closed.enter_context(contextlib.closing(site.driver.view(TENANT, site.path)))
        tracker = site.driver.tracker(site.order(base.session), view)
        closed.callback(tracker.close)
        for n in range(0, 320, 4):
            site.write(n, 4)
        with pytest.raises(SourceError, match="frozen view broke"):
            view.read_into(5 * CHUNK_SIZE_BYTES, memoryview(bytearray(CHUNK_SIZE_BYTES)))
    tracker.settle(sealed=False)
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST
    taken = Taken(site, base)
    assert (taken.named, taken.chunks) == ({*range(320)}, taken.truth)
    assert list(small.rglob("scratch*")) == []


@needs_mounts
def test_a_scratch_file_that_takes_nothing_breaks_the_view_and_no_write(
    small: Path, site: QemuSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file system is frozen; the guest waits for a while, and then no more."""
    monkeypatch.setattr(cut, "_COPY_SECONDS_MAX", 1)
    site.driver = QemuDriver(small, EVERYTHING)
    site.write(0, 16)
    with contextlib.closing(site.driver.view(TENANT, site.path)) as view:
        run("fsfreeze", "--freeze", str(small))
        try:
            site.write(3, 1)
            site.write(4, 1)
            with pytest.raises(SourceError, match="frozen view broke"):
                view.read_into(0, memoryview(bytearray(CHUNK_SIZE_BYTES)))
        finally:
            run("fsfreeze", "--unfreeze", str(small))
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST


def test_the_backup_of_another_tool_goes_on_beside_ours(site: QemuSite, tmp_path: Path) -> None:
    """A job of QEMU that puts its own filter between the guest and the disk, and takes it away."""
    site.write(0, 64)
    base = Taken(site, None).settle(sealed=True)
    target = tmp_path / "target"
    target.write_bytes(bytes(site.daemon.size_bytes))
    site.daemon.do("blockdev-add", driver="file", node_name="theirs", filename=str(target))
    begun = {"job-id": "theirs", "device": "disk", "target": "theirs", "sync": "none"}
    site.daemon.do("blockdev-backup", **begun)
    site.write(1, 1)
    during = Taken(site, base).settle(sealed=True)
    assert (during.named, during.chunks) == ({1}, during.truth)
    with contextlib.closing(site.driver.view(TENANT, site.path)) as view:
        truth = chunks_of(view)
        site.daemon.do("block-job-cancel", device="theirs")
        site.write(2, 1)
        assert chunks_of(view) == truth
    last = Taken(site, during)
    assert (last.named, last.chunks) == ({2}, last.truth)


@pytest.mark.parametrize("name", ["none", "disk", "guest", "machine/peripheral/vd0"])
def test_what_cannot_be_cut_is_a_source_error_and_leaves_nothing(site: QemuSite, name: str) -> None:
    site.write(0, 1)
    with pytest.raises(SourceError):
        site.driver.view(TENANT, site.daemon.socket / name)
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST
    assert site.daemon.bitmaps() == []


def test_a_disk_that_somebody_else_writes_to_is_refused(site: QemuSite) -> None:
    """What goes past the filter would change the frozen bytes."""
    site.write(0, 1)
    past = {"type": "nbd", "id": "past", "node_name": "disk", "name": "past", "writable": True}
    site.daemon.do("block-export-add", **past)
    with pytest.raises(SourceError, match=r"[Cc]onflict|permission|use"):
        site.driver.view(TENANT, site.path)
    site.daemon.do("block-export-del", id="past")
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST
    assert site.daemon.bitmaps() == []
