import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.ranges import ByteRange
from services.restore.downloads.byte_ranges import NotSatisfiable, is_known, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("items=0-5", None),
        ("", None),
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=10-19", ByteRange(10, 20)),
        ("bytes=10-", ByteRange(10, 100)),
        ("bytes=10-999", ByteRange(10, 100)),
        ("bytes=-1", ByteRange(99, 100)),
        ("bytes=-1000", ByteRange(0, 100)),
        (" Bytes = 10 - 19 ", ByteRange(10, 20)),
    ],
)
def test_one_range_is_clipped_to_what_there_is(header: str | None, expected: object) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize(
    "header",
    ["bytes=100-", "bytes=5-4", "bytes=-0", "bytes=-", "bytes=a-b", "bytes=0-1,3-4", "bytes 0-1"],
)
def test_what_is_no_single_range_within_the_size_is_not_satisfiable(header: str) -> None:
    assert isinstance(parse_range(header, 100), NotSatisfiable)


def test_nothing_of_an_empty_volume_is_satisfiable() -> None:
    for header in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        assert isinstance(parse_range(header, 0), NotSatisfiable)


@given(st.text(alphabet="bytes=0123456789-, ", max_size=30), st.integers(0, 2**50))
def test_every_range_given_lies_within_the_size(header: str, size_bytes: int) -> None:
    found = parse_range(header, size_bytes)
    if isinstance(found, ByteRange):
        assert 0 <= found.start < found.end <= size_bytes


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_what_a_client_writes_is_what_it_gets(start: int, length: int) -> None:
    found = parse_range(f"bytes={start}-{start + length}", 3 * 10**6)
    assert found == ByteRange(start, start + length + 1)


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (None, False),
        ("", False),
        ('"a-b"', True),
        ('W/"a-b"', True),
        (' "x" , W/"y","a-b"', True),
        ("*", True),
        ('"a"', False),
        ("a-b", False),
        ('"xa-b"', False),
    ],
)
def test_an_etag_that_the_client_names_is_known(header: str | None, known: bool) -> None:
    assert is_known(header, '"a-b"') == known
