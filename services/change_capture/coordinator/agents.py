"""The coordinator's side of the agents' RPC."""

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, ValidationError

from libs.catalogdb.protected import Node
from libs.catalogdb.sessions.session import PartView, SessionView
from libs.errors import UnavailableError
from libs.rest.client import Json, RestClient
from libs.rest.connections import Timeouts
from libs.runtime.tls import is_loopback
from services.change_capture.rpc import BarrierStatus, CaptureStatus, ProbeResponse

M = TypeVar("M", bound=BaseModel)

#: Agents answer at once. One that hangs must not keep the coordinator from asking the others.
_TIMEOUTS = Timeouts(connect_seconds=3.0, read_seconds=15.0)


class Agents:
    """Calls agents by the addresses that they announced. Thread-safe.

    Args:
        token: what the agents' RPC accepts.
        ca_file: certificate authorities in PEM that sign agents; the system's if None.
        tls_name: name that their certificates have; the host of each one's URL if None.
        may_speak_plainly: whether a host may be reached without TLS.
    """

    def __init__(
        self,
        token: str,
        ca_file: Path | None = None,
        tls_name: str | None = None,
        may_speak_plainly: Callable[[str], bool] = is_loopback,
    ) -> None:
        self._token = token
        self._ca_file = ca_file
        self._tls_name = tls_name
        self._may_speak_plainly = may_speak_plainly
        self._clients: dict[str, RestClient] = {}
        self._lock = threading.Lock()

    def probe(self, node: Node, tenant: str, path: str, freeze: str | None = None) -> int:
        """Size in bytes of what lies at a path of a node.

        Args:
            node: the node.
            tenant: whom the path must be open to there.
            path: of what is to become a volume.
            freeze: mount point that is to be frozen while it is cut, or None.

        Raises:
            SourceError: it cannot be captured.
            UnavailableError: the agent does not answer.
        """
        body = {"tenant": tenant, "path": path, "freeze": freeze}
        with _naming(node.name):
            answer = self._client(node.rpc_url).post("/v1/probe", body)
        return _read(ProbeResponse, answer).size_bytes

    def begin(
        self, session: SessionView, part: PartView, id_key: bytes, hints: bytes | None
    ) -> CaptureStatus:
        """Order a capture; ordering it again is harmless.

        Args:
            session: its session.
            part: the volume.
            id_key: names its chunks.
            hints: what the client says has changed since the base; None: nothing was said.
        """
        body = {
            "session": str(session.session),
            "capture": str(part.capture),
            "tenant": session.tenant,
            "group": str(session.group_id),
            "volume": str(part.volume),
            "path": part.path,
            "base": str(session.base) if session.base else None,
            "token": base64.b64encode(part.token).decode(),
            "id_key": base64.b64encode(id_key).decode(),
            "cut_attempt": session.cut_attempt,
            "is_trusted": session.is_trusted,
            "driver": "scan" if hints is None else "hints",
            "hints": None if hints is None else base64.b64encode(hints).decode(),
        }
        with _naming(part.node):
            answer = self._client(part.rpc_url).post("/v1/captures", body)
        return _read(CaptureStatus, answer)

    def prepare(  # noqa: PLR0913 -- what the RPC says
        self,
        url: str,
        session: UUID,
        attempt: int,
        tenant: str,
        parts: Sequence[PartView],
        hold_seconds: float,
    ) -> BarrierStatus:
        """Let a node open what it needs to cut its volumes of a session; repeating it is harmless.

        This and the next three raise:
            ConflictError: the node knows a newer attempt.
            NotFoundError: the agent process does not know the attempt: it was restarted.
            HoldBrokenError: the node's hold has ended by itself.
            SourceError: it cannot do that.
            UnavailableError: the agent does not answer.
        """
        sources = [
            {"volume": str(part.volume), "path": part.path, "freeze": part.freeze} for part in parts
        ]
        body = {
            "attempt": attempt,
            "tenant": tenant,
            "sources": sources,
            "hold_seconds": hold_seconds,
        }
        return self._barrier(url, session, "prepare", body)

    def hold(self, url: str, session: UUID, attempt: int) -> BarrierStatus:
        """Let a node hold writes."""
        return self._barrier(url, session, "hold", {"attempt": attempt})

    def cut(self, url: str, session: UUID, attempt: int) -> BarrierStatus:
        """Let a node begin its frozen views."""
        return self._barrier(url, session, "cut", {"attempt": attempt})

    def release(self, url: str, session: UUID, attempt: int, *, abandoned: bool) -> BarrierStatus:
        """Let a node's writes go on; its answer says whether the hold was unbroken until then."""
        body = {"attempt": attempt, "abandoned": abandoned}
        return self._barrier(url, session, "release", body)

    def _barrier(self, url: str, session: UUID, step: str, body: Json) -> BarrierStatus:
        answer = self._client(url).post(f"/v1/sessions/{session}/{step}", body)
        return _read(BarrierStatus, answer)

    def status(self, url: str, capture: UUID) -> CaptureStatus:
        """How far a capture is.

        Raises:
            NotFoundError: the agent process does not know it: it was restarted.
            UnavailableError: the agent does not answer.
        """
        answer = self._client(url).get(f"/v1/captures/{capture}")
        return _read(CaptureStatus, answer)

    def settle(self, part: PartView, *, sealed: bool, distrusted: bool) -> None:
        """Tell the agent how the session ended; it lets go of the volume."""
        body = {"sealed": sealed, "distrusted": distrusted}
        self._client(part.rpc_url).post(f"/v1/captures/{part.capture}/outcome", body)

    def _client(self, url: str) -> RestClient:
        with self._lock:
            if url not in self._clients:
                self._clients[url] = self._new_client(url)
            return self._clients[url]

    def _new_client(self, url: str) -> RestClient:
        parts = urlsplit(url)
        if parts.scheme == "http" and not self._may_speak_plainly(parts.hostname or ""):
            raise UnavailableError(
                f"agent at {url}: is beyond loopback and without TLS; expected that it announces "
                f"https:, or PLAINTEXT=anywhere where the network itself encrypts"
            )
        return RestClient(url, self._token, self._ca_file, _TIMEOUTS, self._tls_name)


@contextlib.contextmanager
def _naming(node: str) -> Iterator[None]:
    """Say which node's agent does not answer."""
    try:
        yield
    except UnavailableError as err:
        raise UnavailableError(f"the agent of node {node} does not answer: {err}") from err


def _read(model: type[M], answer: Json) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError as err:
        raise UnavailableError(
            f"agent: its answer is no {model.__name__} ({err.error_count()} errors); "
            f"is it of this release?"
        ) from err
