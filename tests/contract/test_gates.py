"""What the port promises of gates, for every driver and for the fake of tests."""

from pathlib import Path
from uuid import uuid4

import pytest

from libs.errors import SourceError
from services.change_capture.drivers.port import Gate, GateOrder
from tests.support.driver_sites import VOLUME, Site
from tests.support.roots import TENANT
from tests.support.taking import Taken

_SECONDS = 60.0


def gate_of(site: Site, path: Path | None = None) -> Gate:
    return site.driver.gate(
        GateOrder(
            volume=VOLUME,
            session=uuid4(),
            attempt=1,
            tenant=TENANT,
            path=path or site.path,
            is_frozen=False,
            frozen_devices=frozenset(),
        )
    )


class TestGates:
    """The contract of `services.change_capture.drivers.port.Gate`."""

    def test_a_view_that_says_so_has_the_bytes_of_the_cut(self, site: Site) -> None:
        site.write(0, 20)
        truth = Taken(site, None).truth
        gate = gate_of(site)
        gate.hold(_SECONDS)
        view = gate.cut()
        assert gate.release(unbroken=True)
        site.write(3, 2)
        taken = Taken(site, None, view=view)
        assert taken.truth == truth or taken.consistency in ("fuzzy", "unvouched")
        assert taken.chunks == taken.truth
        gate.close()

    def test_what_waits_for_the_release_is_of_the_next_snapshot(self, site: Site) -> None:
        site.write(0, 20)
        first = Taken(site, None).settle(sealed=True)
        site.write(1, 1)
        gate = gate_of(site)
        gate.hold(_SECONDS)
        view = gate.cut()
        site.write(5, 1)
        gate.release(unbroken=True)
        second = Taken(site, first, view=view)
        assert 1 in second.named
        assert second.chunks == second.truth
        second.settle(sealed=True)
        site.write(7, 1)
        third = Taken(site, second)
        assert third.chunks == third.truth
        gate.close()

    def test_what_was_cut_and_not_sealed_is_found_again(self, site: Site) -> None:
        """Scenario 8."""
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True)
        site.write(2, 1)
        gate = gate_of(site)
        gate.hold(_SECONDS)
        view = gate.cut()
        gate.release(unbroken=True)
        gate.close()
        view.close()  # no capture took it
        site.write(5, 1)
        again = Taken(site, first)
        assert again.named >= {2, 5}
        assert again.chunks == again.truth

    def test_a_hold_that_was_broken_elsewhere_is_not_unbroken_here(self, site: Site) -> None:
        site.write(0, 1)
        gate = gate_of(site)
        gate.hold(_SECONDS)
        view = gate.cut()
        assert not gate.release(unbroken=False)
        gate.close()
        view.close()

    @pytest.mark.parametrize("steps", [0, 1, 2, 3])
    def test_it_may_be_closed_at_any_time_and_writes_go_on(self, site: Site, steps: int) -> None:
        site.write(0, 4)
        gate = gate_of(site)
        views = []
        if steps > 0:
            gate.hold(_SECONDS)
        if steps > 1:
            views.append(gate.cut())
        if steps > 2:
            gate.release(unbroken=True)
        gate.close()
        gate.close()
        site.write(2, 1)
        for view in views:
            view.close()
        taken = Taken(site, None)
        assert taken.chunks == taken.truth
        assert 2 in taken.truth

    def test_there_is_none_of_what_does_not_exist(self, site: Site) -> None:
        with pytest.raises(SourceError):
            gate_of(site, site.path.parent / "missing")
