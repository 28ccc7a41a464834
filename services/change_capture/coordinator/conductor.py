"""The conductor: takes sessions from their request to their end, and tells the agents.

It is the shell around the decisions of `session`. It holds no state that matters: sessions are in
the catalog, captures and frozen views in the agents. A coordinator that is killed at any moment
leaves sessions that its successor looks after, or that their deadline rejects.

Agents push how far their captures are. The conductor asks only about those that nobody has heard of
for a while, so its work grows with the number of open sessions and not with its square.
"""

import logging
import math
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from uuid import UUID

from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions.awaited import AwaitedPart, awaited_parts
from libs.catalogdb.sessions.barrier import claim_cut
from libs.catalogdb.sessions.session import (
    GroupBusy,
    PartView,
    SessionView,
    open_session,
    read_session,
    reject_overdue,
    reject_session,
)
from libs.catalogdb.sessions.watching import (
    OpenPart,
    captures_heard,
    ended_sessions,
    open_parts,
    report_reads,
)
from libs.errors import (
    BackcastError,
    NotFoundError,
    TrackingLostError,
    UnavailableError,
)
from libs.ids import NodeIdentity
from libs.keys.vault import KeyVault
from libs.runtime.threads import end_with, is_expected
from services.change_capture.coordinator.agents import AgentAddress, Agents
from services.change_capture.coordinator.barriers import Barriers, parts_of
from services.change_capture.coordinator.commands import (
    CaptureVolume,
    Command,
    Reject,
)
from services.change_capture.coordinator.facts import (
    CaptureRefused,
    CaptureUnknown,
    Fact,
)
from services.change_capture.coordinator.hints import HintedVolume, hinted_part
from services.change_capture.coordinator.news import SessionNews
from services.change_capture.coordinator.session import (
    decide,
    outstanding,
    without_barrier,
)
from services.change_capture.rpc import CaptureStatus, EndedCapture

log = logging.getLogger(__name__)

#: What a node says of one of its captures.
Heard = tuple[NodeIdentity, CaptureStatus]

#: The catalog service ends a session within some seconds of its deadline. Where it has not by then,
#: it is down, or Postgres takes no writes.
_OVERDUE_SECONDS_MAX = 15.0
#: Without progress for so long, whoever waits is told whom the session waits for.
_QUIET_SECONDS = 5.0
#: An agent reports every 2 s while it has captures.
_AGENT_QUIET_SECONDS = 6.5
#: An agent that was silent for so many reports is asked about its captures.
_SILENT_REPORTS = 3


class Conductor:
    """Opens sessions, cuts them, orders captures, and looks after all of them. Thread-safe.

    Args:
        catalog: the catalog, in the coordinator's role.
        vault: gives the id keys that agents need.
        agents: the agents' RPC.
        barriers: cuts the volumes of sessions that need it.
        sessions: runs what is done for one session and nobody waits for.
        orders: runs orders to several agents side by side. Another executor than ``sessions``,
            whose work waits for it.
        session_deadline_seconds: time without progress after which a session is rejected.
    """

    def __init__(  # noqa: PLR0913 -- the coordinator's surroundings
        self,
        catalog: Catalog,
        vault: KeyVault,
        agents: Agents,
        barriers: Barriers,
        sessions: Executor,
        orders: Executor,
        session_deadline_seconds: float,
    ) -> None:
        self._catalog = catalog
        self._vault = vault
        self._agents = agents
        self._barriers = barriers
        self._sessions = sessions
        self._orders = orders
        self._session_deadline_seconds = session_deadline_seconds
        #: Sessions whose agents were not told the outcome yet.
        self.unsettled: set[UUID] = set()
        self.news = SessionNews()
        #: When each capture was last heard of, and how far it was.
        self._heard: dict[UUID, tuple[float, int]] = {}
        #: By capture. Who takes over does without: then the volume is scanned.
        self._hints: dict[UUID, bytes] = {}
        self._looked_after_at = -math.inf

    def request(  # noqa: PLR0913 -- what a client may ask for
        self,
        tenant: str,
        group: str,
        session: UUID,
        *,
        full: bool,
        hinted: HintedVolume | None = None,
        opened_with: str = "",
    ) -> SessionView | GroupBusy:
        """Open a session and set it going. The same session again returns it as it is now.

        Hints that do not fit the session's base or volumes end it, and so does it when the token is
        revoked whose SHA-256 is ``opened_with``.
        """
        view = open_session(
            self._catalog,
            tenant,
            group,
            session,
            self._session_deadline_seconds,
            self._barriers.barrier_seconds,
            full=full,
            opened_with=opened_with,
        )
        if isinstance(view, SessionView) and view.state == "open":
            if hinted:
                part = hinted_part(view, hinted)
                if isinstance(part, BackcastError):
                    reject_session(self._catalog, "coordinator", session, part.code, str(part))
                    return read_session(self._catalog, session)
                self._hints[part.capture] = hinted.runs
            self.unsettled.add(session)
            if view.cut_attempt and not view.cut:
                self._begin_barrier(view)
            else:
                self._capture(view)
        return view

    def is_known(self, session: UUID) -> bool:
        """Whether a session was opened, and may have ended."""
        try:
            read_session(self._catalog, session)
        except NotFoundError:
            return False
        return True

    def look(self, session: UUID) -> SessionView:
        """The session as it is.

        A session that nobody ended at its deadline is ended here: whoever waits must not wait for
        the catalog service, and learns why where the catalog cannot take it down.

        Raises:
            NotFoundError: there is none of this id.
            OutOfSpaceError: the disk of Postgres is full, so that it cannot end.
        """
        view = read_session(self._catalog, session)
        if view.state == "open" and view.overdue_seconds > _OVERDUE_SECONDS_MAX:
            reject_overdue(self._catalog, "coordinator")
            view = read_session(self._catalog, session)
        return view

    def awaited(self, view: SessionView) -> list[AwaitedPart]:
        """Whom an open session waits for, if nothing was heard of it for some seconds."""
        quiet_seconds = self._session_deadline_seconds + view.overdue_seconds
        if view.state != "open" or quiet_seconds < _QUIET_SECONDS:
            return []
        return awaited_parts(self._catalog, view.session)

    def is_silent(self, capture: UUID) -> bool:
        """Whether nothing was heard of a capture from its agent for some seconds."""
        heard_at, _ = self._heard.get(capture, (-math.inf, 0))
        return time.monotonic() - heard_at > _AGENT_QUIET_SECONDS

    def hear(self, statuses: Iterable[Heard]) -> list[EndedCapture]:
        """Take in how far captures are; returns those whose session has ended.

        A node that speaks of a capture that is not its own changes nothing, and is told that the
        capture was not sealed.
        """
        statuses = list(statuses)
        if not statuses:
            return []
        heard = captures_heard(self._catalog, [(node, one.capture) for node, one in statuses])
        reads = {}
        for _, one in statuses:
            session = heard.sessions.get(one.capture)
            if session is None:
                continue
            if one.state == "aborted":
                self._act_on(session, _refused(one))
                continue
            _, known_bytes = self._heard.get(one.capture, (0.0, 0))
            if one.read_bytes > known_bytes:
                reads[one.capture] = one.read_bytes
            self._heard[one.capture] = (time.monotonic(), one.read_bytes)
        if reads:
            report_reads(self._catalog, reads, self._session_deadline_seconds)
        return [
            EndedCapture(
                capture=capture,
                sealed=outcome.sealed,
                distrusted=outcome.reject_code == TrackingLostError.code,
            )
            for capture, outcome in heard.outcomes.items()
        ]

    def watch(self, interval_seconds: float) -> None:
        """A round of a loop: reports outcomes to agents, and looks after open sessions.

        Args:
            interval_seconds: open sessions are looked after so often; outcomes as they come.
        """
        told = self.news.told(min(interval_seconds, 1))
        news = told & self.unsettled
        if news:
            self._settle(ended_sessions(self._catalog, news))
        if time.monotonic() - self._looked_after_at < interval_seconds:
            return
        self._looked_after_at = time.monotonic()
        sessions, parts = open_parts(self._catalog)
        self._settle(self.unsettled - sessions)  # of whose end no news has come
        self.unsettled |= sessions
        captures = {part.capture for part in parts}
        self._heard = {one: heard for one, heard in self._heard.items() if one in captures}
        for session in {part.session for part in parts if part.barrier_left}:
            self._take_over(session)
        silent = time.monotonic() - _SILENT_REPORTS * interval_seconds
        self._look_at(
            part
            for part in parts
            if not part.before_cut and self._heard.get(part.capture, (-math.inf, 0))[0] <= silent
        )

    def _take_over(self, session: UUID) -> None:
        """Begin a newer attempt at a barrier that somebody has left."""
        attempt = claim_cut(self._catalog, session, self._barriers.barrier_seconds)
        if attempt is None:
            return
        view = read_session(self._catalog, session)
        if view.state == "open" and view.cut_attempt == attempt:
            self._begin_barrier(view)

    def _begin_barrier(self, view: SessionView) -> None:
        """Set a barrier going that nobody waits for; `watch` finds what it has left undone."""
        end_with("barrier", self._sessions.submit(self._cut_and_capture, view))

    def _cut_and_capture(self, view: SessionView) -> None:
        try:
            if self._barriers.cut(view):
                self._capture(view)
        except BackcastError as err:
            if not is_expected(err):
                raise
            about = {"session": str(view.session), "detail": str(err)}
            log.warning("session not set going", extra=about)

    def _capture(self, view: SessionView) -> None:
        """Order what is not captured yet; where that fails for good, the session is rejected."""
        self._carry_out(view, outstanding(without_barrier(view.session, 0, parts_of(view))))

    def _act_on(self, session: UUID, fact: Fact) -> None:
        """Decide about something that was heard of a session's capture."""
        view = read_session(self._catalog, session)
        if view.state == "open":
            state = without_barrier(view.session, view.cut_attempt, parts_of(view))
            self._carry_out(view, decide(state, fact))

    def _carry_out(self, view: SessionView, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Reject):
                reject_session(
                    self._catalog, "coordinator", view.session, command.code, command.message
                )
        captures = {one.capture for one in commands if isinstance(one, CaptureVolume)}
        parts = [part for part in view.parts if part.capture in captures]
        if parts:
            self._order(view, parts)

    def _order(self, view: SessionView, parts: list[PartView]) -> None:
        """Order captures from their agents side by side."""
        try:
            id_key = self._vault.get(view.domain, view.key_id).id_key
        except UnavailableError as err:  # `watch` orders it again
            log.warning("not ordered yet", extra={"session": str(view.session), "detail": str(err)})
            return
        except BackcastError as err:
            reject_session(self._catalog, "coordinator", view.session, err.code, str(err))
            return
        futures = [self._orders.submit(self._begin, view, part, id_key) for part in parts]
        refusals = [fact for future in futures if (fact := future.result()) is not None]
        if refusals:
            state = without_barrier(view.session, view.cut_attempt, parts_of(view))
            self._carry_out(view, decide(state, refusals[0]))

    def _begin(self, view: SessionView, part: PartView, id_key: bytes) -> CaptureRefused | None:
        try:
            self._agents.begin(view, part, id_key, self._hints.get(part.capture))
        except BackcastError as err:
            return CaptureRefused(part.capture, err.code, str(err))
        return None

    def _look_at(self, parts: Iterable[OpenPart]) -> None:
        """Ask about captures that nobody has heard of; a silent agent is asked once in a round."""
        silent: set[str] = set()
        found: list[Heard] = []
        for part in parts:
            if part.rpc_url in silent:
                continue
            try:
                status = self._agents.status(AgentAddress.of(part), part.capture)
            except NotFoundError:
                self._act_on(part.session, CaptureUnknown(part.capture))
                continue
            except BackcastError as err:  # its deadline decides
                silent.add(part.rpc_url)
                detail = {"session": str(part.session), "detail": str(err)}
                log.warning("agent does not answer", extra=detail)
                continue
            found.append((NodeIdentity(part.node, part.credential), status))
        self.hear(found)

    def _settle(self, sessions: Iterable[UUID]) -> None:
        """Tell the agents of sessions that have ended what became of them."""
        for session in list(sessions):
            view = read_session(self._catalog, session)
            if view.state == "open":
                continue
            self.unsettled.discard(session)
            for part in view.parts:
                self._heard.pop(part.capture, None)
                self._hints.pop(part.capture, None)
                try:
                    self._agents.settle(
                        part,
                        sealed=view.state == "sealed",
                        distrusted=view.reject_code == TrackingLostError.code,
                    )
                except BackcastError as err:  # the agent's next report gets it, or it lets go later
                    detail = {"session": str(session), "detail": str(err)}
                    log.info("outcome not reported", extra=detail)


def _refused(status: CaptureStatus) -> CaptureRefused:
    return CaptureRefused(
        status.capture, status.code or "aborted", status.message or "the agent gave it up"
    )
