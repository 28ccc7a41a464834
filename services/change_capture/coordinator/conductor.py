"""The conductor: takes sessions from their request to their end, and tells the agents.

It holds no state that matters: sessions are in the catalog, captures in the agents. A coordinator
that is killed at any moment leaves sessions that its successor looks after, or that their deadline
rejects.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.session import (
    SESSION_CHANNEL,
    GroupBusy,
    PartView,
    SessionView,
    open_session,
    open_sessions,
    read_session,
    reject_overdue,
    reject_session,
    report_read,
)
from libs.errors import (
    BackcastError,
    BadInputError,
    ConflictError,
    NotFoundError,
    TrackingLostError,
    UnavailableError,
)
from libs.keys.vault import KeyVault
from libs.runtime.signals import Stop
from services.change_capture.coordinator.agents import Agents

log = logging.getLogger(__name__)

#: The catalog service ends a session within some seconds of its deadline. Where it has not by then,
#: it is down, or Postgres takes no writes.
_OVERDUE_SECONDS_MAX = 15.0


@dataclass(frozen=True, slots=True)
class HintedVolume:
    """What a client says has changed of one volume of the group."""

    #: Name of the volume, or of its group if that has no other.
    name: str
    #: Snapshot since which it has changed.
    base: UUID
    #: Runs of chunks, as `libs.ranges.pack_runs`.
    runs: bytes


class Conductor:
    """Opens sessions, orders captures, and looks after both. Thread-safe.

    Args:
        catalog: the catalog, in the coordinator's role.
        vault: gives the id keys that agents need.
        agents: the agents' RPC.
        session_deadline_seconds: time without progress after which a session is rejected.
    """

    def __init__(
        self, catalog: Catalog, vault: KeyVault, agents: Agents, session_deadline_seconds: float
    ) -> None:
        self._catalog = catalog
        self._vault = vault
        self._agents = agents
        self._session_deadline_seconds = session_deadline_seconds
        self._unsettled: set[UUID] = set()
        #: By capture. Who takes over does without: then the volume is scanned.
        self._hints: dict[UUID, bytes] = {}
        self._bell = threading.Condition()
        self._rings = 0
        self._looked_after_at = -math.inf

    def request(
        self,
        tenant: str,
        group: str,
        session: UUID,
        *,
        full: bool,
        hinted: HintedVolume | None = None,
    ) -> SessionView | GroupBusy:
        """Open a session and order its captures. The same session again returns it as it is now.

        Hints that do not fit the session's base or volumes end it.
        """
        view = open_session(
            self._catalog, tenant, group, session, self._session_deadline_seconds, full=full
        )
        if isinstance(view, SessionView) and view.state == "open":
            refused = self._take_hints(view, hinted) if hinted else None
            if refused:
                self._reject(view, refused.code, str(refused))
                return read_session(self._catalog, session)
            self._order(view)
        return view

    def wait(self, session: UUID, timeout_seconds: float) -> SessionView:
        """The session when something about it changed, or as it is after the time.

        A session that nobody ended at its deadline is ended here: whoever waits must not wait for
        the catalog service, and learns why where the catalog cannot take it down.

        Raises:
            NotFoundError: there is none of this id.
            OutOfSpaceError: the disk of Postgres is full, so that it cannot end.
        """
        with self._bell:
            rings = self._rings
        view = read_session(self._catalog, session)
        if view.state != "open":
            return view
        with self._bell:
            self._bell.wait_for(lambda: self._rings != rings, timeout_seconds)
        view = read_session(self._catalog, session)
        if view.state == "open" and view.overdue_seconds > _OVERDUE_SECONDS_MAX:
            reject_overdue(self._catalog, "coordinator")
            view = read_session(self._catalog, session)
        return view

    def listen(self, stop: Stop, progressed: Callable[[], None]) -> None:
        """A round of a loop: wakes waiting requests when a session changes."""
        with self._catalog.listen(SESSION_CHANNEL) as connection:
            self._ring()  # nobody told of what changed before
            while not stop.requested:
                for _ in connection.notifies(timeout=1, stop_after=1):
                    self._ring()
                progressed()

    def watch(self, interval_seconds: float) -> None:
        """A round of a loop: reports outcomes to agents, and looks after open sessions.

        Args:
            interval_seconds: open sessions are looked after so often; outcomes as they come.
        """
        self._wait_for_ring(min(interval_seconds, 1))
        self._settle_ended()
        if time.monotonic() - self._looked_after_at < interval_seconds:
            return
        self._looked_after_at = time.monotonic()
        silent: set[str] = set()
        for session in open_sessions(self._catalog):
            self._unsettled.add(session)
            self._look_after(read_session(self._catalog, session), silent)

    def _take_hints(self, view: SessionView, hinted: HintedVolume) -> BackcastError | None:
        """Keep hints for the order, or say why they cannot be used.

        A session without a base, because the head's data was found damaged, compares everything.
        """
        parts = [part for part in view.parts if part.volume_name == hinted.name]
        parts = parts or [*view.parts]
        if len(parts) != 1:
            names = ", ".join(part.volume_name for part in parts)
            return BadInputError(f"hints: name the volume that they are for, one of {names}")
        if view.base not in (None, hinted.base):
            return ConflictError(
                f"hints: they say what changed since snapshot {hinted.base}, but the newest "
                f"snapshot of group {view.group} is {view.base}; get the changes since that one, "
                f"or take the snapshot without hints"
            )
        self._hints[parts[0].capture] = hinted.runs
        return None

    def _order(self, view: SessionView) -> None:
        """Order what is not captured yet; where that fails for good, the session is rejected."""
        self._unsettled.add(view.session)
        try:
            keys = self._vault.get(view.domain, view.key_id)
        except UnavailableError as err:  # `watch` orders it again
            log.warning("not ordered yet", extra={"session": str(view.session), "detail": str(err)})
            return
        except BackcastError as err:
            self._reject(view, err.code, str(err))
            return
        for part in view.parts:
            if part.finished:
                continue
            try:
                self._agents.begin(view, part, keys.id_key, self._hints.get(part.capture))
            except BackcastError as err:
                message = f"volume {part.volume_name} on node {part.node}: {err}"
                self._reject(view, err.code, message)
                return

    def _look_after(self, view: SessionView, silent: set[str]) -> None:
        """Look after one session; an agent that does not answer is asked once in a round."""
        for part in view.parts:
            if part.finished or view.state != "open" or part.rpc_url in silent:
                continue
            try:
                status = self._agents.status(part)
            except NotFoundError:
                self._look_after_unknown(view, part)
                return
            except BackcastError as err:  # its deadline decides
                silent.add(part.rpc_url)
                detail = {"session": str(view.session), "detail": str(err)}
                log.warning("agent does not answer", extra=detail)
                continue
            if status.state == "aborted":
                message = f"volume {part.volume_name}: {status.message}"
                self._reject(view, status.code or "aborted", message)
                return
            report_read(
                self._catalog,
                view.session,
                part.capture,
                status.read_bytes,
                self._session_deadline_seconds,
            )

    def _look_after_unknown(self, view: SessionView, part: PartView) -> None:
        """The agent does not know a capture: it was never ordered, or the agent was restarted.

        Until a chunker has taken the part, the order may be repeated: if an earlier process of the
        agent did begin, the chunker sees two of them and rejects the session.
        """
        if part.boot is None:
            self._order(view)
            return
        message = (
            f"volume {part.volume_name}: the agent on node {part.node} was restarted; "
            f"take the snapshot again"
        )
        self._reject(view, "agent-restarted", message)

    def _reject(self, view: SessionView, code: str, message: str) -> None:
        reject_session(self._catalog, "coordinator", view.session, code, message)

    def _wait_for_ring(self, timeout_seconds: float) -> None:
        with self._bell:
            rings = self._rings
            self._bell.wait_for(lambda: self._rings != rings, timeout_seconds)

    def _ring(self) -> None:
        with self._bell:
            self._rings += 1
            self._bell.notify_all()

    def _settle_ended(self) -> None:
        for session in list(self._unsettled):
            view = read_session(self._catalog, session)
            if view.state == "open":
                continue
            self._unsettled.discard(session)
            for part in view.parts:
                self._hints.pop(part.capture, None)
                try:
                    self._agents.settle(
                        part,
                        sealed=view.state == "sealed",
                        distrusted=view.reject_code == TrackingLostError.code,
                    )
                except BackcastError as err:  # the agent lets go by itself, later
                    detail = {"session": str(session), "detail": str(err)}
                    log.info("outcome not reported", extra=detail)
