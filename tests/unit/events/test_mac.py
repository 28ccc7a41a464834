import dataclasses
from typing import Any

import pytest

from libs.errors import BadInputError
from libs.events.codec import encode
from libs.events.mac import event_mac, is_authentic
from tests.golden.make_events import SAMPLES, envelope_of

TOKEN = bytes(range(32))
VALUE = encode(SAMPLES[0])
BARE = dataclasses.replace(envelope_of(SAMPLES[0]), mac=None)
SIGNED = dataclasses.replace(BARE, mac=event_mac(TOKEN, BARE, VALUE))


def test_an_event_is_authentic_with_the_token_that_made_its_mac() -> None:
    assert is_authentic(TOKEN, SIGNED, VALUE)


def test_an_event_without_mac_is_not_authentic() -> None:
    assert not is_authentic(TOKEN, BARE, VALUE)


def test_another_token_is_noticed() -> None:
    assert not is_authentic(bytes(32), SIGNED, VALUE)


@pytest.mark.parametrize(
    "change",
    [{"type": "other"}, {"version": 3}, {"subject": "other"}, {"tenant": "other"}],
    ids=str,
)
def test_what_the_mac_covers_cannot_be_changed(change: dict[str, Any]) -> None:
    assert not is_authentic(TOKEN, dataclasses.replace(SIGNED, **change), VALUE)


def test_the_value_cannot_be_changed() -> None:
    assert not is_authentic(TOKEN, SIGNED, VALUE[:-1] + b"\x01")


def test_text_cannot_move_from_one_attribute_to_the_next() -> None:
    one = dataclasses.replace(BARE, subject="ab", tenant="c")
    other = dataclasses.replace(BARE, subject="a", tenant="bc")
    assert event_mac(TOKEN, one, VALUE) != event_mac(TOKEN, other, VALUE)


def test_a_short_token_is_refused() -> None:
    with pytest.raises(BadInputError):
        event_mac(b"short", BARE, VALUE)
