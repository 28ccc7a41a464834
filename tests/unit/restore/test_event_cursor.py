import pytest

from libs.errors import BadInputError
from libs.events.topics import PACKS, RELAYED_TOPICS, SNAPSHOTS
from services.restore.events.feed import parse_cursor


def test_a_cursor_names_a_position_for_each_topic() -> None:
    assert parse_cursor("", ()) == dict.fromkeys(RELAYED_TOPICS, 0)
    assert parse_cursor("", (PACKS,)) == {PACKS: 0}
    assert parse_cursor("7", (PACKS,)) == {PACKS: 7}
    assert parse_cursor(f"{PACKS}=3,{SNAPSHOTS}=4", ()) == {PACKS: 3, SNAPSHOTS: 4}
    assert parse_cursor(f"{PACKS}=3", (PACKS, SNAPSHOTS)) == {PACKS: 3, SNAPSHOTS: 0}


@pytest.mark.parametrize(
    ("text", "topics"),
    [("7", ()), ("7", (PACKS, SNAPSHOTS)), ("x=1", ()), (f"{PACKS}=-1", ()), (f"{PACKS}=", ())],
)
def test_a_cursor_that_means_nothing_is_refused(text: str, topics: tuple[str, ...]) -> None:
    with pytest.raises(BadInputError):
        parse_cursor(text, topics)
