"""Figures of increments and of barriers are what their names say."""

import pytest

from bench.barrier import Holds
from bench.increments import Increments, Turn


def turn(own: float, peer: float) -> Turn:
    return Turn(own, peer, changed_bytes=100, read_bytes=104, stored_bytes=50, grid_bytes=5000)


def test_a_driver_is_as_fast_as_the_median_turn_says() -> None:
    found = Increments([turn(1.0, 30.0), turn(4.0, 40.0), turn(2.0, 50.0)])
    assert found.speed == 25.0
    assert found.read == pytest.approx(1.04)
    assert found.stored == pytest.approx(0.01)


def test_a_percentile_is_the_value_that_so_many_do_not_exceed() -> None:
    holds = Holds([*range(1, 100), 2000.0])
    assert holds.percentile(0.5) == 51
    assert holds.percentile(0.98) == 99
    assert holds.percentile(1) == 2000.0


def test_every_hold_is_in_one_class_of_the_histogram() -> None:
    counted = dict(Holds([1.0, 10.0, 10.1, 99.0, 100.0, 150.0, 1000.0, 1000.1]).histogram())
    assert counted["≤ 10 ms"] == 2
    assert counted["≤ 20 ms"] == 1
    assert counted["≤ 100 ms"] == 2
    assert counted["≤ 150 ms"] == 1
    assert counted["> 1000 ms"] == 1
    assert sum(counted.values()) == 8
