"""Requests in work whose tokens are still accepted: a revoked token ends what it has begun.

A long poll and a download last longer than a token may. So whoever's token is revoked, expires or
changes gets no more of them than what was sent in the next second.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import anyio

from libs.errors import BackcastError, UnauthenticatedError
from libs.rest.auth import Authority, TokenEntry, expired_error

log = logging.getLogger(__name__)

#: How often the token of a request in work is looked up again.
_LOOK_SECONDS = 1.0


class Standing:
    """Requests by their tokens. For one event loop.

    Args:
        tokens: says whether a token is accepted.
    """

    def __init__(self, tokens: Authority) -> None:
        self.tokens = tokens

    @contextlib.asynccontextmanager
    async def required(self, entry: TokenEntry) -> AsyncIterator[None]:
        """Work on a request only as long as its token is accepted.

        A thread that works on it is not interrupted; what it comes to is not sent.

        Raises:
            UnauthenticatedError: the token is not accepted any more.
        """
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None
        with anyio.CancelScope() as scope:

            def look() -> None:
                nonlocal timer
                if self._is_accepted(entry):
                    timer = loop.call_later(_LOOK_SECONDS, look)
                else:
                    log.info("request ended with its token", extra={"token": entry.label})
                    scope.cancel()

            timer = loop.call_later(_LOOK_SECONDS, look)
            try:
                yield
            finally:
                if timer is not None:
                    timer.cancel()
        if scope.cancelled_caught:
            if entry.has_expired:
                raise expired_error(entry)
            raise UnauthenticatedError(
                f"token {entry.label}: was revoked or changed", presented=True
            )

    def _is_accepted(self, entry: TokenEntry) -> bool:
        try:
            return self.tokens.holds(entry)
        except BackcastError:  # nobody can say; the request goes on as far as its data do
            return True
