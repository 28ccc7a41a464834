"""Which small packs are merged: few are left, and each byte is moved a few times."""

import random

import pytest

from libs.catalogdb.deletion.small_packs import CLASS_BYTES, FAN_IN, SmallPack, choose_small

MIB = 1 << 20
FULL = 32 * MIB


def pack(size_bytes: int) -> SmallPack:
    return SmallPack(size_bytes, 1)


@pytest.mark.parametrize("seed", range(4))
def test_many_small_snapshots_leave_few_packs_and_move_each_byte_a_few_times(seed: int) -> None:
    rng = random.Random(seed)
    packs: dict[int, SmallPack] = {}
    stored = moved = number = 0
    for snapshot in range(3000):
        size = rng.choice([5_000, 70_000, 300_000])
        packs[number := number + 1] = pack(size)
        stored += size
        if snapshot % 20:
            continue
        small = {no: one for no, one in packs.items() if one.size_bytes <= CLASS_BYTES[-1]}
        chosen = choose_small(small)
        left = sum(one.size_bytes for one in chosen.values())
        moved += left
        for no in chosen:
            del packs[no]
        while left > 0:  # as the rewriter fills packs
            packs[number := number + 1] = pack(min(left, FULL))
            left -= FULL
    most = stored / (16 * MIB) + len(CLASS_BYTES) * FAN_IN + 20
    assert len(packs) <= most
    assert sum(one.size_bytes for one in packs.values()) == stored
    assert moved <= (len(CLASS_BYTES) + 1) * stored


def test_few_packs_of_a_size_are_left_alone() -> None:
    few = {no: pack(100_000) for no in range(FAN_IN - 1)}
    assert choose_small(few) == {}
    assert len(choose_small(few | {FAN_IN: pack(100_001)})) == FAN_IN


def test_what_smaller_ones_merge_to_is_merged_at_once() -> None:
    small = {no: pack(20_000) for no in range(FAN_IN)}
    larger = {100 + no: pack(200_000) for no in range(FAN_IN - 1)}
    assert set(choose_small(small | larger)) == {*small, *larger}
    assert set(choose_small(larger)) == set()
