"""Records of the audit log: their form never changes, and each field is in their digest."""

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from libs.access.acts import GENESIS, Act, canonical, chained

ACT = Act(
    at=datetime(2026, 11, 22, 10, 0, 0, 250, tzinfo=UTC),
    service="catalog",
    token="désk",
    roles=("delete", "reader"),
    address="10.0.0.7",
    tenant="acme",
    method="POST",
    route="/v1/tenants/{tenant}/snapshots/{session}/expire",
    target='/v1/tenants/acme/snapshots/1/expire?a="',
    status=200,
)
#: As docs/formats/audit.md has it.
CANONICAL = (
    '["backcast-audit-1",17,"2026-11-22T10:00:00.000250Z","catalog","désk",["delete","reader"],'
    '"10.0.0.7","acme","POST","/v1/tenants/{tenant}/snapshots/{session}/expire",'
    '"/v1/tenants/acme/snapshots/1/expire?a=\\"",200]'
)
DIGEST = "0fe8b4d2150797d8ee0e6e6658e1ae587f6ad822b4397a2a334178712d85da7d"


def test_the_canonical_form_is_that_of_the_format() -> None:
    assert canonical(17, ACT).decode() == CANONICAL
    assert chained(GENESIS, 17, ACT).digest.hex() == DIGEST


def test_an_instant_is_the_same_in_every_zone() -> None:
    there = ACT.at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert canonical(17, dataclasses.replace(ACT, at=there)) == canonical(17, ACT)


@pytest.mark.parametrize(
    "change",
    [
        {"at": ACT.at + timedelta(microseconds=1)},
        {"service": "restore"},
        {"token": "desk"},
        {"roles": ("delete,reader",)},
        {"address": "10.0.0.8"},
        {"tenant": "*"},
        {"method": "GET"},
        {"route": ""},
        {"target": "/"},
        {"status": 403},
    ],
)
def test_every_field_is_in_the_digest(change: dict[str, Any]) -> None:
    changed = dataclasses.replace(ACT, **change)
    assert chained(GENESIS, 17, changed).digest != chained(GENESIS, 17, ACT).digest


def test_a_record_depends_on_its_number_and_on_the_one_before_it() -> None:
    digests = {
        chained(previous, number, ACT).digest
        for previous in (GENESIS, bytes([1]) * 32)
        for number in (17, 18)
    }
    assert len(digests) == 4
