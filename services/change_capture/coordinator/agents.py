"""The coordinator's side of the agents' RPC."""

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import BaseModel, ValidationError

from libs.catalogdb.protected import Node
from libs.catalogdb.sessions.session import PartView, SessionView
from libs.catalogdb.sessions.watching import OpenPart
from libs.errors import SourceError, UnavailableError
from libs.ids import NodeIdentity
from libs.keys.nodes import NodeKey
from libs.rest.client import Json, RestClient
from libs.rest.connections import Timeouts
from libs.runtime.tls import is_loopback
from services.change_capture.rpc import (
    BarrierStatus,
    CaptureStatus,
    FoundVm,
    FoundVms,
    MachineAnswer,
    NodeAbout,
    ProbeResponse,
)

M = TypeVar("M", bound=BaseModel)

#: Agents answer at once. One that hangs must not keep the coordinator from asking the others.
_TIMEOUTS = Timeouts(connect_seconds=3.0, read_seconds=15.0, total_seconds=30.0)
#: Their answers are a few fields each; what announces itself as an agent need not be one.
_ANSWER_SIZE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where an agent is asked, and what for."""

    node: NodeIdentity
    rpc_url: str

    @staticmethod
    def of(known: PartView | OpenPart) -> "AgentAddress":
        """That of the node of a volume."""
        return AgentAddress(NodeIdentity(known.node, known.credential), known.rpc_url)

    @staticmethod
    def of_node(node: Node) -> "AgentAddress":
        """That of a node."""
        return AgentAddress(NodeIdentity(node.name, node.credential), node.rpc_url)


class Agents:
    """Calls agents by the addresses that they announced. Thread-safe.

    An agent is shown a token that is good at its node alone. Redirects are not followed, and an
    answer that is too long is none.

    Args:
        key: makes the tokens.
        admit: raises for an IP address that no agent may have; called before anything is sent.
        ca_file: certificate authorities in PEM that sign agents; the system's if None.
        tls_name: name that their certificates have; the host of each one's URL if None.
        may_speak_plainly: whether a host may be reached without TLS.
    """

    def __init__(
        self,
        key: NodeKey,
        admit: Callable[[str], None],
        ca_file: Path | None = None,
        tls_name: str | None = None,
        may_speak_plainly: Callable[[str], bool] = is_loopback,
    ) -> None:
        self._key = key
        self._admit = admit
        self._ca_file = ca_file
        self._tls_name = tls_name
        self._may_speak_plainly = may_speak_plainly
        #: By node; a node has one address at a time.
        self._clients: dict[str, tuple[AgentAddress, RestClient]] = {}
        self._lock = threading.Lock()

    def about(self, address: AgentAddress) -> NodeAbout:
        """What the agent that answers at an address says of itself.

        Raises:
            UnauthenticatedError: it is another node's, or the node's with another credential.
            UnavailableError: nobody answers there, or nothing that is an agent.
        """
        return _read(NodeAbout, self._client(address).get("/v1/node"))

    def probe(
        self,
        node: Node,
        tenant: str,
        path: str,
        freeze: str | None = None,
        driver: str = "scan",
    ) -> int:
        """Size in bytes of what lies at a path of a node.

        Args:
            node: the node.
            tenant: whom the path must be open to there.
            path: of what is to become a volume.
            freeze: mount point that is to be frozen while it is cut, or None.
            driver: by which driver it is to be captured.

        Raises:
            SourceError: it cannot be captured, or not by this driver.
            BadInputError: the node has no such driver.
            UnavailableError: the agent does not answer.
        """
        body = {"tenant": tenant, "path": path, "freeze": freeze, "driver": driver}
        with _naming(node.name):
            answer = self._client(AgentAddress.of_node(node)).post("/v1/probe", body)
        return _read(ProbeResponse, answer).size_bytes

    def machine(self, node: Node, tenant: str, path: str) -> MachineAnswer:
        """The disks of a VM of a node, as long as all of it can be captured.

        Args:
            node: the node.
            tenant: whom its socket must be open to there.
            path: of the volume that is its definition.

        Raises:
            SourceError: it cannot be captured.
            UnavailableError: the agent does not answer.
        """
        with _naming(node.name):
            body = {"tenant": tenant, "path": path}
            answer = self._client(AgentAddress.of_node(node)).post("/v1/machine", body)
        return _read(MachineAnswer, answer)

    def found_vms(self, node: Node) -> list[FoundVm]:
        """The VMs in the roots of a node.

        Raises:
            UnavailableError: the agent does not answer.
        """
        with _naming(node.name):
            answer = self._client(AgentAddress.of_node(node)).post("/v1/found-vms")
        return _read(FoundVms, answer).vms

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
            "driver": part.driver if hints is None else "hints",
            "hints": None if hints is None else base64.b64encode(hints).decode(),
        }
        with _naming(part.node):
            answer = self._client(AgentAddress.of(part)).post("/v1/captures", body)
        return _read(CaptureStatus, answer)

    def prepare(  # noqa: PLR0913 -- what the RPC says
        self,
        address: AgentAddress,
        session: UUID,
        attempt: int,
        tenant: str,
        sources: Sequence[Json],
        hold_seconds: float,
        volume_count: int = 0,
    ) -> BarrierStatus:
        """Let a node open what it needs to cut its volumes of a session; repeating it is harmless.

        This and the next four raise:
            ConflictError: the node knows a newer attempt.
            NotFoundError: the agent process does not know the attempt: it was restarted.
            HoldBrokenError: the node's hold has ended by itself.
            SourceError: it cannot do that.
            UnavailableError: the agent does not answer.
        """
        body = {
            "attempt": attempt,
            "tenant": tenant,
            "sources": list(sources),
            "hold_seconds": hold_seconds,
            "volume_count": volume_count,
        }
        return self._barrier(address, session, "prepare", body)

    def follow(
        self, address: AgentAddress, session: UUID, attempt: int, leads: Mapping[UUID, str]
    ) -> BarrierStatus:
        """Let a node connect to the leads of volumes that other nodes write, too."""
        told = {str(volume): where for volume, where in leads.items()}
        return self._barrier(address, session, "follow", {"attempt": attempt, "leads": told})

    def hold(self, address: AgentAddress, session: UUID, attempt: int) -> BarrierStatus:
        """Let a node hold writes."""
        return self._barrier(address, session, "hold", {"attempt": attempt})

    def cut(self, address: AgentAddress, session: UUID, attempt: int) -> BarrierStatus:
        """Let a node begin its frozen views."""
        return self._barrier(address, session, "cut", {"attempt": attempt})

    def release(
        self, address: AgentAddress, session: UUID, attempt: int, *, abandoned: bool
    ) -> BarrierStatus:
        """Let a node's writes go on; its answer says whether the hold was unbroken until then."""
        body = {"attempt": attempt, "abandoned": abandoned}
        return self._barrier(address, session, "release", body)

    def _barrier(
        self, address: AgentAddress, session: UUID, step: str, body: Json
    ) -> BarrierStatus:
        answer = self._client(address).post(f"/v1/sessions/{session}/{step}", body)
        return _read(BarrierStatus, answer)

    def status(self, address: AgentAddress, capture: UUID) -> CaptureStatus:
        """How far a capture is.

        Raises:
            NotFoundError: the agent process does not know it: it was restarted.
            UnavailableError: the agent does not answer.
        """
        answer = self._client(address).get(f"/v1/captures/{capture}")
        return _read(CaptureStatus, answer)

    def settle(self, part: PartView, *, sealed: bool, distrusted: bool) -> None:
        """Tell the agent how the session ended; it lets go of the volume."""
        body = {"sealed": sealed, "distrusted": distrusted}
        client = self._client(AgentAddress.of(part))
        client.post(f"/v1/captures/{part.capture}/outcome", body)

    def _client(self, address: AgentAddress) -> RestClient:
        name, credential = address.node.name, address.node.credential
        if credential is None or not address.rpc_url:
            raise SourceError(
                f"node {name}: no agent has announced itself there by a credential that counts; "
                f"`backcast node show {name}` says since when, `backcast node invite {name}` lets "
                f"one enrol"
            )
        with self._lock:
            known, client = self._clients.get(name, (None, None))
            if client is None or known != address:
                token = self._key.credential(name, credential).order_token
                client = self._new_client(address.rpc_url, token)
                self._clients[name] = address, client
            return client

    def _new_client(self, url: str, token: str) -> RestClient:
        parts = urlsplit(url)
        if parts.scheme == "http" and not self._may_speak_plainly(parts.hostname or ""):
            raise UnavailableError(
                f"agent at {url}: is beyond loopback and without TLS; expected that it announces "
                f"https:, or PLAINTEXT=anywhere where the network itself encrypts"
            )
        return RestClient(
            url,
            token,
            self._ca_file,
            _TIMEOUTS,
            self._tls_name,
            admit=self._admit,
            answer_size_bytes_max=_ANSWER_SIZE_BYTES_MAX,
        )


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
