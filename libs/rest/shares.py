"""How much of a server one tenant, and one token of it, may use at once.

A request is **in work**, or **in line** for that, or it is a **poll**: it waits for news and holds
no thread. Each of the three has a limit for a tenant. A token has `TOKEN_SHARE` of what its tenant
has, so that a token that was given away does not lock the tenant's other tokens out.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.types import Scope

from libs.errors import TooManyRequestsError

#: What one token may use of what its tenant may use.
TOKEN_SHARE = 0.75
_CLAIM = "backcast.claim"


def token_share(count: int) -> int:
    """What one token may use of its tenant's ``count``; at least 1."""
    return max(1, int(count * TOKEN_SHARE))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLimits:
    """What one tenant may use. A token of all tenants has as much for itself."""

    #: Requests in work. Half of a server's threads leave the other half to everybody else.
    working_count_max: int
    #: Requests in line; they hold no thread.
    lining_count_max: int = 64
    #: Polls.
    poll_count_max: int
    #: Polls of all tenants: they leave connections to requests that do not wait.
    all_poll_count_max: int

    @staticmethod
    def of(thread_count: int, connection_count_max: int) -> "ShareLimits":
        """Half of the threads, and a quarter of the connections for polls, which get three."""
        return ShareLimits(
            working_count_max=max(1, thread_count // 2),
            poll_count_max=max(1, connection_count_max // 4),
            all_poll_count_max=max(1, connection_count_max * 3 // 4),
        )

    def of_token(self) -> "ShareLimits":
        """What one token of a tenant may use."""
        return ShareLimits(
            working_count_max=token_share(self.working_count_max),
            lining_count_max=token_share(self.lining_count_max),
            poll_count_max=token_share(self.poll_count_max),
            all_poll_count_max=self.all_poll_count_max,
        )


class Shares:
    """Requests by whom they are for. For one event loop.

    Args:
        limits: of each tenant.
    """

    def __init__(self, limits: ShareLimits) -> None:
        self._limits = limits
        self._token_limits = limits.of_token()
        #: By tenant, and by tenant and token.
        self._shares: dict[tuple[str, ...], Share] = {}
        self.poll_count = 0

    @contextlib.asynccontextmanager
    async def taken(self, scope: Scope, tenant: str | None, token: str) -> AsyncIterator[None]:
        """Wait until a request may be worked on, and count it while it is.

        Args:
            scope: of the request; `claim_of` finds there what it has taken.
            tenant: whom the token acts for; None: for all tenants.
            token: name of the token.

        Raises:
            TooManyRequestsError: too many are in line already; nothing was done.
        """
        whole, part = self._limits, self._token_limits
        wanted = (
            {("token", token): (f"token {token}", whole)}
            if tenant is None
            else {
                ("tenant", tenant, token): (f"token {token} of tenant {tenant}", part),
                ("tenant", tenant): (f"tenant {tenant}", whole),
            }
        )
        shares = [
            self._shares.setdefault(key, Share(owner, limits))
            for key, (owner, limits) in wanted.items()
        ]
        claim = Claim(self, shares)
        try:
            async with claim.working():
                scope[_CLAIM] = claim
                yield
        finally:
            for key in wanted:
                if key in self._shares and self._shares[key].unused:
                    del self._shares[key]

    def check_polls(self) -> None:
        """See whether there is room for one more poll.

        Raises:
            TooManyRequestsError: there is none.
        """
        most = self._limits.all_poll_count_max
        if self.poll_count >= most:
            raise TooManyRequestsError(
                f"requests that wait for news: expected at most {most} of all tenants; "
                f"ask without waiting, or try again later"
            )


class Share:
    """What is used of the share of a tenant or a token."""

    def __init__(self, owner: str, limits: ShareLimits) -> None:
        self._owner = owner
        self._limits = limits
        self.slots = asyncio.Semaphore(limits.working_count_max)
        #: Requests in work and in line.
        self.claim_count = 0
        self.poll_count = 0

    @property
    def unused(self) -> bool:
        """Whether nobody needs it any more."""
        return not self.claim_count and not self.poll_count

    def check_claims(self) -> None:
        """See whether there is room for one more request. Raises as `Shares.taken`."""
        working, lining = self._limits.working_count_max, self._limits.lining_count_max
        if self.claim_count >= working + lining:
            raise TooManyRequestsError(
                f"requests of {self._owner}: expected at most {working} at once and "
                f"{lining} that wait for those; send fewer, or try again later"
            )

    def check_polls(self) -> None:
        """See whether there is room for one more poll. Raises as `Shares.taken`."""
        most = self._limits.poll_count_max
        if self.poll_count >= most:
            raise TooManyRequestsError(
                f"requests that wait for news: expected at most {most} of {self._owner}; "
                f"ask without waiting, or try again later"
            )


class Claim:
    """What one request has taken of its shares."""

    def __init__(self, all_shares: Shares, shares: list[Share]) -> None:
        self._all = all_shares
        self._shares = shares
        self._held: list[asyncio.Semaphore] = []

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """In line, then in work while the context lasts. Raises as `Shares.taken`."""
        for share in self._shares:
            share.check_claims()
        for share in self._shares:
            share.claim_count += 1
        try:
            await self._acquire()
            yield
        finally:
            self._release()
            for share in self._shares:
                share.claim_count -= 1

    @contextlib.asynccontextmanager
    async def polling(self) -> AsyncIterator[None]:
        """Not in work while the context lasts; then in work again, without being refused.

        An exception leaves the request without a slot: its client is gone, or the process ends.

        Raises:
            TooManyRequestsError: there are too many polls.
        """
        self._all.check_polls()
        for share in self._shares:
            share.check_polls()
        self._release()
        self._count_poll(1)
        try:
            yield
            await self._acquire()
        finally:
            self._count_poll(-1)

    def _count_poll(self, one: int) -> None:
        self._all.poll_count += one
        for share in self._shares:
            share.poll_count += one
            share.claim_count -= one

    async def _acquire(self) -> None:
        """Take a slot of each share, in one order, so that nobody waits for who waits."""
        for share in self._shares:
            await share.slots.acquire()
            self._held.append(share.slots)

    def _release(self) -> None:
        held, self._held = self._held, []
        for slots in held:
            slots.release()


def claim_of(scope: Scope) -> Claim | None:
    """What a request has taken; None where nobody counts."""
    claim: Claim | None = scope.get(_CLAIM)
    return claim
