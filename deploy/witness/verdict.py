"""Judges the bytes of a snapshot: may they have stood on the disk at one instant?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deploy.witness.records import (
    RECORD_SIZE_BYTES,
    Layout,
    Record,
    decode_chunk,
    decode_record,
)
from libs.packs.layout import CHUNK_SIZE_BYTES

#: Reads bytes of the snapshot: (offset, length).
Read = Callable[[int, int], bytes]


@dataclass
class Verdict:
    """What was compared, and what contradicts that this was one instant.

    Attributes:
        records: whole records found.
        citations: causes that were looked for.
        versions: for each contended chunk, its version; None if it is torn.
        heads: for each node, the number of its newest record.
        contradictions: a sentence each; none if it may have been one instant.
    """

    records: int = 0
    citations: int = 0
    versions: list[int | None] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)


def judge(layout: Layout, read: Read, acknowledged: Sequence[int] | None = None) -> Verdict:
    """Judge a snapshot of a disk that writers of this layout write.

    Args:
        layout: of the disk.
        read: reads the snapshot.
        acknowledged: for each node, the newest record that was acknowledged before the snapshot
            was asked for, which must therefore be there. None: nobody noted it.
    """
    verdict = Verdict()
    rings = [_ring(layout, read, node, verdict) for node in range(layout.nodes)]
    verdict.heads = [max((one.number for one in ring), default=0) for ring in rings]
    for node, least in enumerate(acknowledged or ()):
        if verdict.heads[node] < least:
            verdict.contradictions.append(
                f"node {node}: record {least} was acknowledged before, "
                f"but the newest one here is {verdict.heads[node]}"
            )
    for ring in rings:
        for record in ring:
            _compare_causes(record, verdict)
    newest = [max(ring, key=lambda one: one.number) for ring in rings if ring]
    for chunk in range(layout.contended):
        _compare_chunk(layout, read, chunk, newest, verdict)
    return verdict


def _ring(layout: Layout, read: Read, node: int, verdict: Verdict) -> list[Record]:
    """The records of a node; each slot must have the newest one up to the newest of all."""
    raw = read(layout.slot_at(node, 0), layout.slots * RECORD_SIZE_BYTES)
    slots = [raw[at : at + RECORD_SIZE_BYTES] for at in range(0, len(raw), RECORD_SIZE_BYTES)]
    found = [decode_record(layout, slot) for slot in slots]
    records = [one for one in found if one is not None and one.node == node]
    head = max((one.number for one in records), default=0)
    for slot, record in enumerate(found):
        # Record 0 is never written: its slot is empty until it holds record `slots`.
        expected = head - (head - slot) % layout.slots
        if expected <= 0:
            right = not any(slots[slot])
        else:
            right = record is not None and (record.node, record.number) == (node, expected)
        if not right:
            there = "a torn one" if record is None else f"record {record.number}"
            verdict.contradictions.append(
                f"node {node}: slot {slot} has {there} instead of record {max(expected, 0)}, "
                f"while record {head} is there"
            )
    verdict.records += len(records)
    return records


def _compare_causes(record: Record, verdict: Verdict) -> None:
    for node, (seen, head) in enumerate(zip(record.seen, verdict.heads, strict=True)):
        verdict.citations += 1
        if seen > head:
            verdict.contradictions.append(
                f"record {record.number} of node {record.node} has read record {seen} of node "
                f"{node}, but the newest one here is {head}"
            )


def _compare_chunk(
    layout: Layout, read: Read, chunk: int, newest: Sequence[Record], verdict: Verdict
) -> None:
    raw = read(layout.chunk_at(chunk), CHUNK_SIZE_BYTES)
    version = decode_chunk(layout, chunk, raw)
    verdict.versions.append(version)
    done = max((one.done[chunk] for one in newest), default=0)
    meant = max((one.meant[chunk] for one in newest), default=0)
    if version is None:
        verdict.contradictions.append(f"contended chunk {chunk} is torn")
    elif not done <= version <= max(meant, done):
        verdict.contradictions.append(
            f"contended chunk {chunk} has version {version}, but records here say that version "
            f"{done} was acknowledged, and that nothing after version {meant} was begun"
        )
