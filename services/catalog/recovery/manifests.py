"""Which manifests of a group continue its history, and which of them were acknowledged.

A manifest is written before its snapshot is acknowledged, so it proves nothing by itself (scenario
17). What decides, strongest first:

1. the log, where there is one: sealed, rejected, expired;
2. the next manifest: it names the MAC of the one that was acknowledged before it;
3. a rejection that the catalog or the checkpoint knows;
4. the order of opening: of two sessions on one head, the first had been rejected when the second
   opened, because a group has one open session at a time. So the one made last is taken.

What is taken by 2 or 4 alone comes back flagged as recovered.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from libs.packs.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the log says of sessions after the newest checkpoint."""

    sealed: Collection[UUID] = field(default_factory=frozenset)
    rejected: Collection[UUID] = field(default_factory=frozenset)
    expired: Collection[UUID] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A manifest beyond a group's head."""

    key: str
    key_id: UUID
    mac: bytes
    manifest: Manifest


def continuation(
    head: tuple[int, bytes | None] | None,
    candidates: Sequence[Candidate],
    decisions: Decisions,
    is_rejected: Callable[[UUID], bool],
) -> list[Candidate]:
    """The manifests that continue a head, in order of their sequences.

    A sequence without a manifest is passed over: that snapshot expired, and its manifest was
    deleted. Those after it cannot be chained to the head then, but to each other.

    Args:
        head: sequence and MAC of the group's head; None if nothing is known of the group.
        candidates: all manifests beyond the head.
        decisions: what the log says.
        is_rejected: whether a session is known as rejected.
    """
    by_sequence: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        session = candidate.manifest.session
        if session in decisions.rejected or is_rejected(session):
            continue
        by_sequence.setdefault(candidate.manifest.sequence, []).append(candidate)
    taken: list[Candidate] = []
    expected, mac = (head[0] + 1, head[1]) if head else (0, None)
    for sequence in sorted(by_sequence):
        possible = [
            candidate
            for candidate in by_sequence[sequence]
            if sequence != expected or candidate.manifest.previous_mac == mac
        ]
        if possible:
            chosen = _acknowledged(possible, by_sequence.get(sequence + 1, []), decisions)
            taken.append(chosen)
            expected, mac = sequence + 1, chosen.mac
    return taken


def _acknowledged(
    possible: Sequence[Candidate], following: Sequence[Candidate], decisions: Decisions
) -> Candidate:
    named = {candidate.manifest.previous_mac for candidate in following}

    def rank(candidate: Candidate) -> tuple[bool, bool, object, UUID]:
        manifest = candidate.manifest
        return (
            manifest.session in decisions.sealed,
            candidate.mac in named,
            manifest.created_at,
            manifest.session,
        )

    return max(possible, key=rank)
