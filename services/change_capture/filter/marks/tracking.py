"""What was written since which cut, and what of it outlives this process.

A chain of cuts, the oldest first. Each has the bits of what was written between the cut before it
and itself, as a *segment* in the state folder, and the session that it became, once an agent has
said so. What was written since the last cut is in memory alone.

What changed since a base is the union of the segments after the base's cut. A cut whose session is
not sealed is taken out of the chain, and its segment joins the next one: so nothing that was
written since the base is ever lost because a capture failed.

Order at a cut: bits swapped in memory, while nobody writes → segment written and flushed →
`tracking.json` replaced and its folder flushed: **the commit**; no chunk is read before. At a clean
stop: all connections closed → volume flushed → bits written as a segment → `tracking.json` says
clean: **the commit**. At a start: `tracking.json` says unclean, durably → the first connection is
accepted. So a process that was killed, and a machine that crashed, leave "unclean" (or, within a
stop, a clean state without any write after it). The next process then has a new epoch and an empty
chain, and every base is lost. Segments that no state names are removed at the start.
"""

import logging
from pathlib import Path
from uuid import uuid4

from libs.errors import ConflictError
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.marks.state import Cut, StateFolder, TrackingState, VolumeFacts

log = logging.getLogger(__name__)


class Tracking:
    """The chain of cuts of one volume. Used by one thread at a time.

    Args:
        folder: of this filter alone.
        facts: of the volume as it is found.
        chunk_count: chunks of the volume.
        after: the stop of the process that handed over; None: of no matter which.

    Raises:
        ConflictError: another process has used the state since that stop; nothing was changed.
        OutOfSpaceError: the state folder is full.
        UnavailableError: it fails.
    """

    def __init__(
        self, folder: Path, facts: VolumeFacts, chunk_count: int, after: str | None = None
    ) -> None:
        self._folder = StateFolder(folder, chunk_count)
        self._chunk_count = chunk_count
        #: Why an epoch began after an unclean end, if it did.
        self.lost: TrackingLost | None = None
        #: What was written since the last cut, as the process before this one has saved it.
        self.marks = ChunkBitmap(chunk_count)
        with self._folder.told():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._state = self._found(facts, after)
            self._save()

    @property
    def epoch(self) -> str:
        """Names the time since tracking was last lost."""
        return self._state.epoch

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The chain, the oldest first."""
        return tuple(self._state.cuts)

    def add(self, before: ChunkBitmap) -> str:
        """Add a cut with what was written before it. Returns its token.

        Raises:
            OutOfSpaceError: the state folder is full; the cut is not in the chain.
            UnavailableError: it fails; the cut is not in the chain.
        """
        with self._folder.told():
            cut = Cut(self._folder.write_segment(before), uuid4().hex)
            self._state.cuts.append(cut)
            try:
                self._save()
            except BaseException:
                self._state.cuts.pop()
                raise
        return cut.token

    def claim(self, token: str, volume: str, session: str) -> None:
        """Say what a cut has become. The sessions of other cuts stay what they are.

        Raises:
            KeyError: there is no such cut.
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        cut = self._cut(token)
        cut.volume, cut.session = volume, session
        with self._folder.told():
            self._save()

    def changes(self, token: str, volume: str, base: str) -> ChunkBitmap | TrackingLost:
        """What was written between a base and a cut, or why that is not known.

        Raises:
            KeyError: there is no such cut.
        """
        cuts = self._state.cuts
        last = cuts.index(self._cut(token))
        for number in range(last - 1, -1, -1):
            if (cuts[number].volume, cuts[number].session) == (volume, base):
                return self._union(cuts[number + 1 : last + 1], base)
        return self._why_lost(cuts[:last], volume, base)

    def keep_since(self, token: str, volume: str, base: str | None) -> None:
        """An order has named its base: older cuts go, and those that came to nothing since it.

        Raises:
            KeyError: there is no such cut.
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        cuts = self._state.cuts
        last = cuts.index(self._cut(token))
        keys = [(cut.volume, cut.session) for cut in cuts[:last]]
        with self._folder.told():
            if base and (volume, base) in keys:
                at = keys.index((volume, base))
                self._join(at + 1, last)
                self._drop_before(cuts[at].token)
            else:
                self._drop_before(token)
            self._save()

    def settle(self, volume: str, session: str, *, sealed: bool) -> ChunkBitmap | None:
        """A session has ended. Harmless for one that the chain does not have.

        Returns:
            What was written before its cut, if that joins what is in memory.

        Raises:
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        cuts = self._state.cuts
        keys = [(cut.volume, cut.session) for cut in cuts]
        if (volume, session) not in keys:
            return None
        at = keys.index((volume, session))
        if not sealed:
            return self.take_out(cuts[at].token)
        with self._folder.told():
            self._drop_before(cuts[at].token)
            self._save()
        return None

    def take_out(self, token: str) -> ChunkBitmap | None:
        """Take a cut out of the chain that came to nothing. Returns as `settle`.

        Raises:
            KeyError: there is no such cut.
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        cuts = self._state.cuts
        at = cuts.index(self._cut(token))
        rejoined = None
        with self._folder.told():
            if at + 1 < len(cuts):
                self._join(at, at + 1)
            else:
                rejoined = self._bits_of(cuts[at:])
                # Without its bits nothing is known of what lies before it.
                self._state.cuts = [] if rejoined is None else cuts[:at]
            self._save()
        return rejoined

    def forget(self, volume: str) -> None:
        """What is known of a volume's bases is of no use any more.

        Raises:
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        for cut in self._state.cuts:
            if cut.volume == volume:
                cut.session = None
        with self._folder.told():
            self._save()

    def stop(self, marks: ChunkBitmap, facts: VolumeFacts) -> None:
        """Save all, when nobody writes any more and the volume is flushed.

        Raises:
            OutOfSpaceError: the state folder is full; what is tracked is lost.
            UnavailableError: it fails; what is tracked is lost.
        """
        with self._folder.told():
            self._state.current = self._folder.write_segment(marks)
            self._state.facts = facts
            self._state.is_clean = True
            self._state.stop = uuid4().hex
            self._save()

    @property
    def last_stop(self) -> str:
        """Names the newest `stop`."""
        return self._state.stop

    def go_on(self) -> None:
        """After a `stop` that came to nothing, with the volume's lock kept: it is in use again.

        Raises:
            OutOfSpaceError: the state folder is full; nothing may be written to the volume.
            UnavailableError: it fails; the same.
        """
        self._state.is_clean, self._state.current = False, None
        with self._folder.told():
            self._save()

    def take_back(self) -> bool:
        """After `stop`: whether nobody has taken the state over; if so, it is in use again.

        The caller has the volume's lock, so nobody takes it over meanwhile.

        Raises:
            OutOfSpaceError: the state folder is full; nothing may be written to the volume.
            UnavailableError: it fails; the same.
        """
        with self._folder.told():
            try:
                found = StateFolder(self._folder.path, self._chunk_count).read_state()
            except (ValueError, TypeError, KeyError, AttributeError):
                found = None
        if found != self._state:
            return False
        self.go_on()
        return True

    def _found(self, facts: VolumeFacts, after: str | None) -> TrackingState:
        """The state of the process before this one, or a new epoch.

        Raises:
            ConflictError: it is not that of the stop ``after``.
        """
        fresh = TrackingState(uuid4().hex, facts)
        try:
            state = self._folder.read_state()
            if after is not None and (state is None or not state.is_clean or state.stop != after):
                raise ConflictError(
                    f"the filter's state in {self._folder.path}: another process has used it since "
                    f"it was handed over; start again"
                )
            if state is None:
                return fresh
            lost = _why_useless(state, facts)
            if lost is None:
                marks = self._bits_of([Cut(state.current, "")])
                if marks is None:
                    raise ValueError("the bits of its last writes are damaged")
                self.marks = marks
                state.facts, state.is_clean, state.current = facts, False, None
                return state
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
            about = f"the filter's state in {self._folder.path} is damaged: {err}"
            lost = TrackingLost("unclean", about)
        log.warning("tracking lost", extra={"reason": lost.reason, "detail": lost.message})
        self.lost = lost
        return fresh

    def _why_lost(self, earlier: list[Cut], volume: str, base: str) -> TrackingLost:
        if any(cut.volume == volume and cut.session for cut in earlier):
            return TrackingLost(
                "wrong-base", f"the filter follows another base than {base} of volume {volume}"
            )
        return self.lost or TrackingLost("unknown", f"the filter has no cut of base {base}")

    def _union(self, cuts: list[Cut], base: str) -> ChunkBitmap | TrackingLost:
        found = self._bits_of(cuts)
        if found is None:
            return TrackingLost("unclean", f"a segment of what was written since {base} is damaged")
        return found

    def _join(self, first: int, last: int) -> None:
        """Let the segments of cuts ``first`` to ``last`` be that of ``last``, the only one kept."""
        cuts = self._state.cuts
        bits = self._bits_of(cuts[first : last + 1])
        kept = cuts[last]
        joined = Cut(None, kept.token, kept.volume, kept.session)
        if bits is None:  # from here on nothing is known of what lies before
            self._state.cuts = [joined, *cuts[last + 1 :]]
        else:
            joined.segment = self._folder.write_segment(bits)
            self._state.cuts = [*cuts[:first], joined, *cuts[last + 1 :]]

    def _drop_before(self, token: str) -> None:
        """Nobody needs what lies before a cut, if it is in the chain."""
        cuts = self._state.cuts
        at = next((n for n, cut in enumerate(cuts) if cut.token == token), 0)
        self._state.cuts = cuts[at:]
        if self._state.cuts:
            self._state.cuts[0].segment = None

    def _cut(self, token: str) -> Cut:
        for cut in self._state.cuts:
            if cut.token == token:
                return cut
        raise KeyError(token)

    def _bits_of(self, cuts: list[Cut]) -> ChunkBitmap | None:
        """The union of segments; None if one of them cannot be read."""
        bits = ChunkBitmap(self._chunk_count)
        for cut in cuts:
            if cut.segment is None or not self._folder.read_segment(cut.segment, bits):
                return None
        return bits

    def _save(self) -> None:
        self._folder.write_state(self._state)


def _why_useless(state: TrackingState, facts: VolumeFacts) -> TrackingLost | None:
    if not state.is_clean:
        return TrackingLost(
            "unclean",
            "the filter was not stopped cleanly, so what it had marked in memory is lost",
        )
    if state.facts.identity != facts.identity:
        return TrackingLost(
            "another-device",
            f"the filter was in front of another volume: {state.facts.identity} then, "
            f"{facts.identity} now",
        )
    if state.facts != facts:
        return TrackingLost(
            "unclean",
            f"the volume was written to or resized while no filter was in front of it: "
            f"{state.facts} then, {facts} now",
        )
    return None
