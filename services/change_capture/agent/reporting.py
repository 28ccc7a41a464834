"""Tells the coordinator how far the captures are, every few seconds while there are some.

A capture that fails is told at once by its `CaptureAborted`; here it is told again, should nobody
have read that.
"""

from libs.rest.client import RestClient
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.routes import status_of
from services.change_capture.rpc import NodeReport, ReportAnswer


class Reporter:
    """Pushes the state of all captures, and acts on what the coordinator says of those that ended.

    Args:
        captures: of this process.
        coordinator: where it is pushed to.
        node: name of this node.
    """

    def __init__(self, captures: AgentCaptures, coordinator: RestClient, node: str) -> None:
        self._captures = captures
        self._coordinator = coordinator
        self._path = f"/v1/nodes/{node}/report"

    def report(self) -> None:
        """A round of a loop; without captures there is nothing to tell.

        Raises:
            UnavailableError: the coordinator does not answer; the next round tells it.
        """
        captures = self._captures.all()
        if not captures:
            return
        statuses = [status_of(capture) for capture in captures]
        report = NodeReport(boot=self._captures.boot, captures=statuses)
        answer = self._coordinator.post(self._path, report.model_dump(mode="json"))
        ended = {one.capture: one for one in ReportAnswer.model_validate(answer).ended}
        for capture in captures:
            outcome = ended.get(capture.order.capture)
            if outcome is None:
                capture.touch()
            else:
                self._captures.settle(
                    outcome.capture, sealed=outcome.sealed, distrusted=outcome.distrusted
                )
