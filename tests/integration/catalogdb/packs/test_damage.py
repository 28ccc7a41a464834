"""Damage is kept away from look-ups, repaired by the next capture, and never miscounted."""

import pytest

from libs.catalogdb.packs.damage import (
    WHOLE_PACK,
    demand_recount,
    known_damage,
    record_damage,
    withdraw_damage,
)
from libs.catalogdb.packs.index import count_by_pack
from libs.catalogdb.sessions.attempts import PackUse
from libs.catalogdb.sessions.sealing import Refused, Sealed
from libs.errors import InvariantViolation
from tests.support.catalog import (
    CatalogSite,
    Worker,
    condemn,
    expire_anyway,
    item,
    open_on,
    protect,
    take_snapshot,
)


@pytest.fixture
def damaged(site: CatalogSite) -> int:
    """A pack with items 1, 2 and 3, used by snapshot 1 of `vm`; item 1 is damaged."""
    protect(site, "vm")
    protect(site, "other")
    _, pack_no = take_snapshot(site, "vm", item(1), item(2), item(3))
    assert record_damage(site.catalog, pack_no, [item(1)], "a bit flipped") == [item(1)]
    return pack_no


def repair(site: CatalogSite, group: str) -> int:
    """A complete capture of items 1, 2 and 3; the pack that item 1 was stored in."""
    view = open_on(site, group)
    assert view.base is None
    worker = Worker(site, view)
    known = worker.look_up(item(1), item(2), item(3))
    assert isinstance(known, list)
    assert known[0] == 0
    assert known[1:] == [known[1]] * 2
    pack_no = worker.store(item(1))
    worker.finish({pack_no: PackUse(entered=1), known[1]: PackUse(entered=2)})
    assert isinstance(worker.seal(), Sealed)
    return pack_no


def test_a_damaged_item_is_unknown_and_its_neighbours_are_known(
    site: CatalogSite, damaged: int
) -> None:
    worker = Worker(site, open_on(site, "other"))
    assert worker.look_up(item(1), item(2)) == [0, damaged]


def test_an_id_of_another_length_is_never_recorded(site: CatalogSite, damaged: int) -> None:
    """With a domain tag, for example: look-ups would never find that such an item is damaged."""
    with pytest.raises(InvariantViolation, match="CheckViolation"):
        record_damage(site.catalog, damaged, [item(2) + b"\1"], "a bit flipped")
    assert [known.item for known in known_damage(site.catalog, [damaged])] == [item(1)]


def test_nothing_of_a_damaged_pack_is_known(site: CatalogSite, damaged: int) -> None:
    record_damage(site.catalog, damaged, [WHOLE_PACK], "the object is gone")
    worker = Worker(site, open_on(site, "other"))
    assert worker.look_up(item(1), item(2)) == [0, 0]


def test_damage_that_is_known_is_recorded_once(site: CatalogSite, damaged: int) -> None:
    assert record_damage(site.chunker, damaged, [item(1), item(2)], "met again") == [item(2)]
    assert record_damage(site.restore, damaged, [item(1), item(2)], "and again") == []
    (first, _) = known_damage(site.catalog, [damaged])
    assert first.reason in ("a bit flipped", "met again")


def test_damage_of_a_pack_that_is_going_away_is_nobodys_concern(
    site: CatalogSite, damaged: int
) -> None:
    expire_anyway(site, "vm", 1)
    assert condemn(site, damaged)
    assert record_damage(site.catalog, damaged, [item(2)], "late") == []


def test_a_volume_with_damage_counts_anew_once(site: CatalogSite, damaged: int) -> None:
    repair(site, "vm")
    assert open_on(site, "vm").base is not None


def test_a_volume_without_that_pack_keeps_its_base(site: CatalogSite, damaged: int) -> None:
    take_snapshot(site, "other", item(9))
    assert open_on(site, "other").base is not None


def test_repaired_items_are_found_and_read_in_the_new_pack(site: CatalogSite, damaged: int) -> None:
    repaired = repair(site, "vm")
    view = open_on(site, "other")
    assert Worker(site, view).look_up(item(1), item(2)) == [repaired, damaged]
    assert known_damage(site.catalog, [damaged]) == []


def test_the_repairing_pack_stays_for_the_older_snapshot_when_the_newer_one_expires(
    site: CatalogSite, damaged: int
) -> None:
    """The trap: snapshot 1 is counted in the damaged pack, but reads the new one."""
    repaired = repair(site, "vm")
    expire_anyway(site, "vm", 2)
    assert not condemn(site, repaired)
    expire_anyway(site, "vm", 1)
    assert not condemn(site, repaired)  # as long as the pack it leans on is there
    assert condemn(site, damaged)
    assert condemn(site, repaired)


def test_repairs_of_repairs_lean_on_each_other(site: CatalogSite, damaged: int) -> None:
    first = repair(site, "vm")
    record_damage(site.catalog, first, [item(1)], "again")
    second = repair(site, "vm")
    expire_anyway(site, "vm", 3)
    expire_anyway(site, "vm", 2)
    assert not condemn(site, second)
    assert not condemn(site, first)
    expire_anyway(site, "vm", 1)
    assert [condemn(site, pack) for pack in (damaged, first, second)] == [True, True, True]


def test_a_session_that_was_open_when_its_base_was_found_damaged_is_refused(
    site: CatalogSite,
) -> None:
    """Another volume repairs the item; a departure would be taken from the wrong pack."""
    protect(site, "vm")
    protect(site, "other")
    _, pack_no = take_snapshot(site, "vm", item(1), item(2), item(3))
    based = Worker(site, open_on(site, "vm"))
    record_damage(site.catalog, pack_no, [item(1)], "a bit flipped")
    repaired = repair(site, "other")
    assert count_by_pack(site.chunker, [based.view.domain_no], [item(1)]) == {repaired: 1}
    new = based.store(item(9))
    based.finish({new: PackUse(entered=1), repaired: PackUse(departed=1)})
    refused = based.seal()
    assert isinstance(refused, Refused)
    assert "damaged" in refused.reason


def test_a_session_that_relies_on_what_is_found_damaged_meanwhile_is_refused(
    site: CatalogSite, damaged: int
) -> None:
    worker = Worker(site, open_on(site, "other"))
    assert worker.look_up(item(2)) == [damaged]
    record_damage(site.catalog, damaged, [item(2)], "later")
    worker.finish({damaged: PackUse(entered=1)})
    assert isinstance(worker.seal(), Refused)


def test_recording_waits_for_a_seal_and_taints_what_it_sealed(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack_no = worker.finish_storing(item(1))
    with site.holding_log("backcast.snapshots"):
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        recording = site.start(record_damage, site.catalog, pack_no, [item(1)], "flip")
        site.wait_until_waiting(2)
    assert isinstance(sealing.result(), Sealed)
    assert recording.result() == [item(1)]
    assert open_on(site, "vm").base is None


def test_a_seal_that_comes_second_sees_the_damage(site: CatalogSite) -> None:
    protect(site, "vm")
    worker = Worker(site, open_on(site, "vm"))
    pack_no = worker.finish_storing(item(1))
    with site.holding("SELECT FROM pack WHERE pack_no = %s FOR UPDATE", pack_no) as recorder:
        sealing = site.start(worker.seal)
        site.wait_until_waiting(1)
        recorder.execute(
            "INSERT INTO damage (pack_no, item, reason) VALUES (%s, '', 'gone')", [pack_no]
        )
    assert isinstance(sealing.result(), Refused)


def test_two_sessions_that_repair_one_item_agree_on_its_place(
    site: CatalogSite, damaged: int
) -> None:
    """Scenario 22: the second one counts the first one's pack."""
    first, second = Worker(site, open_on(site, "vm")), Worker(site, open_on(site, "other"))
    assert first.look_up(item(1)) == second.look_up(item(1)) == [0]
    pack_no = first.store(item(1))
    assert second.register(second.claim(), item(1)) == {0: pack_no}


def test_what_was_found_intact_again_is_known_again(site: CatalogSite, damaged: int) -> None:
    assert withdraw_damage(site.catalog, damaged, [item(1), item(2)]) == 1
    assert Worker(site, open_on(site, "other")).look_up(item(1)) == [damaged]
    assert record_damage(site.catalog, damaged, [item(1)], "once more") == [item(1)]


def test_withdrawn_damage_still_makes_its_volumes_count_anew(
    site: CatalogSite, damaged: int
) -> None:
    """Its items may have been repointed before it was withdrawn."""
    record_damage(site.catalog, damaged, [WHOLE_PACK], "the object is gone")
    other = Worker(site, open_on(site, "other"))
    assert other.register(other.claim(), item(2)) == {}
    withdraw_damage(site.catalog, damaged, [WHOLE_PACK, item(1)])
    assert open_on(site, "vm").base is None


def test_a_demanded_recount_is_done_once(site: CatalogSite) -> None:
    protect(site, "vm")
    worker, _ = take_snapshot(site, "vm", item(1))
    demand_recount(site.catalog, worker.volume_no)
    again = Worker(site, open_on(site, "vm"))
    assert again.view.base is None
    known = again.look_up(item(1))
    assert isinstance(known, list)
    again.finish({known[0]: PackUse(entered=1)})
    assert isinstance(again.seal(), Sealed)
    assert open_on(site, "vm").base is not None
