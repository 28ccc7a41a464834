"""The port of sources: where a capture's bytes come from, and how their changes are known.

A driver opens a *frozen view* of a volume and gives a *tracker* for it. What a capture does with
them is the same for every driver: it takes the tracker's candidates in regions, reads each of them
once, asks the tracker what of it changed, and publishes that.

A tracker may not know what changed since the base: the base is another one, the device is, the
node was away, the tracker was stopped uncleanly. That is `TrackingLost`. It is ordinary: the
capture compares everything, and says so.

Implementations raise `SourceError` where the volume fails, and `UnavailableError` or
`OutOfSpaceError` where their own state does. They make one attempt per call.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable
from uuid import UUID

from libs.events.fields import HoldMeans
from libs.ranges import ByteRange

#: A capture asks a tracker about aligned stretches of at most so many chunks: 8 MiB.
REGION_CHUNKS = 128

#: What a tracker's answers are worth.
#: ``everything``: the candidates are all that may hold data; what is no candidate is zero now.
#: ``exact``: what is no candidate is as it was at the base; of the candidates, the tracker says
#: which changed.
#: ``candidates``: what is no candidate is as it was at the base; each candidate may be changed.
Trust = Literal["everything", "exact", "candidates"]

#: Why a tracker does not know: it has nothing of the base (``unknown``), it follows another base,
#: device or epoch, it was not stopped cleanly, or what it said since this base was found untrue.
LostReason = Literal[
    "unknown", "wrong-base", "another-device", "wrong-epoch", "unclean", "distrusted"
]


@dataclass(frozen=True, slots=True)
class TrackingLost:
    """A base was named, and the tracker cannot say what changed since."""

    reason: LostReason
    #: For people: what is missing, and of which base.
    message: str


@dataclass(frozen=True, slots=True)
class SourceOrder:
    """What a driver is asked to open; `repr` shows no secret."""

    volume: UUID
    #: The session that captures. If it is sealed, it is the base of the next order.
    session: UUID
    path: Path
    #: Session of the snapshot that changes are wanted since; None: everything is wanted.
    base: UUID | None
    #: False: what was tracked since this base was found untrue; nothing of it may be used.
    is_trusted: bool
    #: 32 bytes to seed fingerprints with.
    secret: bytes = field(repr=False)
    #: Chunks that somebody says have changed, as `libs.ranges.pack_runs`; None: nobody did.
    hints: bytes | None = field(repr=False, default=None)


class Candidate(NamedTuple):
    """Bytes that may differ from the base, aligned to chunks."""

    extent: ByteRange
    #: True: all of it is zero now, so that nobody needs to read it.
    is_hole: bool = False


class Changes(NamedTuple):
    """Of the chunks in a buffer, those that changed, by their position in the buffer, ascending."""

    #: Changed, and not all zeros now.
    data: list[int]
    #: Not zeros at the base, and all zeros now.
    zeros: list[int]


class FrozenView(Protocol):
    """An open volume as it is at one moment, or as near to that as the driver can come.

    `read_into` and `data` are thread-safe; `close` is called once, when nobody reads any more.
    """

    @property
    def size_bytes(self) -> int:
        """Bytes of the volume when it was opened; does not change."""
        ...

    @property
    def data_bytes_estimate(self) -> int:
        """About so many bytes are not zero; cheap to tell, so it may be far too high."""
        ...

    @property
    def identity(self) -> str:
        """What tells this device from another one found under the same path later.

        Two devices never have the same. One device keeps its own, where the driver can tell.
        """
        ...

    def data(self, start: int = 0) -> Iterator[ByteRange]:
        """Where data may be from byte ``start`` on; everything else is zeros.

        Ascending, disjoint, aligned to chunks (the last may end beyond the volume), and lazy: the
        first costs no walk over what follows it.

        Args:
            start: a multiple of the chunk size.
        """
        ...

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill all of ``buffer`` with the volume's bytes from ``start``; beyond its end are zeros.

        The buffer stays the caller's. ``start`` and the length are multiples of the chunk size. A
        buffer that begins at a page is read into without copying.

        Raises:
            SourceError: the device fails, or the volume became shorter. The buffer is undefined.
        """
        ...

    def consistency(self) -> Literal["frozen", "quiet", "unvouched", "fuzzy"]:
        """How sure it is that all was read from one moment; asked when all has been read.

        ``frozen``: it cannot be otherwise. ``quiet``: it is known that nothing wrote meanwhile.
        ``unvouched``: nobody can tell. ``fuzzy``: something wrote. When in doubt it is the weaker
        one.
        """
        ...

    def close(self) -> None:
        """Let go of the volume."""
        ...


class Comparison(Protocol):
    """What a tracker knows of one region; used by one thread. The region's candidates come once."""

    def changed(self, first: int, buffer: memoryview) -> Changes | None:
        """What changed of chunks that were just read; None: nothing.

        Args:
            first: index of the first chunk in the volume.
            buffer: whole chunks of this region; not kept, and not written to.
        """
        ...

    def cleared(self, first: int, count: int) -> list[int]:
        """Indexes of chunks that were not zeros at the base, of a candidate that is a hole now."""
        ...

    def finish(self) -> None:
        """The region's candidates have all been looked at; what was learnt of them may be kept."""
        ...


class Tracker(Protocol):
    """Knows which chunks of a view may differ from the base of an order.

    `compare` is thread-safe. Order of calls: `candidates` once, `compare` for regions that have
    some, `finish` if every one of them was looked at, `close`, and `settle` when the session's
    outcome is known. A capture that fails, or a process that dies, leaves out what follows.
    """

    @property
    def trust(self) -> Trust:
        """What the answers are worth."""
        ...

    @property
    def lost(self) -> TrackingLost | None:
        """Why the trust is ``everything`` although the order names a base."""
        ...

    def candidates(self) -> Iterator[Candidate]:
        """What must be looked at: ascending, disjoint, within the volume rounded up to chunks.

        Lazy. For a tracker that knows what changed it costs O(changes), never O(volume). The
        iterator is not thread-safe.
        """
        ...

    def compare(self, first: int, count: int) -> Comparison:
        """Begin to look at a region.

        Args:
            first: index of its first chunk, a multiple of `REGION_CHUNKS`.
            count: chunks that the volume has in it, at most `REGION_CHUNKS`.
        """
        ...

    def finish(self) -> None:
        """Make durable what the next capture needs if this one becomes its base.

        Called before `CaptureCompleted` is published: from then on the session can be sealed.
        """
        ...

    def settle(self, *, sealed: bool) -> None:
        """Act on the outcome; harmless when repeated, and after `close`.

        Sealed: what this capture learnt is what counts, and what belongs to older bases may go. Not
        sealed: what is known of the base stays, so that the next capture finds the same changes.
        Whoever is never told keeps both; the next order names its base.
        """
        ...

    def close(self) -> None:
        """Let go of files; what was not finished is discarded."""
        ...


@dataclass(frozen=True, slots=True)
class SharedCut:
    """Several nodes write the volume: one of them, the lead, keeps the bytes of the cut for all.

    Without followers this node is a follower, and learns later where the lead is.
    """

    #: Names the cut on all nodes.
    name: str
    #: By which its nodes prove to each other that they take part.
    key: bytes = field(repr=False)
    #: Name of this node.
    node: str
    #: Of the lead: names of the other nodes.
    followers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateOrder:
    """A volume that is to be cut at the barrier of a session."""

    volume: UUID
    session: UUID
    #: Attempt of the session at its barrier, from 1.
    attempt: int
    tenant: str
    path: Path
    #: Whether a file system that holds all writes to the volume is frozen from the hold on.
    is_frozen: bool
    #: Numbers of the file systems (`st_dev`) that are frozen then, for whichever volume.
    frozen_devices: frozenset[int]
    #: Volumes that the session has on all nodes; 0: nobody has said.
    volume_count: int = 0
    #: What it shares with other nodes; None: this node alone writes it.
    shared: SharedCut | None = None


class Gate(Protocol):
    """One volume's side of a barrier: writes wait, its frozen view begins, writes go on.

    Order of calls: `hold`, `cut`, `release`, each at most once and by one thread at a time; `close`
    may follow any of them.
    """

    @property
    def means(self) -> HoldMeans:
        """By what writes are held; ``none``: by nothing, and only the view can tell of them."""
        ...

    def hold(self, seconds: float) -> None:
        """Let new writes wait, and return when earlier ones are done and can be read.

        Args:
            seconds: the hold ends by itself after so long, by the node's monotonic clock.

        Raises:
            SourceError: the volume cannot be read, or its writes cannot be held.
        """
        ...

    def cut(self) -> FrozenView:
        """Begin the frozen view, which is the caller's. What changed since is tracked anew.

        Raises:
            SourceError: there is no room for it, or the volume fails.
            HoldBrokenError: the hold has ended by itself.
        """
        ...

    def release(self, *, unbroken: bool) -> bool:
        """Let writes go on; whether they were held until now.

        Args:
            unbroken: whether what else holds writes on this node has held them until now.
        """
        ...

    def close(self) -> None:
        """Let writes go on, whatever came before; the view that was begun stays the caller's."""
        ...


@runtime_checkable
class SharedGate(Gate, Protocol):
    """The gate of a volume that several nodes write. Only some drivers have it.

    The view that `cut` begins on a follower is never read. It lasts as long as that of the lead.
    """

    @property
    def address(self) -> str:
        """Where followers find the lead; empty at a follower."""
        ...

    def follow(self, address: str) -> None:
        """Connect to the lead, before `hold`; harmless when repeated.

        Raises:
            SourceError: the lead does not answer, or does not take this node for a follower.
        """
        ...


class Driver(Protocol):
    """One way to read volumes and to know their changes. Thread-safe."""

    def view(self, tenant: str, path: Path) -> FrozenView:
        """Open a volume of a tenant.

        Raises:
            SourceError: it is missing or not open to the tenant, unreadable, or no volume.
        """
        ...

    def gate(self, order: GateOrder) -> Gate:
        """The gate of a volume that is to be cut.

        Raises:
            SourceError: the volume is missing or not open to the tenant, unreadable, or no volume.
        """
        ...

    def require_tracking(self, view: FrozenView) -> None:
        """Refuse a volume whose changes this driver will never know; asked before it is protected.

        Raises:
            SourceError: every capture of it would compare everything.
        """
        ...

    def tracker(self, order: SourceOrder, view: FrozenView) -> Tracker:
        """The tracker of a view that `view` has opened for this order.

        Raises:
            BadInputError: the hints of the order are not for a volume of this size.
        """
        ...

    def forget(self, volume: UUID) -> None:
        """Drop what is kept about a volume: its changes are known otherwise now, or not at all."""
        ...
