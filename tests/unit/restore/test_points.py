import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.catalogdb.snapshots.points import Point
from libs.errors import BadInputError
from services.restore.points import parse_point


def test_the_four_forms_are_read() -> None:
    assert parse_point("latest") == Point()
    assert parse_point("12") == Point(sequence=12)
    assert parse_point("-15m") == Point(ago=timedelta(minutes=15))
    assert parse_point("-0s") == Point(ago=timedelta(0))
    assert parse_point("-2d") == Point(ago=timedelta(days=2))
    instant = Point(at=datetime(2026, 11, 22, 10, tzinfo=UTC))
    assert parse_point("2026-11-22T10:00:00Z") == instant
    assert parse_point("2026-11-22T12:00:00+02:00") == instant


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-1", "01", "1.5", "newest", "-m", "-5w", "15m", "2147483648", "٣"),
        "2026-11-22",
        "2026-11-22T10:00:00",
        "2026-13-22T10:00:00Z",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="recovery point"):
        parse_point(text)


@given(st.text(max_size=40))
def test_any_text_is_a_point_or_refused(text: str) -> None:
    with contextlib.suppress(BadInputError):
        assert isinstance(parse_point(text), Point)


@given(st.integers(0, 999_999_999), st.sampled_from("smhd"))
def test_no_age_is_beyond_what_the_catalog_can_subtract(count: int, unit: str) -> None:
    ago = parse_point(f"-{count}{unit}").ago
    assert ago is not None
    assert ago <= timedelta(days=100_000)
