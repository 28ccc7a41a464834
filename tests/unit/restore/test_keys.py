"""When a data key was made, and when its object was written: two times after a rotation."""

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from libs.ids import uuid7
from libs.keys.keyring import DomainKeys
from libs.store.layout import DomainKeyName
from services.restore.keys import created_at

MADE = datetime(2026, 11, 3, 10, 0, 0, tzinfo=UTC)
ROTATED = MADE + timedelta(days=90)
DOMAIN = uuid.UUID(int=1)


def key_made(at: datetime) -> uuid.UUID:
    return uuid7(int(at.timestamp() * 1000))


def test_a_rotation_does_not_change_when_a_data_key_was_made() -> None:
    key = key_made(MADE)
    assert created_at(DomainKeyName(DOMAIN, key), MADE) == MADE
    assert created_at(DomainKeyName(DOMAIN, key, "0123456789abcdef"), ROTATED) == MADE


def test_a_new_data_key_says_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    keys = DomainKeys.generate(DOMAIN).with_new_data_key()
    name = DomainKeyName(DOMAIN, keys.key_id, "0123456789abcdef")
    said = created_at(name, datetime.now(UTC))
    assert said is not None
    assert before <= said.timestamp() * 1000 <= time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    "key",
    [
        uuid.UUID("6ba7b810-9dad-41d1-80b4-00c04fd430c8"),  # of an earlier release: random
        uuid.UUID("6ba7b810-9dad-71d1-80b4-00c04fd430c8"),  # random, and looks like one of today
        uuid.UUID("ffffffff-ffff-7fff-bfff-ffffffffffff"),  # names a year after 9999
        key_made(ROTATED + timedelta(days=2)),
        key_made(datetime(1999, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_key_that_does_not_say_it_is_as_old_as_its_first_object(key: uuid.UUID) -> None:
    assert created_at(DomainKeyName(DOMAIN, key), MADE) == MADE
    assert created_at(DomainKeyName(DOMAIN, key, "0123456789abcdef"), ROTATED) is None
