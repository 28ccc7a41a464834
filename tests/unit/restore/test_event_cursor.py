"""What tenants get instead of positions of the log."""

import os

import pytest

from libs.errors import BadInputError
from libs.events.topics import PACKS, RELAYED_TOPICS, SNAPSHOTS
from libs.keys.kek import KeyEncryptionKey
from services.restore.events.cursors import TenantCursors

KEK = KeyEncryptionKey(b"k" * 32)
OURS = TenantCursors(KEK, "acme")


def test_a_cursor_means_a_position_of_each_of_its_topics() -> None:
    cursor = OURS.seal({PACKS: 3, SNAPSHOTS: 1 << 61})
    assert OURS.open(cursor) == {PACKS: 3, SNAPSHOTS: 1 << 61}
    assert OURS.open(cursor, (PACKS,)) == {PACKS: 3}
    assert OURS.open(OURS.seal({PACKS: 3}), (PACKS, SNAPSHOTS)) == {PACKS: 3, SNAPSHOTS: 0}
    everything = dict.fromkeys(RELAYED_TOPICS, 7)
    assert OURS.open(OURS.seal(everything)) == everything


def test_no_cursor_is_the_beginning() -> None:
    assert OURS.open("") == dict.fromkeys(RELAYED_TOPICS, 0)
    assert OURS.open("", (PACKS,)) == {PACKS: 0}


def test_another_instance_and_the_next_key_open_it() -> None:
    cursor = OURS.seal({PACKS: 3})
    assert TenantCursors(KeyEncryptionKey(b"k" * 32), "acme").open(cursor) == {PACKS: 3}
    changing = KeyEncryptionKey(b"n" * 32, previous=KEK)
    assert TenantCursors(changing, "acme").open(cursor) == {PACKS: 3}
    with pytest.raises(BadInputError, match="begin without one"):
        TenantCursors(changing.alone, "acme").open(cursor)


def test_a_cursor_of_another_tenant_is_refused() -> None:
    with pytest.raises(BadInputError, match="none that tenant other was given"):
        TenantCursors(KEK, "other").open(OURS.seal({PACKS: 3}))


def test_a_cursor_shows_neither_where_it_is_nor_whether_anything_moved() -> None:
    cursors = [OURS.seal({PACKS: at}) for at in (0, 0, 1, 1 << 40, (1 << 62) - 1)]
    assert len(set(cursors)) == len(cursors)
    assert len({len(cursor) for cursor in cursors}) == 1


@pytest.mark.parametrize(
    "text",
    ["7", "x=1", f"{PACKS}=3", f"{PACKS}=3,{SNAPSHOTS}=4", "é", "A", "====", "A" * 5000, "A" * 90],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="begin without one"):
        OURS.open(text, (PACKS,))


def test_a_cursor_that_was_changed_is_refused() -> None:
    cursor = OURS.seal({PACKS: 3})
    for at in range(len(cursor) - 1):  # of the last character some bits mean nothing
        other = "A" if cursor[at] != "A" else "B"
        with pytest.raises(BadInputError):
            OURS.open(cursor[:at] + other + cursor[at + 1 :])


@pytest.mark.parametrize("topic", ["nope", "backcast.block-changes", ""])
def test_a_topic_that_the_log_has_not_is_refused(topic: str) -> None:
    with pytest.raises(BadInputError, match="the catalog's log has"):
        OURS.open("", (topic,))


def test_a_cursor_is_no_option_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"\xf8" * 12, b"\xfb" * 12, b"\x00" * 12])  # 62 is the dash
    monkeypatch.setattr(os, "urandom", lambda _: next(drawn))
    assert TenantCursors(KEK, "a").seal({}).startswith("A")
