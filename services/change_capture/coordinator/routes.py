"""The coordinator's REST endpoints: nodes, volumes, and sessions."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from anyio import to_thread
from fastapi import Depends, FastAPI, Query, Request
from pydantic import BaseModel, Field

from libs.access.readiness import add_readiness_route
from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import (
    Volume,
    add_volume,
    group_of,
    refuse_removed,
)
from libs.catalogdb.sessions.session import GroupBusy, SessionView
from libs.catalogdb.volumes.sharing import DRIVER, Place, check_places, places_of, share
from libs.catalogdb.volumes.writing import WritingNode, writing_nodes
from libs.errors import BadInputError, ConflictError, NotFoundError
from libs.ids import check_name
from libs.keys.nodes import NodeKey
from libs.keys.vault import KeyVault
from libs.ranges import check_runs
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from libs.rest.waiting import read_or_wait
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.conductor import Conductor
from services.change_capture.coordinator.hints import HintedVolume
from services.change_capture.coordinator.machines.endpoints import add_machine_routes
from services.change_capture.coordinator.machines.volumes import follow_disks
from services.change_capture.coordinator.nodes.choosing import meant_node
from services.change_capture.coordinator.nodes.endpoints import add_node_endpoints
from services.change_capture.coordinator.session_routes import add_session_routes
from services.change_capture.coordinator.sharing.endpoints import (
    NodePlace,
    add_sharing_routes,
    probe_all,
)
from services.change_capture.coordinator.tenant_routes import add_tenant_routes
from services.change_capture.coordinator.tenants import ensure_tenant
from services.change_capture.coordinator.volume_routes import add_volume_routes
from services.change_capture.rpc import DriverName, Hints

Operator = Annotated[Caller, Depends(require(Role.OPERATOR, by_route=True))]
Reader = Annotated[Caller, Depends(require(Role.READER))]

#: Longest time that a request may wait for a session to change.
WAIT_SECONDS_MAX = 30.0
#: No volume has more; its bytes would not fit a signed 64-bit number.
_CHUNK_COUNT_MAX = 2**47


class VolumeRequest(Body):
    """Protect a volume."""

    name: str = Field(description="Name of the volume, unique in the tenant")
    path: str | None = Field(
        None,
        description="Path on the node: of a file or block device, or of a QMP socket and a disk of "
        "its process; left out if `nodes` says it",
    )
    nodes: list[NodePlace] | None = Field(
        None,
        description="The 2 to 8 nodes that write it, the lead first, instead of `node` and `path`; "
        "each has a volume filter in front of it",
        max_length=8,
    )
    node: str | None = Field(
        None, description="Node that the path is on; may be left out if there is only one"
    )
    group: str | None = Field(None, description="Group to cut it with; by default one of its own")
    freeze: str | None = Field(
        None,
        description="Mount point on the node of the file system to freeze while it is cut",
    )
    driver: DriverName = Field(
        "scan",
        description="How its changes are known: by reading all, by clones of its file, or by the "
        "dirty bitmap of a disk that QEMU serves",
    )
    again: bool = Field(
        False, description="Although another volume of the tenant has the same path on the node"
    )


class VolumeAnswer(BaseModel):
    """A protected volume."""

    volume: UUID
    name: str
    group: str
    node: str
    path: str
    freeze: str | None
    driver: str
    size_bytes: int
    nodes: list[WritingNode] = Field(description="All nodes that write it, the lead first")


class HintsRequest(Body):
    """What changed of a volume since a snapshot, as whoever keeps the volume says."""

    base: UUID = Field(description="Snapshot since which it has changed: the group's newest")
    runs: Hints = Field(
        description="Chunks of 64 KiB that may have changed: ascending runs of 12 bytes each, "
        "first (u64) and count (u32), little endian"
    )


class SnapshotRequest(Body):
    """Take a snapshot of a group."""

    session: UUID = Field(
        description="Chosen by the client; the same one again makes no second snapshot"
    )
    name: str = Field(description="Name of a group or of one of its volumes")
    full: bool = Field(False, description="Compare and count everything, without a base")
    hints: HintsRequest | None = Field(
        None, description="Of the volume that is named: only this is read"
    )


class PartAnswer(BaseModel):
    """One volume of a session."""

    volume: str
    finished: bool
    logical_bytes: int
    read_bytes: int
    changed_bytes: int
    sent_bytes: int
    stored_bytes: int
    consistency: str
    tracking: str = Field(description="How its changes are known: none, lost, exact, candidates")
    attempts: int


class AwaitedAnswer(BaseModel):
    """A volume of a session that made no progress for some seconds, and whom it waits for."""

    volume: str
    node: str = Field(description="The node that captures it")
    chunker: str | None = Field(description="The chunker that stores it; null: none has taken it")
    message: str = Field(description="Whom it waits for, for people")


class SessionAnswer(BaseModel):
    """A session as it is now."""

    session: UUID
    group: str
    state: str
    sequence: int | None
    base: UUID | None
    code: str | None
    message: str | None
    seconds: float
    parts: list[PartAnswer]
    waits_for: list[AwaitedAnswer] = Field(
        description="Whom it waits for, once it made no progress for some seconds"
    )


def add_routes(  # noqa: PLR0913 -- what the endpoints work with
    app: FastAPI,
    catalog: Catalog,
    vault: KeyVault,
    agents: Agents,
    conductor: Conductor,
    node_key: NodeKey,
) -> None:
    """Add the endpoints for people and their programs to the application."""
    add_readiness_route(app)
    add_node_endpoints(app, catalog, agents, node_key)
    _add_session_route(app, conductor)
    add_volume_routes(app, catalog, agents)
    add_machine_routes(app, catalog, vault, agents)
    add_sharing_routes(app, catalog, agents)
    add_session_routes(app, catalog)
    add_tenant_routes(app, catalog, vault)

    @app.post("/v1/tenants/{tenant}/volumes", summary="Protect a volume; repeating it is harmless")
    def protect(tenant: str, caller: Operator, request: VolumeRequest) -> VolumeAnswer:
        check_name("tenant", tenant)
        name = check_name("volume", request.name)
        group = request.group and check_name("group", request.group)
        if caller.groups:
            caller.within(lambda: group or _group_of_new(catalog, tenant, name))
        if request.nodes is not None:
            places = _places(request, request.nodes)
            size_bytes = probe_all(catalog, agents, tenant, places)
            ensure_tenant(catalog, vault, tenant)
            shared = share(catalog, tenant, name, group, places, again=request.again)
            return _protected(shared, size_bytes)
        if request.path is None:
            raise BadInputError("path: it is missing; expected it, or `nodes` with a path of each")
        path, freeze, driver = request.path, request.freeze, request.driver
        node = meant_node(catalog, request.node)
        size_bytes = agents.probe(node, tenant, path, freeze, driver)
        ensure_tenant(catalog, vault, tenant)
        volume = add_volume(
            catalog, tenant, name, group, node.name, path, freeze,
            driver=driver, again=request.again,
        )  # fmt: skip
        return _protected(volume, size_bytes)

    @app.post("/v1/tenants/{tenant}/snapshots", status_code=202, summary="Take a snapshot")
    def take(tenant: str, caller: Operator, request: SnapshotRequest) -> SessionAnswer:
        group = caller.within(lambda: group_of(catalog, tenant, request.name))
        refuse_removed(catalog, tenant, request.name)
        if not conductor.is_known(request.session):
            follow_disks(catalog, agents, tenant, group)
        view = conductor.request(
            tenant,
            group,
            request.session,
            full=request.full,
            hinted=_hinted(request),
            opened_with=caller.sha256,
        )
        return _answer(_taken(view, tenant, group, request.session), conductor)


def _protected(volume: Volume, size_bytes: int) -> VolumeAnswer:
    return VolumeAnswer(
        volume=volume.volume,
        name=volume.name,
        group=volume.group,
        node=volume.node,
        path=volume.path,
        freeze=volume.freeze,
        driver=volume.driver,
        size_bytes=size_bytes,
        nodes=writing_nodes(places_of(volume)),
    )


def _places(request: VolumeRequest, nodes: Sequence[NodePlace]) -> list[Place]:
    """Where a volume is that several nodes write.

    Raises:
        BadInputError: they cannot, or the request says of one node what goes not with it.
    """
    said = {
        "path": request.path,
        "node": request.node,
        "freeze": request.freeze,
        "driver": None if request.driver in ("scan", DRIVER) else request.driver,
    }
    if names := [name for name, value in said.items() if value is not None]:
        raise BadInputError(
            f"nodes: goes not with {', '.join(names)}; a volume that several nodes write has a "
            f"path on each of them, and is captured by driver {DRIVER}"
        )
    places = [Place(one.node, one.path) for one in nodes]
    check_places(places, DRIVER, None)
    return places


def _add_session_route(app: FastAPI, conductor: Conductor) -> None:
    @app.get(
        "/v1/tenants/{tenant}/sessions/{session}", summary="How a session goes, waiting for news"
    )
    async def session(
        http: Request,
        tenant: str,
        session: UUID,
        _: Reader,
        wait_seconds: Annotated[float, Query(ge=0, le=WAIT_SECONDS_MAX)] = 0,
    ) -> SessionAnswer:
        async def look() -> SessionView:
            view = await to_thread.run_sync(conductor.look, session)
            if view.tenant != tenant:
                raise NotFoundError(f"session {session}: there is none of this id")
            return view

        def enough(view: SessionView, news_count: int) -> bool:
            return view.state != "open" or news_count > 0

        bells = conductor.news.bells
        view = await read_or_wait(http, bells, session, look, enough, wait_seconds)
        return await to_thread.run_sync(_answer, view, conductor)


def _group_of_new(catalog: Catalog, tenant: str, name: str) -> str:
    """The group of a volume that is added without one."""
    try:
        return group_of(catalog, tenant, name)  # it is there, or was
    except NotFoundError:
        return name


def _taken(view: SessionView | GroupBusy, tenant: str, group: str, session: UUID) -> SessionView:
    """The session that was asked for, unless there is another one in its way."""
    if isinstance(view, GroupBusy):
        raise ConflictError(
            f"group {group}: session {view.session} is taking a snapshot of it now; "
            f"wait for it, then try again"
        )
    if (view.tenant, view.group) != (tenant, group):
        raise ConflictError(f"session {session}: it belongs to another group; choose another id")
    return view


def _hinted(request: SnapshotRequest) -> HintedVolume | None:
    hints = request.hints
    if hints is None:
        return None
    if request.full:
        raise BadInputError("hints: they are relative to a base, and `full` takes none")
    check_runs(hints.runs, _CHUNK_COUNT_MAX)  # the agent knows where the volume ends
    return HintedVolume(request.name, hints.base, hints.runs)


def _answer(view: SessionView, conductor: Conductor) -> SessionAnswer:
    return SessionAnswer(
        session=view.session,
        group=view.group,
        state=view.state,
        sequence=view.sequence,
        base=view.base,
        code=view.reject_code,
        message=view.reject_message,
        seconds=view.seconds,
        parts=[
            PartAnswer(
                volume=part.volume_name,
                finished=part.finished,
                logical_bytes=part.size_bytes,
                read_bytes=part.read_bytes,
                changed_bytes=part.changed_bytes,
                sent_bytes=part.sent_bytes,
                stored_bytes=part.stored_bytes,
                consistency=part.consistency,
                tracking=part.tracking,
                attempts=part.attempt_number,
            )
            for part in view.parts
        ],
        waits_for=[
            AwaitedAnswer(
                volume=one.volume,
                node=one.node,
                chunker=one.chunker,
                message=one.describe(is_agent_silent=conductor.is_silent(one.capture)),
            )
            for one in conductor.awaited(view)
        ],
    )
