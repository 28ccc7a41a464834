"""Which requests the audit log gets, and what a server does with those that it cannot record.

A request is recorded once its outcome is known, and before its answer is sent: whoever has an
answer is in the log. Where it cannot be recorded, it is answered with that error, so that nobody
reads data unseen. A change may have been made then; it is repeated like any other.
"""

from http import HTTPStatus
from typing import Protocol

from starlette.types import Scope

from libs.errors import BackcastError
from libs.rest.auth import Role, TokenEntry
from libs.rest.documents import requirement_of


class NotRecordedError(Exception):
    """A request could not be recorded.

    Not one of our errors, for which the framework would answer by itself.

    Args:
        reason: why.
    """

    def __init__(self, reason: BackcastError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Auditor(Protocol):
    """Records requests."""

    async def note(self, scope: Scope, entry: TokenEntry, status: int) -> None:
        """Return when a request is recorded, or is one that only looks.

        Args:
            scope: of the request, with its route.
            entry: its token.
            status: of its answer.

        Raises:
            NotRecordedError: it cannot be recorded now.
        """


def is_recorded(scope: Scope, status: int) -> bool:
    """Whether the audit log gets a request: a change, a read of data, or a refusal.

    Not one that was too much at once: nothing was done, and a flood of them must cost little.
    """
    required = requirement_of(scope.get("route"))
    if required is None or status == HTTPStatus.TOO_MANY_REQUESTS:
        return False
    if status == HTTPStatus.FORBIDDEN:
        return True
    if required.audited is not None:
        return required.audited
    method = scope["method"]
    return method not in ("GET", "HEAD") or (method == "GET" and Role.RESTORE in required.roles)
