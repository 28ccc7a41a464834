"""The coordinator's side of the agents' RPC."""

import base64
import threading
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from libs.catalogdb.protected import Node
from libs.catalogdb.sessions.session import PartView, SessionView
from libs.errors import UnavailableError
from libs.rest.client import Json, RestClient
from libs.rest.connections import Timeouts
from services.change_capture.rpc import CaptureStatus, ProbeResponse

M = TypeVar("M", bound=BaseModel)

#: Agents answer at once. One that hangs must not keep the coordinator from asking the others.
_TIMEOUTS = Timeouts(connect_seconds=3.0, read_seconds=15.0)


class Agents:
    """Calls agents by the addresses that they announced. Thread-safe.

    Args:
        token: what the agents' RPC accepts.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._clients: dict[str, RestClient] = {}
        self._lock = threading.Lock()

    def probe(self, node: Node, path: str) -> int:
        """Size in bytes of what lies at a path of a node.

        Raises:
            SourceError: it cannot be captured.
            UnavailableError: the agent does not answer.
        """
        answer = self._client(node.rpc_url).post("/v1/probe", {"path": path})
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
            "is_trusted": session.is_trusted,
            "driver": "scan" if hints is None else "hints",
            "hints": None if hints is None else base64.b64encode(hints).decode(),
        }
        return _read(CaptureStatus, self._client(part.rpc_url).post("/v1/captures", body))

    def status(self, part: PartView) -> CaptureStatus:
        """How far a capture is.

        Raises:
            NotFoundError: the agent process does not know it: it was restarted.
            UnavailableError: the agent does not answer.
        """
        answer = self._client(part.rpc_url).get(f"/v1/captures/{part.capture}")
        return _read(CaptureStatus, answer)

    def settle(self, part: PartView, *, sealed: bool, distrusted: bool) -> None:
        """Tell the agent how the session ended; it lets go of the volume."""
        body = {"sealed": sealed, "distrusted": distrusted}
        self._client(part.rpc_url).post(f"/v1/captures/{part.capture}/outcome", body)

    def _client(self, url: str) -> RestClient:
        with self._lock:
            if url not in self._clients:
                self._clients[url] = RestClient(url, self._token, timeouts=_TIMEOUTS)
            return self._clients[url]


def _read(model: type[M], answer: Json) -> M:
    try:
        return model.model_validate(answer)
    except ValidationError as err:
        raise UnavailableError(
            f"agent: its answer is no {model.__name__} ({err.error_count()} errors); "
            f"is it of this release?"
        ) from err
