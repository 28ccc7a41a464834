"""How much of a server one tenant may use at once, so that it does not starve the others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from libs.errors import TooManyRequestsError

#: Requests of one owner that wait for others of the same owner; they hold no thread.
_WAITING_COUNT_MAX = 64


class Shares:
    """Requests in work by whom they are for. For one event loop.

    Args:
        working_count_max: requests of one owner that are worked on at the same time. Half of a
            server's threads, for example, leave the other half to everybody else.
    """

    def __init__(self, working_count_max: int) -> None:
        self._working_count_max = working_count_max
        self._shares: dict[str, _Share] = {}

    @contextlib.asynccontextmanager
    async def taken(self, owner: str) -> AsyncIterator[None]:
        """Wait until a request of ``owner`` may be worked on, and count it while it is.

        Raises:
            TooManyRequestsError: too many wait already; nothing was done.
        """
        share = self._shares.setdefault(owner, _Share(asyncio.Semaphore(self._working_count_max)))
        if share.claim_count >= self._working_count_max + _WAITING_COUNT_MAX:
            raise TooManyRequestsError(
                f"requests of {owner}: expected at most {self._working_count_max} at once and "
                f"{_WAITING_COUNT_MAX} that wait; send fewer, or try again later"
            )
        share.claim_count += 1
        try:
            async with share.slots:
                yield
        finally:
            share.claim_count -= 1
            if not share.claim_count:
                del self._shares[owner]


@dataclass(slots=True)
class _Share:
    slots: asyncio.Semaphore
    #: Requests in work and requests that wait.
    claim_count: int = 0
