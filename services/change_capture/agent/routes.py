"""The agent's RPC: what the coordinator may ask of it."""

import contextlib
from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI

from libs.rest.auth import Caller, Role, require
from services.change_capture.agent.capture import Capture
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.order import CaptureOrder
from services.change_capture.agent.vms import found_vms
from services.change_capture.barrier.barrier import Member
from services.change_capture.drivers.local.roots import Roots
from services.change_capture.drivers.port import SharedCut
from services.change_capture.drivers.qemu.driver import QemuDriver
from services.change_capture.drivers.qemu.place import disk_path
from services.change_capture.drivers.table import find_driver
from services.change_capture.rpc import (
    BarrierStatus,
    BarrierStep,
    CaptureRequest,
    CaptureStatus,
    FollowRequest,
    FoundVms,
    MachineAnswer,
    MachineDiskAnswer,
    MachineRequest,
    NodeAbout,
    Outcome,
    PrepareRequest,
    ProbeRequest,
    ProbeResponse,
    SharedSource,
)

Coordinator = Annotated[Caller, Depends(require(Role.COORDINATOR))]


def add_routes(app: FastAPI, captures: AgentCaptures, about: NodeAbout, roots: Roots) -> None:
    """Add the RPC to the application."""
    _add_barrier_routes(app, captures, about)
    _add_machine_routes(app, captures, roots)

    @app.get("/v1/node", summary="Which node and boot this is, and what may be protected on it")
    def node(_: Coordinator) -> NodeAbout:
        return about

    @app.post("/v1/probe", summary="Whether a path can be captured")
    def probe(_: Coordinator, request: ProbeRequest) -> ProbeResponse:
        driver = find_driver(captures.drivers, request.driver)
        view = driver.view(request.tenant, Path(request.path))
        with contextlib.closing(view):
            driver.require_tracking(view)
            if request.freeze is not None:
                captures.barriers.require_freezable(request.tenant, request.freeze)
            return ProbeResponse(size_bytes=view.size_bytes)

    @app.post("/v1/captures", status_code=202, summary="Begin a capture; repeating it is harmless")
    def begin(_: Coordinator, request: CaptureRequest) -> CaptureStatus:
        order = CaptureOrder(
            session=request.session,
            capture=request.capture,
            tenant=request.tenant,
            group=request.group,
            volume=request.volume,
            path=Path(request.path),
            base=request.base,
            token=request.token,
            id_key=request.id_key,
            cut_attempt=request.cut_attempt,
            driver=request.driver,
            is_trusted=request.is_trusted,
            hints=request.hints,
        )
        return status_of(captures.begin(order))

    @app.get("/v1/captures/{capture}", summary="How far a capture is")
    def status(_: Coordinator, capture: UUID) -> CaptureStatus:
        found = captures.get(capture)
        found.touch()
        return status_of(found)

    @app.post("/v1/captures/{capture}/outcome", status_code=204, summary="How the session ended")
    def settle(_: Coordinator, capture: UUID, outcome: Outcome) -> None:
        captures.settle(capture, sealed=outcome.sealed, distrusted=outcome.distrusted)


def _add_machine_routes(app: FastAPI, captures: AgentCaptures, roots: Roots) -> None:
    @app.post("/v1/found-vms", summary="VMs in the roots of this node")
    def found(_: Coordinator) -> FoundVms:
        return FoundVms(vms=found_vms(roots))

    @app.post("/v1/machine", summary="Whether all of a VM can be captured, and its disks")
    def machine(_: Coordinator, request: MachineRequest) -> MachineAnswer:
        driver = find_driver(captures.drivers, "qemu")
        assert isinstance(driver, QemuDriver)
        path = Path(request.path)
        return MachineAnswer(
            disks=[
                MachineDiskAnswer(
                    name=one.device.rsplit("/", 1)[-1],
                    path=str(disk_path(path, one.device)),
                    size_bytes=one.size_bytes,
                )
                for one in driver.machine(request.tenant, path)
            ]
        )


def _add_barrier_routes(app: FastAPI, captures: AgentCaptures, about: NodeAbout) -> None:
    @app.post("/v1/sessions/{session}/prepare", summary="Open what a node needs to be cut")
    def prepare(_: Coordinator, session: UUID, request: PrepareRequest) -> BarrierStatus:
        return captures.barriers.prepare(
            session,
            request.attempt,
            request.tenant,
            members_of(request, about.name),
            request.hold_seconds,
        )

    @app.post("/v1/sessions/{session}/follow", summary="Connect to the leads of shared volumes")
    def follow(_: Coordinator, session: UUID, request: FollowRequest) -> BarrierStatus:
        return captures.barriers.follow(session, request.attempt, request.leads)

    @app.post("/v1/sessions/{session}/hold", summary="Hold writes")
    def hold(_: Coordinator, session: UUID, step: BarrierStep) -> BarrierStatus:
        return captures.barriers.hold(session, step.attempt)

    @app.post("/v1/sessions/{session}/cut", summary="Begin the frozen views")
    def cut(_: Coordinator, session: UUID, step: BarrierStep) -> BarrierStatus:
        return captures.barriers.cut(session, step.attempt)

    @app.post("/v1/sessions/{session}/release", summary="Let writes go on")
    def release(_: Coordinator, session: UUID, step: BarrierStep) -> BarrierStatus:
        return captures.barriers.release(session, step.attempt, abandoned=step.abandoned)


def members_of(request: PrepareRequest, node: str) -> list[Member]:
    """What a node is to cut.

    Args:
        request: of the coordinator.
        node: name of this node.
    """
    return [
        Member(
            one.volume,
            Path(one.path),
            one.freeze,
            one.driver,
            request.volume_count,
            _shared(one.shared, node),
        )
        for one in request.sources
    ]


def _shared(shared: SharedSource | None, node: str) -> SharedCut | None:
    """What this node is in a cut, as its driver is told."""
    if shared is None:
        return None
    return SharedCut(shared.cut, shared.key, node, tuple(shared.followers))


def status_of(capture: Capture) -> CaptureStatus:
    """How far a capture is."""
    reason = capture.reason
    return CaptureStatus(
        session=capture.order.session,
        capture=capture.order.capture,
        boot=capture.boot,
        state=capture.state,
        read_bytes=capture.read_bytes,
        code=reason.code if reason else None,
        message=str(reason) if reason else None,
    )
