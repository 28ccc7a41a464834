"""A node's barriers without any file system to freeze: attempts, repetitions, restarts."""

import os
from pathlib import Path

import pytest

from libs.errors import BackcastError, ConflictError, NotFoundError, SourceError
from services.change_capture.barrier.barrier import Barriers, Member
from tests.integration.barrier.orders import SESSION, VOLUME, through
from tests.support.roots import TENANT

MIB = 1 << 20


def test_a_repeated_order_is_answered_and_does_nothing(tmp_path: Path, barriers: Barriers) -> None:
    path = tmp_path / "volume"
    path.write_bytes(b"x")
    member = Member(VOLUME, path, None)
    released = through(barriers, member)
    assert barriers.prepare(SESSION, 1, TENANT, [member], 10) == released
    assert barriers.hold(SESSION, 1) == released
    assert barriers.cut(SESSION, 1) == released
    assert barriers.release(SESSION, 1, abandoned=False) == released


def test_orders_of_an_older_attempt_are_refused_and_its_views_are_gone(
    tmp_path: Path, barriers: Barriers
) -> None:
    """Scenario 18: a redelivered order must not hold anything for a dead attempt."""
    path = tmp_path / "volume"
    path.write_bytes(b"x")
    member = Member(VOLUME, path, None)
    through(barriers, member)
    barriers.prepare(SESSION, 2, TENANT, [member], 10)
    for order in (barriers.hold, barriers.cut):
        with pytest.raises(ConflictError, match="attempt 2 has begun"):
            order(SESSION, 1)
    with pytest.raises(ConflictError):
        barriers.prepare(SESSION, 1, TENANT, [member], 10)
    with pytest.raises(ConflictError):
        barriers.release(SESSION, 1, abandoned=False)
    with pytest.raises(SourceError, match="is gone"):
        barriers.take_view(SESSION, 1, VOLUME)


def test_an_agent_that_was_restarted_knows_no_attempt(tmp_path: Path, barriers: Barriers) -> None:
    with pytest.raises(NotFoundError, match="restarted"):
        barriers.hold(SESSION, 1)
    assert not list(tmp_path.glob("state/*.hold"))


def test_a_volume_that_cannot_be_read_is_refused_before_anything_is_held(
    tmp_path: Path, barriers: Barriers
) -> None:
    with pytest.raises(BackcastError, match=str(tmp_path / "gone")):
        barriers.prepare(SESSION, 1, TENANT, [Member(VOLUME, tmp_path / "gone", None)], 10)


def test_without_a_clone_the_volume_is_watched_until_it_is_read(
    tmp_path: Path, barriers: Barriers
) -> None:
    path = tmp_path / "volume"
    path.write_bytes(b"x" * MIB)
    through(barriers, Member(VOLUME, path, None))
    view = barriers.take_view(SESSION, 1, VOLUME)
    assert view.consistency() == "quiet"
    os.utime(path, ns=(1, 1))
    assert view.consistency() == "fuzzy"
    view.close()
