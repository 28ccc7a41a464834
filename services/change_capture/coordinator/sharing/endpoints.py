"""The coordinator's endpoints for volumes that several nodes write: who joins, who leaves."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Volume, find_node, find_volume
from libs.catalogdb.volumes.sharing import DRIVER, Place, join, leave, places_of
from libs.catalogdb.volumes.writing import WritingNode, writing_nodes
from libs.errors import BadInputError
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from services.change_capture.coordinator.agents import Agents

Operator = Annotated[Caller, Depends(require(Role.OPERATOR))]

_PATH = "/v1/tenants/{tenant}/volumes/{name}"


class NodePlace(Body):
    """A node that writes a volume."""

    node: str = Field(description="Name of the node")
    path: str = Field(description="Path of the file or block device there")


class JoinRequest(NodePlace):
    """One more node that writes a volume."""

    again: bool = Field(False, description="Although another volume of the tenant is there")


class LeaveRequest(Body):
    """A node that writes a volume no more."""

    node: str = Field(description="Name of the node; it was detached, or it is dead and fenced")


class SharedAnswer(BaseModel):
    """A volume, and the nodes that write it now."""

    volume: UUID
    name: str
    group: str
    nodes: list[WritingNode] = Field(description="The lead first")


def add_sharing_routes(app: FastAPI, catalog: Catalog, agents: Agents) -> None:
    """Add the endpoints to the application."""

    @app.post(f"{_PATH}/join", summary="Let one more node write a volume")
    def let_join(tenant: str, name: str, _: Operator, request: JoinRequest) -> SharedAnswer:
        known = find_volume(catalog, tenant, name)
        place = Place(request.node, request.path)
        places = [one for one in places_of(known) if one != place]
        probe_all(catalog, agents, tenant, [*places, place])
        return _answer(join(catalog, tenant, name, place, again=request.again))

    @app.post(f"{_PATH}/leave", summary="Say that a node writes a volume no more")
    def let_leave(tenant: str, name: str, _: Operator, request: LeaveRequest) -> SharedAnswer:
        return _answer(leave(catalog, tenant, name, request.node))


def probe_all(catalog: Catalog, agents: Agents, tenant: str, places: Sequence[Place]) -> int:
    """Size in bytes of a volume, on whose size all nodes that write it must agree.

    Raises:
        NotFoundError: a node has never announced itself.
        SourceError: the volume cannot be captured there, or no filter is in front of it.
        UnavailableError: an agent does not answer.
        BadInputError: the nodes have volumes of different sizes.
    """
    nodes = [find_node(catalog, place.node) for place in places]
    sizes = {
        place: agents.probe(node, tenant, place.path, None, DRIVER)
        for place, node in zip(places, nodes, strict=True)
    }
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{place} {size} bytes" for place, size in sizes.items())
        raise BadInputError(
            f"nodes: expected the same volume on each of them, but the sizes differ: {found}"
        )
    return next(iter(sizes.values()))


def _answer(volume: Volume) -> SharedAnswer:
    return SharedAnswer(
        volume=volume.volume,
        name=volume.name,
        group=volume.group,
        nodes=writing_nodes(places_of(volume)),
    )
