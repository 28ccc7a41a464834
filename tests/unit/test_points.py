import string
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import BadInputError
from libs.points import RecoveryPoint

NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=63)
MOMENTS = st.one_of(
    st.just("latest"),
    st.integers(1, 2**31 - 1).map(str),
    st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat()),
    st.builds("-{}{}".format, st.integers(0, 10**9 - 1), st.sampled_from("smhd")),
)


@given(NAMES, MOMENTS)
def test_every_form_is_read_back_as_it_was_written(name: str, moment: str) -> None:
    point = RecoveryPoint.parse(f"{name}@{moment}")
    assert point == RecoveryPoint(name, moment)
    assert str(point) == f"{name}@{moment}"
    meant = [point.sequence, point.at, point.ago]
    assert len([one for one in meant if one is not None]) == (moment != "latest")


def test_the_four_forms_are_understood() -> None:
    def meaning(moment: str) -> tuple[int | None, datetime | None, timedelta | None]:
        point = RecoveryPoint("vm", moment)
        return point.sequence, point.at, point.ago

    assert meaning("latest") == (None, None, None)
    assert meaning("12") == (12, None, None)
    assert meaning("-15m") == (None, None, timedelta(minutes=15))
    assert meaning("-0s") == (None, None, timedelta(0))
    assert meaning("-2d") == (None, None, timedelta(days=2))
    instant = (None, datetime(2026, 11, 22, 10, tzinfo=UTC), None)
    assert meaning("2026-11-22T10:00:00Z") == instant
    assert meaning("2026-11-22T12:00:00+02:00") == instant


@pytest.mark.parametrize(
    "moment",
    [
        *("", "0", "-1", "01", "1.5", "newest", "Latest", "-m", "-5w", "-15x", "15m", "٣", "1@2"),
        *("2147483648", "99999999999", "1 "),
        "2026-11-22",
        "2026-11-22T10:00:00",  # whose ten o'clock?
        "2026-13-22T10:00:00Z",
    ],
)
def test_other_forms_are_refused(moment: str) -> None:
    with pytest.raises(BadInputError, match=r"recovery point 'vm@.*expected vm@latest"):
        RecoveryPoint("vm", moment)
    with pytest.raises(BadInputError, match=r"recovery point 'vm@.*expected vm@latest"):
        RecoveryPoint.parse(f"vm@{moment}")


@pytest.mark.parametrize("text", ["VM@1", "@1", "", "vm/../x@1", "vm\0@latest"])
def test_a_point_of_no_name_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="volume or group name"):
        RecoveryPoint.parse(text)


@given(st.text(max_size=80))
def test_any_text_is_a_point_or_bad_input(text: str) -> None:
    try:
        point = RecoveryPoint.parse(text)
    except BadInputError:
        return
    assert str(point) == text


def test_a_name_alone_is_a_point_only_where_it_is_optional() -> None:
    assert RecoveryPoint.parse("vm", otherwise="latest") == RecoveryPoint("vm", "latest")
    with pytest.raises(BadInputError, match="vm@latest"):
        RecoveryPoint.parse("vm")
    with pytest.raises(BadInputError):
        RecoveryPoint.parse("vm@", otherwise="latest")


def test_the_offset_of_an_instant_is_escaped_in_the_path() -> None:
    path = RecoveryPoint.parse("vm@2026-11-22T10:00:00+02:00").path
    assert path == "/volumes/vm/points/2026-11-22T10%3A00%3A00%2B02%3A00"


@given(st.integers(0, 999_999_999), st.sampled_from("smhd"))
def test_no_age_is_beyond_what_the_catalog_can_subtract(count: int, unit: str) -> None:
    ago = RecoveryPoint("vm", f"-{count}{unit}").ago
    assert ago is not None
    assert ago <= timedelta(days=100_000)
