"""The endpoints for agents, on a listener of their own: enrolment, announcements, and reports.

It is kept off the public ingress. A credential of a node is good here for that node, and for
nothing else.
"""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI

from libs.ids import NodeIdentity
from services.change_capture.coordinator.conductor import Conductor
from services.change_capture.coordinator.nodes.registration import Registration
from services.change_capture.coordinator.nodes.tokens import calling_node, invited
from services.change_capture.rpc import (
    EnrolmentAnswer,
    EnrolmentRequest,
    NodeAnnouncement,
    NodeReport,
    ReportAnswer,
)

CallingNode = Annotated[NodeIdentity, Depends(calling_node)]
Invited = Annotated[UUID, Depends(invited)]


def add_routes(app: FastAPI, registration: Registration, conductor: Conductor) -> None:
    """Add the endpoints to the application, whose tokens are `NodeTokens`."""

    @app.post("/v1/enrolments", summary="An agent exchanges an invitation for a credential")
    def enrol(invitation: Invited, request: EnrolmentRequest) -> EnrolmentAnswer:
        return EnrolmentAnswer(credential=registration.enrol(invitation, request))

    @app.post("/v1/nodes/{node}/announcement", status_code=204, summary="An agent announces itself")
    def announce(node: str, caller: CallingNode, announced: NodeAnnouncement) -> None:
        registration.announce(caller, announced)

    @app.post("/v1/nodes/{node}/report", summary="An agent says how far its captures are")
    def report(node: str, caller: CallingNode, report: NodeReport) -> ReportAnswer:
        return ReportAnswer(ended=conductor.hear((caller, one) for one in report.captures))
