"""Which manifests beyond a head are taken back (scenario 17)."""

import dataclasses
from datetime import timedelta
from uuid import UUID

from services.catalog.recovery.manifests import Candidate, Decisions, continuation
from tests.golden.make_formats import KEYS, MANIFEST

NOTHING = Decisions()


def candidate(number: int, sequence: int, after: bytes | None, minute: int = 0) -> Candidate:
    manifest = dataclasses.replace(
        MANIFEST,
        session=UUID(int=number),
        sequence=sequence,
        previous_mac=after,
        created_at=MANIFEST.created_at + timedelta(minutes=minute),
    )
    return Candidate(f"m/{number}", KEYS.key_id, mac(number), manifest)


def mac(number: int) -> bytes:
    return number.to_bytes(32, "big")


def taken(*candidates: Candidate, decisions: Decisions = NOTHING, rejected: int = 0) -> list[int]:
    chosen = continuation(
        (4, mac(4)), candidates, decisions, lambda session: session == UUID(int=rejected)
    )
    return [one.manifest.session.int for one in chosen]


def test_manifests_that_continue_the_head_come_back_in_order() -> None:
    assert taken(candidate(6, 6, mac(5)), candidate(5, 5, mac(4))) == [5, 6]


def test_a_manifest_of_another_history_does_not() -> None:
    assert taken(candidate(5, 5, mac(99))) == []


def test_of_two_on_one_head_the_one_that_the_next_names_was_acknowledged() -> None:
    late = candidate(50, 5, mac(4), minute=9)
    assert taken(late, candidate(5, 5, mac(4)), candidate(6, 6, mac(5))) == [5, 6]


def test_of_two_at_the_end_the_later_one_was_acknowledged_if_any() -> None:
    assert taken(candidate(5, 5, mac(4), minute=1), candidate(51, 5, mac(4), minute=2)) == [51]


def test_a_rejected_one_stays_rejected() -> None:
    assert taken(candidate(5, 5, mac(4)), rejected=5) == []
    assert taken(candidate(5, 5, mac(4)), decisions=Decisions(rejected={UUID(int=5)})) == []


def test_the_log_decides_over_the_time_of_manifests() -> None:
    late = candidate(51, 5, mac(4), minute=9)
    sealed = Decisions(sealed={UUID(int=5)})
    assert taken(late, candidate(5, 5, mac(4)), decisions=sealed) == [5]


def test_a_sequence_whose_manifest_was_deleted_is_passed_over() -> None:
    assert taken(candidate(7, 7, mac(6)), candidate(8, 8, mac(7)), candidate(5, 5, mac(4))) == [
        5,
        7,
        8,
    ]


def test_an_unknown_group_begins_wherever_its_manifests_do() -> None:
    chosen = continuation(None, [candidate(7, 7, mac(6))], NOTHING, lambda _: False)
    assert [one.manifest.sequence for one in chosen] == [7]
