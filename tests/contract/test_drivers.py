"""What the port of sources promises, for every driver and for the fake of tests."""

import contextlib
from pathlib import Path
from uuid import uuid4

import pytest

from libs.errors import SourceError
from libs.packs.layout import CHUNK_SIZE_BYTES
from tests.support.driver_sites import VOLUME, Site
from tests.support.roots import TENANT
from tests.support.taking import Taken, chunks_of, count_of


def identity_of(site: Site) -> str:
    with contextlib.closing(site.driver.view(TENANT, site.path)) as view:
        return view.identity


class TestDrivers:
    """The contract of `services.change_capture.drivers.port`."""

    def test_without_a_base_all_data_are_candidates_and_nothing_is_lost(self, site: Site) -> None:
        site.write(3, 5)
        site.write(200, 1)
        taken = Taken(site, None)
        assert (taken.trust, taken.lost) == ("everything", None)
        assert taken.chunks == taken.truth
        assert len(taken.truth) == 6

    def test_what_changed_since_a_sealed_base_is_found(self, site: Site) -> None:
        site.write(0, 20)
        first = Taken(site, None).settle(sealed=True)
        for change in (lambda: site.write(4, 2), lambda: site.zero(9, 3)):
            change()
            taken = Taken(site, first)
            assert taken.trust != "everything"
            assert taken.chunks == taken.truth
            assert taken.named

    def test_what_was_not_touched_is_not_named(self, site: Site) -> None:
        site.write(0, 300)
        first = Taken(site, None).settle(sealed=True)
        Taken(site, first).settle(sealed=False)
        site.write(150, 1)
        assert Taken(site, first).named == {150}

    def test_candidates_ascend_are_aligned_and_lie_within_the_volume(self, site: Site) -> None:
        site.write(0, 140)
        site.write_bytes(400 * CHUNK_SIZE_BYTES, b"x" * 100)
        first = Taken(site, None).settle(sealed=True)
        site.zero(10, 130)
        site.write_bytes(401 * CHUNK_SIZE_BYTES, b"x" * 100)
        for taken in (first, Taken(site, first)):
            at = 0
            for candidate in taken.candidates:
                extent = candidate.extent
                assert at <= extent.start < extent.end <= count_of(taken.view) * CHUNK_SIZE_BYTES
                assert extent.start % CHUNK_SIZE_BYTES == extent.end % CHUNK_SIZE_BYTES == 0
                at = extent.end

    def test_what_a_rejected_session_saw_is_found_again(self, site: Site) -> None:
        """Scenario 8."""
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True)
        site.write(2, 1)
        Taken(site, first).settle(sealed=False)
        site.write(5, 1)
        again = Taken(site, first)
        assert again.named == {2, 5}
        assert again.chunks == again.truth

    def test_what_a_capture_without_an_outcome_saw_is_found_again(self, site: Site) -> None:
        """Its process died, before or after it was finished."""
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True)
        site.write(2, 1)
        Taken(site, first, finishes=False)
        Taken(site, first)
        again = Taken(site, first)
        assert again.chunks == again.truth
        assert again.named == {2}

    def test_settling_twice_is_harmless(self, site: Site) -> None:
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True).settle(sealed=True)
        site.write(1, 1)
        second = Taken(site, first).settle(sealed=True).settle(sealed=True)
        site.write(2, 1)
        with contextlib.closing(site.driver.view(TENANT, site.path)) as view:
            assert Taken(site, second).chunks == chunks_of(view)

    def test_another_base_is_lost_and_everything_compared(self, site: Site) -> None:
        """Scenario 9: an agent from an older image."""
        if not site.remembers:
            pytest.skip("what it knows is in the order")
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True)
        site.write(1, 1)
        taken = Taken(site, first, named=uuid4())
        assert taken.trust == "everything"
        assert taken.lost is not None
        assert taken.chunks == taken.truth

    def test_another_device_is_lost_and_everything_compared(self, site: Site) -> None:
        if not site.remembers:
            pytest.skip("what it knows is in the order")
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True)
        site.replace()
        taken = Taken(site, first)
        assert taken.lost is not None
        assert taken.lost.reason == "another-device"
        assert taken.chunks == taken.truth

    def test_nothing_is_used_that_was_found_untrue(self, site: Site) -> None:
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True)
        site.write(1, 1)
        taken = Taken(site, first, is_trusted=False)
        assert taken.trust == "everything"
        assert taken.lost is not None
        assert taken.lost.reason == "distrusted"
        assert taken.chunks == taken.truth

    def test_a_volume_that_is_forgotten_is_lost(self, site: Site) -> None:
        if not site.remembers:
            pytest.skip("it remembers nothing")
        site.write(0, 8)
        first = Taken(site, None).settle(sealed=True)
        site.driver.forget(VOLUME)
        site.driver.forget(VOLUME)
        assert Taken(site, first).lost is not None

    @pytest.mark.parametrize("size", [0, 5 * CHUNK_SIZE_BYTES, 5 * CHUNK_SIZE_BYTES + 1000])
    def test_a_volume_that_shrank_and_grew_is_found_as_it_is(self, site: Site, size: int) -> None:
        """Scenario 20."""
        site.write(0, 20)
        first = Taken(site, None).settle(sealed=True)
        site.resize(size)
        second = Taken(site, first).settle(sealed=True)
        assert second.chunks == second.truth
        site.resize(20 * CHUNK_SIZE_BYTES)
        site.write(18, 1)
        third = Taken(site, second)
        assert third.chunks == third.truth

    def test_a_view_reads_the_same_bytes_everywhere_and_zeros_beyond_its_end(
        self, site: Site
    ) -> None:
        site.write_bytes(0, b"abc" * CHUNK_SIZE_BYTES)
        view = site.driver.view(TENANT, site.path)
        whole = memoryview(bytearray(4 * CHUNK_SIZE_BYTES))
        view.read_into(0, whole)
        assert bytes(whole) == (b"abc" * CHUNK_SIZE_BYTES).ljust(len(whole), b"\0")
        part = memoryview(bytearray(2 * CHUNK_SIZE_BYTES))
        view.read_into(2 * CHUNK_SIZE_BYTES, part)
        assert part == whole[2 * CHUNK_SIZE_BYTES :]
        view.close()

    def test_outside_of_what_a_view_calls_data_are_zeros(self, site: Site) -> None:
        site.write(3, 1)
        site.write(100, 2)
        view = site.driver.view(TENANT, site.path)
        for start in (0, 50, 101, 300):
            data = [
                n
                for extent in view.data(start * CHUNK_SIZE_BYTES)
                for n in range(extent.start // CHUNK_SIZE_BYTES, extent.end // CHUNK_SIZE_BYTES)
            ]
            assert data == sorted(set(data))
            assert {n for n in (3, 100, 101) if n >= start} <= {*data}
            assert all(n >= start for n in data)
        view.close()

    def test_an_identity_is_that_of_the_device(self, site: Site) -> None:
        site.write(0, 1)
        identities = [identity_of(site), identity_of(site)]
        assert identities[0] == identities[1]
        site.replace()
        assert identity_of(site) != identities[0]

    def test_what_is_no_volume_is_a_source_error(self, site: Site) -> None:
        with pytest.raises(SourceError):
            site.driver.view(TENANT, Path("/nothing/here"))
