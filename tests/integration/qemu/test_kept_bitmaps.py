"""Bitmaps that are kept: over restarts, beside those of others, and what makes one useless."""

import subprocess
from uuid import uuid4

import pytest

from libs.packs.layout import CHUNK_SIZE_BYTES
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.qemu.names import KeptName, kept_name
from tests.support.driver_sites import VOLUME, QemuSite
from tests.support.roots import EVERYTHING
from tests.support.taking import Taken, settle_by_the_next_order

#: What the process has when no capture is going on.
AT_REST = (["disk", "top"], ["guest"])


def kept(site: QemuSite) -> list[KeptName]:
    """Kept bitmaps; there are no others of ours."""
    found = [kept_name(name) for name in site.daemon.bitmaps() if name.startswith("backcast-")]
    assert all(found), site.daemon.bitmaps()
    return [one for one in found if one]


def restarted(site: QemuSite) -> None:
    """Another agent process begins."""
    site.driver = QemuDriver(site.state, EVERYTHING)


def lost_of(taken: Taken) -> str:
    assert taken.lost is not None
    assert taken.chunks == taken.truth
    return taken.lost.reason


def test_one_bitmap_is_kept_and_nothing_else(any_site: QemuSite) -> None:
    any_site.write(0, 4)
    base = Taken(any_site, None).settle(sealed=True)
    for _ in range(3):
        any_site.write(1, 1)
        base = Taken(any_site, base).settle(sealed=True)
        assert base.named == {1}
        assert [(one.volume, one.session) for one in kept(any_site)] == [(VOLUME, base.session)]
        assert (any_site.daemon.nodes(), any_site.daemon.exports()) == AT_REST
    any_site.driver.forget(VOLUME)
    assert any_site.daemon.bitmaps() == []
    assert [p.name for p in any_site.state.rglob("*") if p.is_file()] == ["agent"]


def test_a_session_that_failed_leaves_the_bitmap_of_its_base(any_site: QemuSite) -> None:
    any_site.write(0, 4)
    base = Taken(any_site, None).settle(sealed=True)
    any_site.write(1, 1)
    Taken(any_site, base, finishes=False)
    Taken(any_site, base).settle(sealed=False)
    assert [one.session for one in kept(any_site)] == [base.session]
    assert Taken(any_site, base).named == {1}


def test_what_nobody_settled_is_settled_by_the_next_order(site: QemuSite) -> None:
    settle_by_the_next_order(
        site, lambda: restarted(site), lambda: {one.session for one in kept(site)}
    )


def test_a_restart_of_the_vm_keeps_a_bitmap_in_qcow2(site: QemuSite) -> None:
    site.write(0, 4)
    base = Taken(site, None).settle(sealed=True)
    site.write(1, 1)
    site.daemon.quit()
    site.daemon.start()
    site.write(3, 1)
    taken = Taken(site, base)
    assert (taken.named, taken.chunks) == ({1, 3}, taken.truth)


def test_a_restart_of_the_vm_loses_the_bitmap_of_a_raw_disk(raw_site: QemuSite) -> None:
    raw_site.write(0, 4)
    base = Taken(raw_site, None).settle(sealed=True)
    raw_site.daemon.quit()
    raw_site.daemon.start()
    raw_site.write(1, 1)
    lost = Taken(raw_site, base)
    assert lost_of(lost) == "unknown"
    lost.settle(sealed=True)
    raw_site.write(2, 1)
    assert Taken(raw_site, lost).named == {2}


def test_a_vm_that_was_killed_has_lost_its_bitmap_once(site: QemuSite) -> None:
    """The bitmap is in the file, and inconsistent: users of other tools are stuck with it."""
    site.write(0, 4)
    base = Taken(site, None).settle(sealed=True)
    site.daemon.quit()
    site.daemon.start()
    site.daemon.kill()
    site.daemon.start()
    site.write(1, 1)
    lost = Taken(site, base)
    assert lost_of(lost) == "unclean"
    lost.settle(sealed=True)
    assert [one.session for one in kept(site)] == [lost.session]
    site.write(2, 1)
    assert Taken(site, lost).named == {2}


def test_a_vm_that_was_killed_during_a_capture_is_captured_again(site: QemuSite) -> None:
    site.write(0, 4)
    base = Taken(site, None).settle(sealed=True)
    site.write(1, 1)
    view = site.driver.view("default", site.path)
    tracker = site.driver.tracker(site.order(base.session), view)
    site.daemon.kill()
    tracker.finish()
    tracker.close()
    view.close()
    tracker.settle(sealed=False)
    site.daemon.start()
    lost = Taken(site, base).settle(sealed=True)
    assert lost_of(lost) == "unknown"  # the bitmap was never saved
    assert (site.daemon.nodes(), site.daemon.exports()) == AT_REST
    assert [one.session for one in kept(site)] == [lost.session]


def test_bitmaps_of_others_are_never_touched(site: QemuSite) -> None:
    """Another tool's, and those of a disk that another volume has."""
    others = ["libvirt-checkpoint", "backcast", f"backcast-{uuid4()}"]
    others += [str(KeptName(uuid4(), uuid4(), "0" * 16)), "backcast-0badcafe-0badcafe"]
    site.write(0, 4)
    for name in others:
        site.daemon.do("block-dirty-bitmap-add", node="disk", name=name, persistent=True)
    base = Taken(site, None).settle(sealed=True)
    site.write(1, 1)
    Taken(site, base).settle(sealed=False)
    restarted(site)
    site.driver.forget(VOLUME)
    assert site.daemon.bitmaps() == sorted(others)
    bitmaps = next(
        node["dirty-bitmaps"]
        for node in site.daemon.do("query-named-block-nodes", flat=True)
        if node["node-name"] == "disk"
    )
    assert {one["count"] for one in bitmaps} == {CHUNK_SIZE_BYTES}
    assert all(one["recording"] and not one["busy"] for one in bitmaps)


@pytest.mark.parametrize("how", ["disabled", "removed", "resized"])
def test_a_bitmap_that_somebody_changed_is_not_believed(site: QemuSite, how: str) -> None:
    site.write(0, 4)
    base = Taken(site, None).settle(sealed=True)
    (name,) = site.daemon.bitmaps()
    match how:
        case "disabled":
            site.daemon.do("block-dirty-bitmap-disable", node="disk", name=name)
        case "removed":
            site.daemon.do("block-dirty-bitmap-remove", node="disk", name=name)
        case "resized":
            site.resize(2 * CHUNK_SIZE_BYTES)
    reasons = {"disabled": "unclean", "removed": "unknown", "resized": "another-device"}
    lost = Taken(site, base).settle(sealed=True)
    assert lost_of(lost) == reasons[how]
    site.write(1, 1)
    assert Taken(site, lost).named == {1}


def test_discarded_stretches_are_not_read(site: QemuSite) -> None:
    site.write(0, 200)
    base = Taken(site, None).settle(sealed=True)
    site.daemon.guest.trim(0, 150 * CHUNK_SIZE_BYTES)
    taken = Taken(site, base)
    assert taken.chunks == taken.truth
    assert [one.is_hole for one in taken.candidates] == [True]
    assert len(taken.truth) == 50


def test_what_a_backing_file_has_is_captured(site: QemuSite) -> None:
    """A disk that was cloned from a template: its own file has only what was written since."""
    site.write(0, 40)
    Taken(site, None).settle(sealed=True)
    site.daemon.quit()
    image = site.daemon.image
    template = image.with_name("template")
    image.rename(template)
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(template)]
    subprocess.run([*made, str(image)], check=True)
    site.daemon.start()
    site.write(3, 2)
    site.zero(10, 2)
    base = Taken(site, None).settle(sealed=True)
    assert len(base.truth) == 38
    assert base.chunks == base.truth
    site.write(20, 1)
    taken = Taken(site, base)
    assert (taken.named, taken.chunks) == ({20}, taken.truth)


def test_a_raw_disk_with_a_file_for_its_bitmaps_keeps_them(site: QemuSite) -> None:
    """qcow2 with a raw ``data_file``: the guest's bytes stay a plain file."""
    site.daemon.quit()
    image = site.daemon.image
    data = image.with_name("data")
    options = f"data_file={data},data_file_raw=on"
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(image), "4M"]
    subprocess.run(made, check=True)
    site.daemon.size_bytes = 4 << 20
    site.daemon.start()
    site.write(0, 8)
    base = Taken(site, None).settle(sealed=True)
    site.write(5, 1)
    site.daemon.quit()
    assert data.read_bytes()[5 * CHUNK_SIZE_BYTES :][:CHUNK_SIZE_BYTES] != base.chunks[5]
    site.daemon.start()
    taken = Taken(site, base)
    assert (taken.trust, taken.named, taken.chunks) == ("candidates", {5}, taken.truth)
