"""What the filters of a lead and of a follower say to each other (`channel` has the frames).

A follower has two channels to its lead. On the one it asks the lead to save chunks, on the other it
answers the lead's questions.
"""

from typing import Literal

import msgspec

from services.change_capture.drivers.port import LostReason

#: Runs of chunks in one message: what the writers of a node wait for at the same time.
RUNS_MAX = 1024

Purpose = Literal["saves", "questions"]


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """A follower's filter says who it is, and what this channel is for."""

    #: Of the cut: a session's attempt and a volume.
    cut: str
    #: Of its node.
    node: str
    purpose: Purpose
    size_bytes: int
    #: Of its tracking.
    epoch: str


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The lead takes part, or says why it does not."""

    refusal: str | None


class SaveChunks(msgspec.Struct, frozen=True, tag="save"):
    """Ask the lead to have saved chunks: runs of them, first and last."""

    runs: list[tuple[int, int]]


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """The lead has saved them, unless its frozen view is broken."""

    broken: str | None


class AskWhole(msgspec.Struct, frozen=True, tag="whole?"):
    """Ask a follower whether it has overwritten anything that nobody saved."""


class Whole(msgspec.Struct, frozen=True, tag="whole"):
    """It has not, unless it says why."""

    broken: str | None
    epoch: str


class AskChanges(msgspec.Struct, frozen=True, tag="changes?"):
    """Say which session the cut is, and ask what the follower's node wrote since a base."""

    volume: str
    session: str
    base: str | None
    is_trusted: bool


class Changes(msgspec.Struct, frozen=True, tag="changes"):
    """Why that is not known, or bits that follow (`ChunkBitmap.packed`)."""

    lost_reason: LostReason | None
    lost_message: str
    has_bits: bool


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The follower cannot answer."""

    message: str


Message = Welcome | SaveChunks | Saved | AskWhole | Whole | AskChanges | Changes | Refused
