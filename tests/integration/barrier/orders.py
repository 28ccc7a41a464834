"""Orders that take a node through a barrier."""

from uuid import UUID

from services.change_capture.barrier.barrier import Barriers, Member
from services.change_capture.rpc import BarrierStatus
from tests.support.roots import TENANT

SESSION, VOLUME, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)


def through(barriers: Barriers, *members: Member, attempt: int = 1) -> BarrierStatus:
    """A node that goes through a barrier; what it says of the release."""
    barriers.prepare(SESSION, attempt, TENANT, members, 10)
    barriers.hold(SESSION, attempt)
    barriers.cut(SESSION, attempt)
    return barriers.release(SESSION, attempt, abandoned=False)
