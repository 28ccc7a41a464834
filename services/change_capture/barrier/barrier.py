"""What this agent process holds and has cut: its side of the barriers of sessions.

Steps of an attempt: prepared → held → cut → released → views taken by captures. A follower of a
volume that several nodes write connects to its lead before it holds. Each step happens once; an
order that comes again is answered with what it did the first time. An order of an older attempt is
refused, and a newer attempt begins anew (scenario 18). Nothing of it survives the process.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from libs.errors import (
    BackcastError,
    BadInputError,
    ConflictError,
    HoldBrokenError,
    NotFoundError,
    SourceError,
)
from libs.events.fields import HOLD_MEANS, HoldMeans
from services.change_capture.barrier.hold import Hold, MountPoint, journal_path, open_mount_point
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.port import (
    Driver,
    FrozenView,
    Gate,
    GateOrder,
    SharedCut,
    SharedGate,
)
from services.change_capture.drivers.table import find_driver
from services.change_capture.rpc import BarrierStatus

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """One volume that this node cuts."""

    volume: UUID
    path: Path
    #: Mount point of the file system to freeze while writes are held, or None.
    freeze: str | None
    #: Name of the driver that cuts it.
    driver: str = "scan"
    #: Volumes that its session has on all nodes; 0: nobody has said.
    volume_count: int = 0
    #: What this node is in it, if other nodes write it too.
    shared: SharedCut | None = None


class Barriers:
    """The barriers of this process, one attempt per session. Thread-safe.

    Args:
        drivers: name → driver.
        roots: whose file systems may be frozen.
        folder: for journals of holds.
        outcome_timeout_seconds: views that no capture took are let go after so long.
        clock: seconds since 1970, for people who read the evidence. It decides nothing, may jump.
    """

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        roots: Roots,
        folder: Path,
        outcome_timeout_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._drivers = drivers
        self._clock = clock
        self._roots = roots
        self._folder = folder
        self._outcome_timeout_seconds = outcome_timeout_seconds
        self._attempts: dict[UUID, _Attempt] = {}
        self._lock = threading.Lock()

    def prepare(
        self,
        session: UUID,
        attempt: int,
        tenant: str,
        members: Sequence[Member],
        hold_seconds: float,
    ) -> BarrierStatus:
        """Open what is needed to cut these volumes; what an older attempt has is let go.

        Raises:
            ConflictError: a newer attempt is known.
            SourceError: a volume cannot be read or is not open to the tenant, or its mount point
                cannot be frozen or is not.
            BadInputError: this agent does not have the driver of a volume, or several nodes write
                the volume and the driver cannot cut that.
        """
        for one in members:
            find_driver(self._drivers, one.driver)
        with self._lock:
            known = self._attempts.get(session)
            if known and known.number > attempt:
                raise _outdated(session, attempt, known.number)
            if known is None or known.number < attempt:
                fresh = _Attempt(
                    session,
                    attempt,
                    tenant,
                    members,
                    hold_seconds,
                    self._drivers,
                    self._roots,
                    self._clock,
                )
                self._attempts[session] = fresh
            else:
                fresh, known = known, None
        if known:
            known.let_go()
        return fresh.prepare(journal_path(self._folder, f"{session}-{attempt}"))

    def require_freezable(self, tenant: str, path: str) -> None:
        """Refuse a mount point that this node would not freeze for a tenant.

        Raises:
            SourceError: as of `open_mount_point`.
        """
        open_mount_point(self._roots, tenant, path).close()

    def follow(self, session: UUID, attempt: int, leads: Mapping[UUID, str]) -> BarrierStatus:
        """Connect to the leads of volumes that other nodes write, too. Errors as of `hold`.

        Args:
            session: the session.
            attempt: its attempt.
            leads: where the lead of each such volume is.
        """
        return self._get(session, attempt).follow(leads)

    def hold(self, session: UUID, attempt: int) -> BarrierStatus:
        """Hold writes.

        Raises:
            ConflictError: a newer attempt is known.
            NotFoundError: this process has not prepared the attempt.
            SourceError: writes cannot be held.
            HoldBrokenError: the hold has ended by itself.
        """
        return self._get(session, attempt).hold()

    def cut(self, session: UUID, attempt: int) -> BarrierStatus:
        """Begin the frozen views. Errors as of `hold`."""
        return self._get(session, attempt).cut()

    def release(self, session: UUID, attempt: int, *, abandoned: bool) -> BarrierStatus:
        """Let writes go on, and say whether the hold was unbroken until now. Errors as of `hold`.

        Args:
            session: the session.
            attempt: its attempt.
            abandoned: nobody will read the views.
        """
        found = self._get(session, attempt)
        status = found.release()
        if abandoned:
            found.let_go()
        return status

    def take_view(self, session: UUID, attempt: int, volume: UUID) -> FrozenView:
        """The view of a volume that was cut; from here on it is the caller's, who closes it.

        Raises:
            SourceError: it is gone: the agent was restarted, or another attempt has begun.
        """
        with self._lock:
            found = self._attempts.get(session)
        view = found.take_view(volume) if found and found.number == attempt else None
        if view is None:
            raise SourceError(
                f"volume {volume}: the frozen view of its cut is gone; was the agent restarted? "
                f"Take the snapshot again"
            )
        return view

    def forget(self, session: UUID) -> None:
        """A session has ended: let go of what is left of it."""
        with self._lock:
            found = self._attempts.pop(session, None)
        if found:
            found.let_go()

    def drop_forgotten(self) -> None:
        """Let go of what nobody has asked for in a long time."""
        oldest = time.monotonic() - self._outcome_timeout_seconds
        with self._lock:
            forgotten = [s for s, one in self._attempts.items() if one.last_used < oldest]
        for session in forgotten:
            log.info("barrier let go", extra={"session": str(session)})
            self.forget(session)

    def close(self) -> None:
        """Let go of everything, when the process ends."""
        with self._lock:
            sessions = list(self._attempts)
        for session in sessions:
            self.forget(session)

    def _get(self, session: UUID, attempt: int) -> "_Attempt":
        with self._lock:
            known = self._attempts.get(session)
        if known and known.number > attempt:
            raise _outdated(session, attempt, known.number)
        if known is None or known.number < attempt:
            raise NotFoundError(
                f"session {session}: attempt {attempt} at its barrier was not prepared by this "
                f"agent process; was the agent restarted? Take the snapshot again"
            )
        known.last_used = time.monotonic()
        return known


class _Attempt:
    """One attempt; its lock lets one order at a time change it."""

    def __init__(  # noqa: PLR0913 -- an order, and what may be opened for it
        self,
        session: UUID,
        number: int,
        tenant: str,
        members: Sequence[Member],
        hold_seconds: float,
        drivers: Mapping[str, Driver],
        roots: Roots,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self.number = number
        self.last_used = time.monotonic()
        self._session = session
        self._tenant = tenant
        self._members = members
        self._hold_seconds = hold_seconds
        self._drivers = drivers
        self._roots = roots
        self._mounts = sorted({one.freeze for one in members if one.freeze})
        self._lock = threading.Lock()
        self._prepared = self._over = False
        self._hold: Hold | None = None
        self._gates: dict[UUID, Gate] = {}
        self._views: dict[UUID, FrozenView] = {}
        self._status = BarrierStatus(attempt=number, means="none", unbroken=False)

    def prepare(self, journal: Path) -> BarrierStatus:
        with self._lock:
            if self._prepared or self._over:
                return self._status
            if self._mounts:
                self._hold = Hold(self._mount_points(), self._hold_seconds, journal)
            try:
                for one in self._members:
                    self._gates[one.volume] = self._gate(one)
            except BaseException:
                self._close()
                raise
            addresses = {
                volume: gate.address
                for volume, gate in self._gates.items()
                if isinstance(gate, SharedGate) and gate.address
            }
            means = _means_of(self._gates.values())
            self._status = self._status.model_copy(update={"means": means, "leads": addresses})
            self._prepared = True
            return self._status

    def follow(self, leads: Mapping[UUID, str]) -> BarrierStatus:
        with self._lock:
            self._require(self._prepared and self._status.held_at is None, "followed")
            for volume, address in leads.items():
                gate = self._gates.get(volume)
                if not isinstance(gate, SharedGate):
                    raise BadInputError(f"volume {volume}: this node shares no cut of it")
                gate.follow(address)
            return self._status

    def hold(self) -> BarrierStatus:
        with self._lock:
            if self._status.held_at is None:
                self._require(self._prepared, "held")
                if self._hold:
                    self._hold.freeze()
                for gate in self._gates.values():
                    gate.hold(self._hold_seconds)
                self._note(held_at=self._clock())
            self._require_unbroken()
            return self._status

    def cut(self) -> BarrierStatus:
        with self._lock:
            if self._status.cut_at is None:
                self._require(self._status.held_at is not None, "cut")
                self._require_unbroken()
                self._note(cut_at=self._clock())
                for volume, gate in self._gates.items():
                    self._views[volume] = gate.cut()
            self._require_unbroken()
            return self._status

    def release(self) -> BarrierStatus:
        with self._lock:
            if self._status.released_at is None:
                hold, self._hold = self._hold, None
                held = self._status.held_at is not None and not self._over
                unbroken = (hold.release() if hold else held) and held
                # Each of them must be released, also after one that was broken.
                released = [gate.release(unbroken=unbroken) for gate in self._gates.values()]
                self._note(released_at=self._clock(), unbroken=unbroken and all(released))
            return self._status

    def take_view(self, volume: UUID) -> FrozenView | None:
        with self._lock:
            return self._views.pop(volume, None) if self._status.unbroken else None

    def let_go(self) -> None:
        """Release, and close the views that nobody took."""
        with self._lock:
            self._over = True
            self._close()

    def _close(self) -> None:
        if self._hold:
            self._hold.end()
        self._hold = None
        left: list[Gate | FrozenView] = [*self._gates.values(), *self._views.values()]
        for one in left:
            with contextlib.suppress(BackcastError, OSError):
                one.close()
        self._gates, self._views = {}, {}

    def _gate(self, member: Member) -> Gate:
        order = GateOrder(
            volume=member.volume,
            session=self._session,
            attempt=self.number,
            tenant=self._tenant,
            path=member.path,
            is_frozen=member.freeze is not None,
            frozen_devices=self._hold.devices if self._hold else frozenset(),
            volume_count=member.volume_count,
            shared=member.shared,
        )
        gate = self._drivers[member.driver].gate(order)
        if member.shared and not isinstance(gate, SharedGate):
            gate.close()
            raise BadInputError(
                f"volume {member.path}: several nodes write it, and driver {member.driver} knows "
                f"nothing of the others; expected driver filter"
            )
        return gate

    def _mount_points(self) -> list[MountPoint]:
        with contextlib.ExitStack() as opened:
            found = list[MountPoint]()
            for mount in self._mounts:
                found.append(open_mount_point(self._roots, self._tenant, mount))
                opened.callback(found[-1].close)
            opened.pop_all()  # they are the hold's
        return found

    def _require(self, condition: bool, step: str) -> None:
        if self._over or not condition or self._status.released_at is not None:
            raise HoldBrokenError(
                f"session {self._session}: attempt {self.number} at its barrier cannot be {step} "
                f"any more; take the snapshot again"
            )

    def _require_unbroken(self) -> None:
        if self._hold and not self._hold.is_unbroken:
            raise HoldBrokenError(
                f"session {self._session}: the hold of {', '.join(self._mounts)} ended by itself "
                f"after {self._hold_seconds:g} s; take the snapshot again"
            )

    def _note(self, **changes: float | bool | str) -> None:
        self._status = self._status.model_copy(update=changes)


def _means_of(gates: Iterable[Gate]) -> HoldMeans:
    """By what a node holds writes, for all its volumes; the weakest counts."""
    return min((gate.means for gate in gates), key=HOLD_MEANS.index, default="none")


def _outdated(session: UUID, attempt: int, newer: int) -> ConflictError:
    return ConflictError(
        f"session {session}: attempt {attempt} at its barrier is over, attempt {newer} has begun"
    )
