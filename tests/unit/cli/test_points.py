import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import BadInputError
from services.cli.points import RecoveryPoint, parse_point

NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=63)
POINTS = st.one_of(
    st.just("latest"),
    st.integers(1, 2**31 - 1).map(str),
    st.datetimes(timezones=st.timezones()).map(lambda at: at.isoformat()),
    st.builds("-{}{}".format, st.integers(0, 10**9 - 1), st.sampled_from("smhd")),
)


@given(NAMES, POINTS)
def test_every_form_is_read_back_as_it_was_written(name: str, point: str) -> None:
    assert parse_point(f"{name}@{point}") == RecoveryPoint(name, point)
    assert str(parse_point(f"{name}@{point}")) == f"{name}@{point}"


@pytest.mark.parametrize(
    "text",
    [
        "vm@",
        "vm@0",
        "vm@-1",
        "vm@-15x",
        "vm@15m",
        "vm@Latest",
        "vm@2026-11-22",
        "vm@2026-11-22T10:00:00",  # whose ten o'clock?
        "vm@1@2",
        "VM@1",
        "@1",
        "",
        "vm/../x@1",
        "vm@1 ",
        "vm@99999999999",
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(BadInputError):
        parse_point(text)


@given(st.text(max_size=80))
def test_any_text_is_a_point_or_bad_input(text: str) -> None:
    try:
        point = parse_point(text)
    except BadInputError:
        return
    assert str(point) == text


def test_a_name_alone_is_a_point_only_where_it_is_optional() -> None:
    assert parse_point("vm", otherwise="latest") == RecoveryPoint("vm", "latest")
    with pytest.raises(BadInputError, match="vm@latest"):
        parse_point("vm")
    with pytest.raises(BadInputError):
        parse_point("vm@", otherwise="latest")


def test_the_offset_of_an_instant_is_escaped_in_the_path() -> None:
    path = parse_point("vm@2026-11-22T10:00:00+02:00").path
    assert path == "/volumes/vm/points/2026-11-22T10%3A00%3A00%2B02%3A00"
