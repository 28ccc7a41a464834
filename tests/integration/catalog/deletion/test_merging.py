"""Small packs are merged: many small snapshots do not leave many packs."""

import dataclasses
from pathlib import Path

import pytest

from libs.catalogdb.deletion.small_packs import CLASS_BYTES, FAN_IN
from tests.integration.catalog.protected import POLICY, Protected, in_folder
from tests.support.catalog import CatalogSite, Worker, open_on

MERGING = dataclasses.replace(POLICY, live_share_max=0.0, merge_young_seconds=86_400)
SNAPSHOTS = 40


@pytest.fixture
def protected(site: CatalogSite, tmp_path: Path) -> Protected:
    made = in_folder(site, tmp_path)
    made.protect("disk")
    return made


def age(protected: Protected) -> None:
    """Two days pass."""
    protected.site.sql("UPDATE pack SET created_at = created_at - interval '2 days'")


def test_many_small_snapshots_leave_few_packs_and_are_all_restored(protected: Protected) -> None:
    rewriter = protected.rewriter(MERGING)
    for number in range(SNAPSHOTS):
        protected.take("disk", 1, 100 + number, 2)
        if number % 10 == 9:
            age(protected)
            packs, size_bytes = rewriter.survey_small()
            tally = rewriter.run()
            assert tally.small == packs
            assert tally.rewritten_bytes == size_bytes
            assert tally.given_up == tally.damaged == 0
            protected.collect()
    assert len(protected.packs()) < FAN_IN * len(CLASS_BYTES)
    assert len(protected.packs()) <= SNAPSHOTS // 3
    protected.check()
    for sequence in range(1, SNAPSHOTS, 2):
        protected.expire("disk", sequence)
    protected.collect()
    protected.check()


def test_young_and_few_packs_are_left_alone(protected: Protected) -> None:
    rewriter = protected.rewriter(MERGING)
    for number in range(FAN_IN + 1):
        protected.take("disk", number + 1)
    before = protected.packs()
    assert rewriter.survey_small() == (0, 0)
    assert rewriter.run().small == 0
    age(protected)
    protected.site.sql(
        "UPDATE pack SET created_at = now() WHERE pack_no = ANY(%s)", before[: 2 + len(before) % 2]
    )
    assert rewriter.run().written == 0
    assert protected.packs() == before


def test_a_session_that_pins_a_pack_keeps_it_from_being_merged(protected: Protected) -> None:
    for number in range(FAN_IN + 2):
        protected.take("disk", number + 1)
    age(protected)
    worker = Worker(protected.site, open_on(protected.site, "disk"))
    pinned = protected.packs()[0]
    protected.site.sql("INSERT INTO pin VALUES (%s, %s)", worker.attempt, pinned)
    protected.rewriter(MERGING).run()
    assert pinned in protected.packs()
    protected.check()
