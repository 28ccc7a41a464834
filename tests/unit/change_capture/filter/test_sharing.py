"""Filters of several nodes keep one frozen view of the disk that all of them write."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.errors import HoldBrokenError, SourceError, UnavailableError
from services.change_capture.filter.frozen import FrozenBytes
from services.change_capture.filter.messages import CutNow, FollowLead, HoldWrites
from services.change_capture.filter.process import VolumeFilter
from services.change_capture.filter.sharing import lead as lead_module
from tests.support.filters import filter_settings, running_filter
from tests.support.relay import Relay
from tests.support.running import eventually
from tests.support.sharing_filters import NodeFilter, SharingNodes, agent_of_filter


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SharingNodes]:
    with SharingNodes(tmp_path, scratch_wait_seconds=30) as nodes:
        yield nodes


def wait_until_free(node: NodeFilter) -> None:
    """The node has let go of every cut."""
    eventually("the follower lets go of it", lambda: node.filter.cuts.view_count == 0)


def test_whichever_node_overwrites_first_the_bytes_of_the_cut_are_read(disk: SharingNodes) -> None:
    before = disk.path.read_bytes()
    assert all(disk.cut("cut"))
    disk.claim("one")
    for number, node in enumerate(disk):
        for chunk in (number, 10, 11 + number):
            node.write(chunk, node.name.encode())
    assert disk.read() == before
    assert disk.path.read_bytes() != before
    assert disk.why_broken() is None


def test_writers_on_all_nodes_never_reach_the_view(disk: SharingNodes) -> None:
    before, seed = disk.path.read_bytes(), random.randrange(1 << 32)
    disk.cut("cut")
    disk.claim("one")
    begun = threading.Barrier(len(disk.nodes) * 2 + 1)

    def write(name: str, number: int) -> None:
        chance = random.Random(f"{seed} {name} {number}")
        begun.wait()
        for _ in range(40):
            count = chance.randrange(1, 4)
            disk.nodes[name].write(chance.randrange(disk.chunks - count), name.encode(), count)

    threads = [
        threading.Thread(target=write, args=(name, number))
        for name in disk.nodes
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    while any(thread.is_alive() for thread in threads):
        assert disk.read() == before, f"seed {seed}"
    for thread in threads:
        thread.join()
    assert disk.read() == before, f"seed {seed}"
    assert disk.why_broken() is None


def test_what_any_node_has_written_since_the_base_is_changed(disk: SharingNodes) -> None:
    disk.cut("first")
    assert disk.claim("one")[0].lost_reason is None
    disk.nodes["b"].write(3, b"b")
    disk.end("one", sealed=True)
    disk.nodes["a"].write(1, b"a")
    disk.nodes["c"].write(7, b"c", 2)
    disk.cut("second")
    disk.nodes["b"].write(20, b"l")
    claimed, changed = disk.claim("two", "one")
    assert (claimed.lost_reason, changed) == (None, [1, 3, 7, 8])


def test_bits_of_a_session_that_was_not_sealed_count_again_on_every_node(
    disk: SharingNodes,
) -> None:
    disk.cut("first")
    disk.claim("one")
    disk.end("one", sealed=True)
    for chunk, node in enumerate(disk):
        node.write(chunk, b"1")
    disk.cut("second")
    assert disk.claim("two", "one")[1] == [0, 1, 2]
    disk.end("two", sealed=False)
    disk.nodes["b"].write(9, b"2")
    disk.cut("third")  # nobody has claimed it when the agent of the lead is gone
    disk.lead.new_agent()
    for node in disk.followers:
        wait_until_free(node)
        node.new_agent()
    disk.cut("fourth")
    assert disk.claim("three", "one")[1] == [0, 1, 2, 9]


def test_a_node_that_has_lost_its_tracking_makes_that_of_the_disk_lost(
    disk: SharingNodes,
) -> None:
    disk.cut("first")
    disk.claim("one")
    disk.end("one", sealed=True)
    disk.nodes["b"].write(3, b"b")
    disk.nodes["b"].restart(cleanly=False)
    disk.cut("second")
    claimed, _ = disk.claim("two", "one")
    assert claimed.lost_reason == "unclean"
    assert claimed.lost_message.startswith("node b: ")
    disk.end("two", sealed=True)
    disk.nodes["c"].write(5, b"c")
    disk.cut("third")
    assert disk.claim("three", "two")[1] == [5]


def test_a_clean_restart_keeps_the_tracking_although_other_nodes_went_on_writing(
    disk: SharingNodes,
) -> None:
    disk.cut("first")
    disk.claim("one")
    disk.end("one", sealed=True)
    disk.nodes["b"].write(3, b"b")
    disk.nodes["b"].restart(cleanly=True, meanwhile=lambda: disk.nodes["a"].write(4, b"a"))
    disk.cut("second")
    assert disk.claim("two", "one")[1] == [3, 4]


def test_a_follower_that_was_started_anew_has_broken_the_view(disk: SharingNodes) -> None:
    disk.cut("cut")
    disk.claim("one")
    disk.nodes["c"].restart(cleanly=True)
    disk.nodes["c"].write(2, b"c")
    broken = disk.why_broken()
    assert broken is not None
    assert broken.startswith("node c: ")
    with pytest.raises(SourceError, match="node c"):
        disk.read()


def test_a_lead_that_does_not_answer_breaks_the_view_and_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    with SharingNodes(tmp_path, "ab", scratch_wait_seconds=0.3) as disk:
        disk.cut("cut")
        disk.claim("one")
        assert disk.why_broken() is None
        monkeypatch.setattr(FrozenBytes, "keep", lambda *_: go_on.wait())
        try:
            disk.nodes["b"].write(2, b"b")  # returns, although nobody saved the chunk
            disk.nodes["b"].write(3, b"b")
        finally:
            go_on.set()
        broken = disk.why_broken()
        assert broken is not None
        assert broken.startswith("node b: ")


def test_a_network_that_falls_silent_breaks_the_view_and_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection ends: only who is asked, and does not answer, tells of it."""
    monkeypatch.setattr(lead_module, "_ANSWER_SECONDS", 0.5)
    with SharingNodes(tmp_path, "ab", scratch_wait_seconds=30) as disk:
        disk.announce("cut")
        with Relay(int(disk.address.rpartition(":")[2])) as network:
            disk.nodes["b"].agent.ask(FollowLead("cut", disk.key, "b", network.address))
            for node in disk:
                node.agent.ask(HoldWrites(30))
            for node in disk:
                node.agent.ask(CutNow())
            disk.token, _ = [disk.release(node) for node in disk]
            disk.claim("one")
            assert disk.why_broken() is None
            network.cut()
            broken = disk.why_broken()
            assert broken is not None
            assert "node b: its filter does not answer" in broken


def test_a_full_scratch_file_of_the_lead_breaks_the_view_and_no_write(tmp_path: Path) -> None:
    with SharingNodes(tmp_path, "ab", scratch_size_bytes_max=2 << 16) as disk:
        disk.cut("cut")
        disk.claim("one")
        for chunk in range(5):
            disk.nodes["b"].write(chunk, b"b")
        assert disk.path.read_bytes()[: 5 << 16] == b"b" * (5 << 16)
        assert "scratch file" in (disk.why_broken() or "")


def test_a_lead_that_is_gone_breaks_no_write(disk: SharingNodes) -> None:
    disk.cut("cut")
    disk.claim("one")
    disk.lead.filter.stop()
    for node in disk.followers:
        node.write(4, b"x", 3)
    for node in disk.followers:
        wait_until_free(node)


def test_no_node_is_held_before_all_are_connected(disk: SharingNodes) -> None:
    disk.announce("cut")
    disk.nodes["b"].agent.ask(FollowLead("cut", disk.key, "b", disk.address))
    with pytest.raises(SourceError, match="the filters of c are not connected"):
        disk.lead.agent.ask(HoldWrites(30))


def test_a_follower_whose_link_broke_before_the_release_counts_not(disk: SharingNodes) -> None:
    disk.meet("cut")
    for node in disk:
        node.agent.ask(HoldWrites(30))
    for node in disk:
        node.agent.ask(CutNow())
    disk.lead.new_agent()
    follower = disk.followers[0]
    (kept,) = follower.filter.volume.keepers
    eventually("the link is gone", lambda: kept.broken is not None)
    assert disk.release(follower) == ""


def test_a_hold_that_ended_by_itself_counts_not(disk: SharingNodes) -> None:
    disk.meet("cut")
    lead, follower, _ = disk
    lead.agent.ask(HoldWrites(30))
    follower.agent.ask(HoldWrites(0.01))
    follower.write(0, b"x")  # waits for the end of the hold
    with pytest.raises(HoldBrokenError):
        follower.agent.ask(CutNow())


@pytest.mark.parametrize("what", ["key", "name", "cut"])
def test_who_does_not_belong_to_a_cut_is_refused(disk: SharingNodes, what: str) -> None:
    disk.announce("cut")
    cut = "another" if what == "cut" else "cut"
    key = bytes(32) if what == "key" else disk.key
    name = "stranger" if what == "name" else "c"
    with pytest.raises(UnavailableError, match="stranger" if what == "name" else "closed"):
        disk.nodes["c"].agent.ask(FollowLead(cut, key, name, disk.address))
    disk.nodes["c"].agent.ask(FollowLead("cut", disk.key, "c", disk.address))


def test_another_disk_is_refused(disk: SharingNodes, tmp_path: Path) -> None:
    disk.announce("cut")
    other = tmp_path / "other"
    other.write_bytes(bytes(1 << 20))
    folder = tmp_path / "d"
    folder.mkdir()
    with running_filter(filter_settings(folder, other, direct=True)):
        agent = agent_of_filter(folder, other)
        with pytest.raises(UnavailableError, match="not the same disk"):
            agent.ask(FollowLead("cut", disk.key, "c", disk.address))


def test_filters_of_one_node_and_filters_with_a_page_cache_are_refused(disk: SharingNodes) -> None:
    folder = disk.path.parent
    second = filter_settings(folder / "a", disk.path, direct=True, state_folder=folder / "s")
    with pytest.raises(SourceError, match="another filter of this node"):
        VolumeFilter(second)
    with pytest.raises(SourceError, match="another process has locked it"):
        VolumeFilter(filter_settings(folder / "elsewhere", disk.path))


def test_a_filter_with_a_page_cache_shares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    with running_filter(filter_settings(tmp_path, path)):
        agent = agent_of_filter(tmp_path, path)
        with pytest.raises(SourceError, match="BACKCAST_FILTER_DIRECT"):
            agent.ask(FollowLead("cut", bytes(32), "b", "127.0.0.1:1"))
