"""The coordinator's endpoints that change volumes and groups after they were added."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import find_node, find_volume
from libs.catalogdb.volumes.moving import move
from libs.catalogdb.volumes.pausing import Pause, pause, resume
from libs.catalogdb.volumes.regrouping import regroup
from libs.catalogdb.volumes.removing import remove
from libs.catalogdb.volumes.renaming import rename
from libs.errors import BadInputError
from libs.events.fields import MESSAGE_LENGTH_MAX, NAME_LENGTH_MAX
from libs.ids import check_name
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from services.change_capture.coordinator.agents import Agents
from services.change_capture.rpc import DriverName

Deleter = Annotated[Caller, Depends(require(Role.DELETE))]
Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]
#: Where the other group keeps fewer, a deleter alone.
Regrouper = Annotated[Caller, Depends(require(Role.OPERATOR, Role.DELETE))]

_PATH = "/v1/tenants/{tenant}/volumes/{name}"


class RenameRequest(Body):
    """Another name for a volume or group."""

    name: str = Field(description="What it is called from now on")


class RenameAnswer(BaseModel):
    """The names that hold now."""

    volume: str | None = Field(description="Null if only a group was meant")
    group: str


class MoveRequest(Body):
    """Another place for a volume."""

    path: str = Field(description="Path of the file or block device on the node")
    node: str | None = Field(None, description="Node that the path is on; by default as before")
    freeze: str | None = Field(
        None, description="Mount point on the node of the file system to freeze while it is cut"
    )
    no_freeze: bool = Field(False, description="Freeze nothing, although it was frozen before")
    driver: DriverName | None = Field(
        None, description="How its changes are known; by default as before"
    )
    again: bool = Field(False, description="Although another volume of the tenant is there")


class MovedAnswer(BaseModel):
    """A volume and its place."""

    volume: UUID
    name: str
    group: str
    node: str
    path: str
    freeze: str | None
    driver: str
    size_bytes: int = Field(description="What the node says of the new place")


class RemovedAnswer(BaseModel):
    """A volume that is protected no more."""

    name: str
    group: str
    points: int = Field(description="Its recovery points, which expire as those of its group do")


class RegroupRequest(Body):
    """Another group for a volume."""

    group: str = Field(description="Name of the group; made if there is none")
    keep_as: str | None = Field(
        None, description="Name for its history up to now; by default NAME-1, NAME-2, …"
    )


class RegroupedAnswer(BaseModel):
    """A volume in another group. It has a new id; its history stays under another name."""

    volume: UUID
    name: str
    group: str
    kept_as: str | None = Field(description="Name of its history up to now; null: it was there")
    points: int = Field(description="Recovery points that go by that name")


class PauseRequest(Body):
    """Let a group take no snapshots."""

    reason: str = Field(min_length=1, max_length=MESSAGE_LENGTH_MAX, description="For people")


class PauseAnswer(BaseModel):
    """Whether a group is paused."""

    group: str
    volumes: list[str]
    paused_by: str | None
    paused_reason: str | None
    paused_at: datetime | None


def add_volume_routes(app: FastAPI, catalog: Catalog, agents: Agents) -> None:
    """Add the endpoints to the application."""

    @app.post(f"{_PATH}/rename", summary="Give a volume or group another name")
    def give_name(tenant: str, name: str, _: Operator, request: RenameRequest) -> RenameAnswer:
        renamed = rename(catalog, tenant, name, check_name("new", request.name))
        return RenameAnswer(volume=renamed.volume, group=renamed.group)

    @app.post(f"{_PATH}/move", summary="Read a volume from another place from now on")
    def move_it(tenant: str, name: str, _: Operator, request: MoveRequest) -> MovedAnswer:
        return _move(catalog, agents, tenant, name, request)

    @app.post(f"{_PATH}/remove", summary="Protect a volume no more")
    def take_out(tenant: str, name: str, caller: Deleter) -> RemovedAnswer:
        removed = remove(catalog, tenant, name, _name_of(caller))
        return RemovedAnswer(name=removed.name, group=removed.group, points=removed.points)

    @app.post(f"{_PATH}/regroup", summary="Put a volume into another group")
    def change_group(
        tenant: str, name: str, caller: Regrouper, request: RegroupRequest
    ) -> RegroupedAnswer:
        group = caller.within(lambda: check_name("group", request.group))
        kept_as = request.keep_as and check_name("volume", request.keep_as)
        regrouped = regroup(
            catalog,
            tenant,
            name,
            group,
            _name_of(caller),
            kept_as,
            may_shorten=Role.DELETE in caller.roles,
        )
        return RegroupedAnswer(
            volume=regrouped.volume.volume,
            name=regrouped.volume.name,
            group=regrouped.volume.group,
            kept_as=regrouped.kept_as,
            points=regrouped.points,
        )

    @app.post(f"{_PATH}/pause", summary="Let a group take no snapshots")
    def stop(tenant: str, name: str, caller: Operator, request: PauseRequest) -> PauseAnswer:
        return _answer(pause(catalog, tenant, name, _name_of(caller), request.reason))

    @app.post(f"{_PATH}/resume", summary="Let a group take snapshots again")
    def go_on(tenant: str, name: str, caller: Operator) -> PauseAnswer:
        return _answer(resume(catalog, tenant, name, _name_of(caller)))


def _move(
    catalog: Catalog, agents: Agents, tenant: str, name: str, request: MoveRequest
) -> MovedAnswer:
    if request.freeze and request.no_freeze:
        raise BadInputError("freeze: goes not with `no_freeze`")
    known = find_volume(catalog, tenant, name)
    node, driver = find_node(catalog, request.node or known.node), request.driver or known.driver
    size_bytes = agents.probe(node, tenant, request.path, request.freeze, driver)
    moved = move(
        catalog,
        tenant,
        name,
        node.name,
        request.path,
        request.freeze,
        again=request.again,
        no_freeze=request.no_freeze,
        driver=driver,
    )
    return MovedAnswer(
        volume=moved.volume,
        name=moved.name,
        group=moved.group,
        node=moved.node,
        path=moved.path,
        freeze=moved.freeze,
        driver=moved.driver,
        size_bytes=size_bytes,
    )


def _answer(one: Pause) -> PauseAnswer:
    return PauseAnswer(
        group=one.group,
        volumes=one.volumes,
        paused_by=one.by,
        paused_reason=one.reason,
        paused_at=one.at,
    )


def _name_of(caller: Caller) -> str:
    return caller.name[:NAME_LENGTH_MAX]
