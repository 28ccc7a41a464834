"""The coordinator's endpoints for VMs."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import Volume, find_node, list_nodes
from libs.ids import check_name
from libs.keys.vault import KeyVault
from libs.rest.auth import Caller, Role, require
from libs.rest.strict import Body
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.machines.volumes import (
    DiscoveredMachine,
    NewMachine,
    add_machine,
    ask_machine,
    discover_machines,
)
from services.change_capture.coordinator.nodes.choosing import meant_node
from services.change_capture.coordinator.tenants import ensure_tenant

Operator = Annotated[Caller, Depends(require(Role.OPERATOR, by_route=True))]
Reader = Annotated[Caller, Depends(require(Role.READER))]


class MachineRequest(Body):
    """Protect a VM."""

    name: str = Field(description="Name of its group; the names of its volumes begin with it")
    qmp: str = Field(description="Path of its QMP socket on the node, for Backcast alone")
    node: str | None = Field(
        None, description="Node that it runs on; may be left out if there is only one"
    )
    tpm_state: str | None = Field(
        None, description="Path of the file with the state of its TPM, which QEMU does not tell"
    )
    again: bool = Field(False, description="Although other volumes of the tenant have its disks")


class MachineVolumeAnswer(BaseModel):
    """A volume of a VM."""

    volume: UUID
    name: str
    path: str


class MachineAnswer(BaseModel):
    """A protected VM."""

    name: str = Field(description="Name of its group")
    node: str
    definition: MachineVolumeAnswer = Field(description="The volume that is its definition")
    disks: list[MachineVolumeAnswer]


class FoundVmAnswer(BaseModel):
    """A VM that an agent has found: a socket named *.qmp, at which somebody listens."""

    node: str
    qmp: str = Field(description="Path of its QMP socket on the node")
    volumes: list[str] = Field(description="Volumes of the tenant that lead to it; none: nothing")


class DiscoveryAnswer(BaseModel):
    """VMs in the roots of a tenant."""

    vms: list[FoundVmAnswer]
    silent_nodes: list[str] = Field(description="Nodes whose agents do not answer")


def add_machine_routes(app: FastAPI, catalog: Catalog, vault: KeyVault, agents: Agents) -> None:
    """Add the endpoints to the application."""

    @app.get("/v1/tenants/{tenant}/vms", summary="VMs that agents find, protected or not")
    def discover(
        tenant: str,
        _: Reader,
        node: Annotated[str | None, Query(description="Only those of this node")] = None,
    ) -> DiscoveryAnswer:
        check_name("tenant", tenant)
        nodes = [find_node(catalog, node)] if node else list_nodes(catalog)
        vms, silent = discover_machines(catalog, agents, tenant, nodes)
        return DiscoveryAnswer(vms=[_found(one) for one in vms], silent_nodes=silent)

    @app.post("/v1/tenants/{tenant}/vms", summary="Protect a VM; repeating it is harmless")
    def protect(tenant: str, caller: Operator, request: MachineRequest) -> MachineAnswer:
        check_name("tenant", tenant)
        name = caller.within(lambda: check_name("group", request.name))
        node = meant_node(catalog, request.node)
        new = NewMachine(tenant, name, node, request.qmp, request.tpm_state)
        told = ask_machine(agents, new)
        ensure_tenant(catalog, vault, tenant)
        definition, *disks = add_machine(catalog, new, told, again=request.again)
        return MachineAnswer(
            name=name,
            node=node.name,
            definition=_answer(definition),
            disks=[_answer(one) for one in disks],
        )


def _found(one: DiscoveredMachine) -> FoundVmAnswer:
    return FoundVmAnswer(node=one.node, qmp=one.socket, volumes=one.volumes)


def _answer(volume: Volume) -> MachineVolumeAnswer:
    return MachineVolumeAnswer(volume=volume.volume, name=volume.name, path=volume.path)
