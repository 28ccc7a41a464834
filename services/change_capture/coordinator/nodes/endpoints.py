"""What people see of nodes and do with them; nodes belong to no tenant, so it takes all of them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.nodes.enrolment import (
    NodeOverview,
    NodeSource,
    forget_node,
    invite,
    known_node,
    node_details,
    overview,
)
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import NO_BOOT
from libs.errors import BackcastError, BadInputError
from libs.ids import check_name
from libs.keys.nodes import NodeKey
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from services.change_capture.coordinator.agents import AgentAddress, Agents

Admin = Annotated[Caller, Depends(require(Role.ADMIN))]
Reader = Annotated[Caller, Depends(require(Role.READER))]

#: Agents announce themselves every 15 s by default; one that has missed four is silent.
_SILENT_SECONDS = 60.0
_DAY_SECONDS = 86_400
_INVITED_COUNT_MAX = 10_000


State = Literal["heard", "silent", "expected", "forgotten"]


class NodeAnswer(BaseModel):
    """A node."""

    name: str
    state: State = Field(
        description="heard: within the last minute; silent: not since `heard_at`; expected: its "
        "agent has not announced itself yet; forgotten: no agent can announce itself"
    )
    heard_at: datetime | None = Field(description="When its agent last announced itself")
    rpc_url: str = Field(description="Where the coordinator reaches its agent")
    span_address: str = Field(description="Where chunkers reach its agent")
    boot: UUID | None = Field(description="The run of its agent")
    version: str = Field(description="Release of its agent; empty if it did not say")
    source_count: int = Field(description="Sources of volumes on it")


class NodeSourceAnswer(BaseModel):
    """A source on a node."""

    tenant: str
    volume: str
    group: str
    path: str
    lead: bool


class NodeDetailsAnswer(NodeAnswer):
    """A node with what is on it."""

    sources: list[NodeSourceAnswer]
    roots: list[str] | None = Field(
        description="What tenants may protect there, TENANT=PATH, as its agent says now; null: it "
        "does not answer"
    )


class ForgottenAnswer(BaseModel):
    """A node that was forgotten. Its volumes stay, with their snapshots."""

    name: str
    sources: list[NodeSourceAnswer]


class InvitationRequest(Body):
    """Let agents enrol."""

    node: str | None = Field(
        None,
        description="The only name that the invitation is good for, also to give a node that has "
        "the name another credential; null: any name that no node has had",
    )
    count: int = Field(
        1, ge=1, le=_INVITED_COUNT_MAX, description="How many nodes may use it; 1 with `node`"
    )
    valid_seconds: float = Field(
        _DAY_SECONDS, gt=0, le=366 * _DAY_SECONDS, description="How long it is good"
    )


class InvitationAnswer(BaseModel):
    """An invitation: a secret, which is told once."""

    invitation: str
    node: str | None
    count: int
    expires_at: datetime


def add_node_endpoints(app: FastAPI, catalog: Catalog, agents: Agents, key: NodeKey) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/nodes", summary="All nodes, and whether they are heard")
    def nodes(_: Reader) -> list[NodeAnswer]:
        return [_answer(one) for one in overview(catalog)]

    @app.get("/v1/nodes/{node}", summary="A node, its sources, and what its agent may open")
    def show(node: str, _: Reader) -> NodeDetailsAnswer:
        found, sources = node_details(catalog, check_name("node", node))
        return NodeDetailsAnswer(
            **_answer(found).model_dump(),
            sources=_answers(sources),
            roots=_roots(catalog, agents, node),
        )

    @app.post("/v1/nodes/{node}/forget", summary="Let a node's credential count no more")
    def forget(node: str, _: Admin) -> ForgottenAnswer:
        sources = forget_node(catalog, check_name("node", node))
        return ForgottenAnswer(name=node, sources=_answers(sources))

    @app.post("/v1/invitations", status_code=201, summary="Let agents enrol")
    def invitation(_: Admin, request: InvitationRequest) -> InvitationAnswer:
        if request.node is not None:
            check_name("node", request.node)
            if request.count != 1:
                raise BadInputError("count: expected 1, because a name is one node's")
        made = invite(catalog, request.node, request.count, request.valid_seconds)
        return InvitationAnswer(
            invitation=key.invitation(made.invitation),
            node=made.node,
            count=made.left_count,
            expires_at=made.expires_at,
        )


def _answer(one: NodeOverview) -> NodeAnswer:
    is_announced = one.boot != NO_BOOT
    return NodeAnswer(
        name=one.name,
        state=_state(one, is_announced=is_announced),
        heard_at=one.seen_at if is_announced else None,
        rpc_url=one.rpc_url,
        span_address=one.span_address,
        boot=one.boot if is_announced else None,
        version=one.version,
        source_count=one.source_count,
    )


def _state(one: NodeOverview, *, is_announced: bool) -> State:
    if one.forgotten_at is not None:
        return "forgotten"
    if not is_announced:
        return "expected"
    return "silent" if one.silent_seconds > _SILENT_SECONDS else "heard"


def _answers(sources: list[NodeSource]) -> list[NodeSourceAnswer]:
    return [
        NodeSourceAnswer(
            tenant=one.tenant, volume=one.volume, group=one.group, path=one.path, lead=one.lead
        )
        for one in sources
    ]


def _roots(catalog: Catalog, agents: Agents, name: str) -> list[str] | None:
    found = known_node(catalog, name)
    if found is None:
        return None
    try:
        return agents.about(AgentAddress.of_node(found[0])).roots
    except BackcastError:
        return None
