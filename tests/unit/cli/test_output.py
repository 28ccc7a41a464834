import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.sizes import human_bytes
from services.cli.output import Column, Output, human_time, table


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10_240, "10.0 KiB"),
        (831_488, "812 KiB"),
        (1_048_575, "1.00 MiB"),
        (64 << 20, "64.0 MiB"),
        (1_406_600_000, "1.31 GiB"),
        (2**63 - 1, "8.00 EiB"),
    ],
)
def test_sizes_show_three_digits(count: int, text: str) -> None:
    assert human_bytes(count) == text


@given(st.integers(0, 2**63 - 1))
def test_a_size_is_never_off_by_more_than_its_last_digit(count: int) -> None:
    number, unit = human_bytes(count).split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert float(number) * factor == pytest.approx(count, rel=0.006)


@given(st.integers(0, 10**16))
def test_a_shown_instant_is_not_before_the_real_one_nor_a_second_after_it(
    microseconds: int,
) -> None:
    real = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    shown = datetime.fromisoformat(human_time(real.isoformat()))
    assert timedelta(0) <= shown - real < timedelta(seconds=1)


def test_a_table_aligns_names_left_and_quantities_right() -> None:
    columns = [
        Column("name", lambda one: one["name"]),
        Column("size", lambda one: one["size"], right=True),
    ]
    documents = [{"name": "a", "size": 1}, {"name": "longer", "size": 12345}]
    assert table(columns, documents) == "NAME     SIZE\na           1\nlonger  12345"
    assert table(columns, []) == "NAME  SIZE"


def test_json_is_one_object_per_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.show({"a": 1}, "one")
    out.show_all([{"b": 2}, {"b": 3}], [])
    out.note("for people")
    out.failure("not-found", "no such")
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"a": 1},
        {"b": 2},
        {"b": 3},
    ]
    assert json.loads(captured.err) == {"code": "not-found", "message": "no such"}


def test_people_get_text(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=False)
    out.show({"a": 1}, "one")
    out.note("look")
    out.failure("not-found", "no such")
    assert capsys.readouterr() == ("one\n", "look\nbackcast: no such\n")
