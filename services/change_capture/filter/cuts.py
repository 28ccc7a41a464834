"""What agents may do to a filter's volume: hold, cut, release, and have a frozen view for a while.

One agent at a time holds the volume. A few views may be open, each of one connection of an agent.
If that connection ends, writes go on, its view is closed, and a cut that no session has claimed is
taken back.

Order of a barrier: volume flushed → valve closed, those inside leave → flushed again → bits
swapped, bytes kept from here on → valve opened. Only if it was closed until then, and the bits of
before are durable, does the cut count and get a name. A crash at any step ends the process, and
with it the tracking (`tracking`).
"""

import logging
import threading
from collections import Counter

from libs.errors import (
    BackcastError,
    BadInputError,
    ConflictError,
    HoldBrokenError,
    NotFoundError,
    SourceError,
    UnavailableError,
)
from services.change_capture.drivers.port import TrackingLost
from services.change_capture.filter.frozen import BreakReason, FrozenBytes, ScratchLimits
from services.change_capture.filter.keeping import View
from services.change_capture.filter.marks.bitmap import ChunkBitmap
from services.change_capture.filter.marks.tracking import Tracking
from services.change_capture.filter.sharing.follower import KeptByLead
from services.change_capture.filter.sharing.lead import LeadServer
from services.change_capture.filter.sharing.messages import AskChanges
from services.change_capture.filter.sharing.parts import Member, Sharing
from services.change_capture.filter.volume import FilteredVolume

log = logging.getLogger(__name__)

#: Longest hold that an agent may ask for. A guest's file system waits for its writes meanwhile.
HOLD_SECONDS_MAX = 60.0
#: Views at once: that of a capture, and that of the one that supersedes it, twice.
VIEWS_MAX = 4


class FilterCuts:
    """The barriers and views of one volume. Thread-safe.

    Args:
        volume: the volume.
        tracking: what is known of its cuts.
        scratch: for bytes of before a cut.
        server: where the filters of other nodes that write the volume connect; None: nowhere.
    """

    def __init__(
        self,
        volume: FilteredVolume,
        tracking: Tracking,
        scratch: ScratchLimits,
        server: LeadServer | None = None,
    ) -> None:
        self.volume = volume
        self._tracking = tracking
        self._scratch = scratch
        #: That is being cut.
        self._held: View | None = None
        self._views: tuple[View, ...] = ()
        #: Another process has what is tracked, or will have it.
        self._is_retired = False
        self._lock = threading.RLock()
        #: What of the cuts is shared with other nodes.
        self.sharing = Sharing(
            volume,
            server,
            Member(tracking.epoch, scratch.wait_seconds_max, self._tell_lead, self.end),
        )
        #: Frozen views that broke, by why.
        self.broken_views: Counter[BreakReason] = Counter()
        #: A view breaks under its own lock, while another thread may have that of the cuts.
        self._counting = threading.Lock()

    @property
    def epoch(self) -> str:
        """Names the time since tracking was last lost."""
        return self._tracking.epoch

    @property
    def lost(self) -> TrackingLost | None:
        """Why this epoch began without what was tracked before it; None: it did not."""
        return self._tracking.lost

    @property
    def view_count(self) -> int:
        """Views that are open."""
        return len(self._views)

    @property
    def kept_bytes(self) -> int:
        """Bytes of before a cut that are kept for the views that are open."""
        return sum(view.frozen.kept_bytes for view in self._views)

    def hold(self, owner: object, seconds: float) -> None:
        """Hold writes; this returns when none is under way and all are on stable storage.

        Args:
            owner: whose hold it is.
            seconds: after so long writes go on, whatever happens.

        Raises:
            BadInputError: too long.
            ConflictError: the volume is held already, or has too many views.
            HoldBrokenError: the time was over before writes were held.
            UnavailableError: no scratch file can be made.
            SourceError: the disk fails, or other nodes that write it are not connected.
        """
        if not 0 < seconds <= HOLD_SECONDS_MAX:
            raise BadInputError(
                f"hold of {seconds:g} s: expected more than 0 and {HOLD_SECONDS_MAX:g} s at most"
            )
        with self._lock:
            self._check_serving()
            if self._held or len(self._views) >= VIEWS_MAX or self._of(owner):
                raise ConflictError(
                    f"volume {self.volume.disk.path}: it is held already, or has {VIEWS_MAX} "
                    f"views; wait until other captures have ended"
                )
            led, followed = self.sharing.led_by(owner), self.sharing.followed_by(owner)
            if led:
                led.require_all()
            if followed and followed.broken is not None:
                raise SourceError(f"volume {self.volume.disk.path}: {followed.broken}")
            self._flush()  # most of it, while writes still go on
            view = View(owner, followed or self._made_scratch(), led)
            self._held = view
            try:
                if not self.volume.valve.close(seconds):
                    raise self._broken_hold(seconds)
                self._flush()
            except BaseException:
                self._let_go(view)
                raise

    def cut(self, owner: object) -> None:
        """Begin the frozen view, while writes are held.

        Raises:
            HoldBrokenError: writes are not held any more, or never were.
        """
        with self._lock:
            self._check_serving()
            view = self._held_by(owner)
            if view is None or view.is_cut or not self.volume.valve.is_holding:
                raise HoldBrokenError(
                    f"volume {self.volume.disk.path}: its writes are not held, or not any more; "
                    f"take the snapshot again"
                )
            view.before = self.volume.cut(ChunkBitmap(self.volume.chunk_count), view.frozen)
            if view.led and isinstance(view.frozen, FrozenBytes):
                view.led.begin(view.frozen)
            view.is_cut = True

    def release(self, owner: object) -> str | None:
        """Let writes go on.

        Returns:
            Names the cut, if there was one and writes were held until now. Otherwise it is taken
            back, and None.

        Raises:
            OutOfSpaceError: the state folder is full; the cut is taken back.
            UnavailableError: the state folder fails; the cut is taken back.
        """
        with self._lock:
            self._check_serving()
            view = self._held_by(owner)
            if view is None:
                return None
            was_held = self.volume.valve.open()
            is_whole = was_held and view.is_cut and view.frozen.broken is None
            if not is_whole or view.before is None:
                self._let_go(view)
                return None
            try:
                view.token = self._tracking.add(view.before)
            except BaseException:
                self._let_go(view)
                raise
            view.before, self._held = None, None
            self._views = (*self._views, view)
            self.sharing.take(owner)
            if isinstance(view.frozen, KeptByLead):
                # It lasts as long as the lead's, whatever becomes of this node's agent.
                view.frozen.token, view.owner = view.token, view.frozen
            return view.token

    def view(self, token: str) -> FrozenBytes:
        """The frozen bytes of a cut.

        Raises:
            SourceError: it is gone.
        """
        frozen = self._view(token).frozen
        if not isinstance(frozen, FrozenBytes):
            raise SourceError(
                f"volume {self.volume.disk.path}: its frozen view is read at the lead, not here"
            )
        return frozen

    def why_broken(self, token: str) -> str | None:
        """Why the frozen view of a cut is broken, on whichever node; None: it is not.

        Raises:
            SourceError: it is gone.
        """
        view = self._view(token)
        return view.frozen.broken or (view.led.why_broken() if view.led else None)

    def claim(
        self, token: str, volume: str, session: str, base: str | None, *, is_trusted: bool
    ) -> ChunkBitmap | TrackingLost | None:
        """Say which session a cut has become, and ask what changed since a base.

        Returns:
            What was written between the base and the cut; or why that is not known; None: no base
            was named.

        Raises:
            NotFoundError: there is no such cut.
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
            SourceError: another node does not say what was written there.
        """
        found = self._claim(token, volume, session, base, is_trusted=is_trusted)
        led = next((view.led for view in self._views if view.token == token), None)
        if led:
            found = led.union(found, AskChanges(volume, session, base, is_trusted))
        return found

    def _claim(
        self, token: str, volume: str, session: str, base: str | None, *, is_trusted: bool
    ) -> ChunkBitmap | TrackingLost | None:
        """The same of what this node has written."""
        with self._lock:
            self._check_serving()
            try:
                self._tracking.claim(token, volume, session)
                found: ChunkBitmap | TrackingLost | None = None
                if base is not None:
                    found = self._tracking.changes(token, volume, base)
                    if not is_trusted:
                        found = TrackingLost(
                            "distrusted",
                            f"what was written since base {base} is not believed: something was "
                            f"overlooked, or the volume's place or its nodes have changed",
                        )
                self._tracking.keep_since(token, volume, base)
            except KeyError as err:
                raise NotFoundError(f"the filter has no cut {token!r} any more") from err
            for view in self._views:
                view.is_claimed = view.is_claimed or view.token == token
            return found

    def settle(self, volume: str, session: str, *, sealed: bool) -> None:
        """A session has ended; harmless when repeated, and for one that is not known.

        Raises:
            OutOfSpaceError: the state folder is full.
            UnavailableError: it fails.
        """
        with self._lock:
            self._check_serving()
            self._rejoin(self._tracking.settle(volume, session, sealed=sealed))

    def forget(self, volume: str) -> None:
        """What is known of a volume's bases is of no use any more. Errors as of `settle`."""
        with self._lock:
            self._check_serving()
            self._tracking.forget(volume)

    def end(self, owner: object) -> None:
        """An agent is gone, or is done: writes go on, and its view is closed."""
        with self._lock:
            view = self._held_by(owner) or self._of(owner)
            if view is not None:
                self._let_go(view)
            self.sharing.end(owner)

    def end_all(self, reason: str) -> None:
        """End whatever hold and views there are, because this process ends."""
        with self._lock:
            for view in (*self._views, *([self._held] if self._held else [])):
                view.frozen.break_off(reason)
                self._let_go(view)

    def retire(self, reason: str) -> None:
        """End all views, and take no order any more: what is tracked will be another process's.

        Raises:
            ConflictError: the volume is held, or another successor is served; all goes on.
        """
        with self._lock:
            if self._held or self._is_retired:
                raise ConflictError(
                    f"volume {self.volume.disk.path}: its writes are held, or it is being handed "
                    f"over; try again in a moment"
                )
            self._is_retired = True
            self.end_all(reason)

    def resume(self) -> None:
        """Take orders again; what is tracked is this process's."""
        with self._lock:
            self._is_retired = False

    def _check_serving(self) -> None:
        if self._is_retired:
            raise UnavailableError(
                f"volume {self.volume.disk.path}: its filter hands over to a successor; try again"
            )

    def _held_by(self, owner: object) -> View | None:
        return self._held if self._held is not None and self._held.owner is owner else None

    def _view(self, token: str) -> View:
        for view in self._views:
            if view.token == token:
                return view
        raise SourceError(
            f"volume {self.volume.disk.path}: the filter's frozen view is gone; was the filter or "
            f"the agent restarted? Take the snapshot again"
        )

    def _tell_lead(self, token: str, question: AskChanges) -> ChunkBitmap | TrackingLost | None:
        return self._claim(
            token,
            question.volume,
            question.session,
            question.base,
            is_trusted=question.is_trusted,
        )

    def _of(self, owner: object) -> View | None:
        return next((view for view in self._views if view.owner is owner), None)

    def _let_go(self, view: View) -> None:
        """Open the valve, let nothing more be kept, and take back what came to nothing."""
        if view is self._held:
            self.volume.valve.open()
            self._held = None
        self._views = tuple(one for one in self._views if one is not view)
        if view.led:
            self.sharing.end_lead(view.led)
        view.frozen.close()  # first, so that nobody who reads takes new bytes for those of the cut
        self.volume.thaw(view.frozen)
        self._rejoin(view.before)
        if view.token and not view.is_claimed:
            try:
                self._rejoin(self._tracking.take_out(view.token))
            except KeyError:  # a later order has done so
                pass
            except BackcastError as err:  # it is in the chain still, which is what counts
                log.warning("cut not taken back", extra={"detail": str(err)})

    def _rejoin(self, bits: ChunkBitmap | None) -> None:
        if bits is not None:
            self.volume.add_marks(bits)

    def _flush(self) -> None:
        try:
            self.volume.disk.flush()
        except OSError as err:
            raise SourceError(
                f"volume {self.volume.disk.path}: its writes cannot be flushed: {err.strerror}"
            ) from err

    def _made_scratch(self) -> FrozenBytes:
        made = self._scratch.made(self.volume.disk)
        made.on_broken = self._note_broken
        return made

    def _note_broken(self, kind: BreakReason) -> None:
        with self._counting:
            self.broken_views[kind] += 1

    def _broken_hold(self, seconds: float) -> HoldBrokenError:
        return HoldBrokenError(
            f"volume {self.volume.disk.path}: writes under way did not end within the {seconds:g} "
            f"s of the hold; take the snapshot again"
        )
