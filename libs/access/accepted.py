"""The tokens that a service accepts: of its token file, of the catalog, and of an issuer (OIDC).

All of the catalog's are kept in memory and read again within seconds of a change. So a request
waits for no look-up, a token that nobody knows costs what a known one costs, and no flood of them
reaches Postgres.
"""

import contextlib
import time

from libs.access.oidc.entry import IssuedEntry, looks_issued
from libs.access.token_file import TokenFile
from libs.catalogdb.access.tokens import CatalogToken, TokenState, read_accepted, read_token_state
from libs.catalogdb.pool import Catalog
from libs.errors import UnavailableError
from libs.rest.auth import Authority, Role, TokenEntry, digest_of, find_entry, find_presented
from libs.runtime.loops import Loop

#: How often the catalog is asked whether its tokens have changed.
_LOOK_SECONDS = 1.0
#: The catalog's tokens are accepted for so long after it was last heard of. Longer than Postgres
#: takes to restart or to fail over; a token that is revoked meanwhile is accepted no longer.
_TRUST_SECONDS = 60.0


class AcceptedTokens:
    """Tokens of a file and of the catalog, which is read at once. Thread-safe.

    Args:
        file: the service's token file.
        catalog: the catalog, in the service's role.
        issued: those that an issuer makes for people; None: there is no issuer.
        trust_seconds: how long what was read of the catalog counts without news of it.
    """

    def __init__(
        self,
        file: TokenFile,
        catalog: Catalog,
        issued: Authority | None = None,
        trust_seconds: float = _TRUST_SECONDS,
    ) -> None:
        self._file = file
        self._issued = issued
        self._catalog = catalog
        self._trust_seconds = trust_seconds
        self._entries: dict[str, TokenEntry] = {}
        self._state: TokenState | None = None
        self._known_at = float("-inf")
        with contextlib.suppress(UnavailableError):  # the loop tries again
            self.refresh()

    def loop(self) -> Loop:
        """The loop that keeps the tokens up to date."""
        return Loop("tokens", lambda _stop, _progressed: self.refresh(), _LOOK_SECONDS)

    def refresh(self) -> None:
        """Learn what has changed.

        Raises:
            UnavailableError: the catalog does not answer.
        """
        asked_at = time.monotonic()
        state = read_token_state(self._catalog)
        if not state.compared:
            return  # it may have gone back in time
        if state != self._state:
            found = read_accepted(self._catalog)
            self._entries = {one.sha256: _entry(one) for one in found}
            self._state = state
        self._known_at = asked_at

    def find(self, token: str) -> TokenEntry | None:
        """The entry of a presented token, or None. An entry of the file comes first.

        Raises:
            UnauthenticatedError: it is known, and its time is over.
            UnavailableError: the file does not have it, and the catalog was not heard of for long,
                or the issuer if it looks like one of its tokens.
        """
        in_file = self._file.find(token)
        if in_file is not None:
            return in_file
        if self._issued is not None and looks_issued(token):
            return self._issued.find(token)
        self._require_known()
        return find_presented(self._entries, digest_of(token))

    def holds(self, entry: TokenEntry) -> bool:
        """Whether the entry is still accepted as it was. Raises as `find` does."""
        if isinstance(entry, IssuedEntry):
            return self._issued is not None and self._issued.holds(entry)
        if self._file.holds(entry):
            return True
        self._require_known()
        return find_entry(self._entries, entry.sha256) == entry

    def _require_known(self) -> None:
        if time.monotonic() - self._known_at > self._trust_seconds:
            raise UnavailableError(
                f"tokens: the catalog was not heard of for {self._trust_seconds:.0f} s, so that "
                f"nobody knows which of its tokens are good; those of token files are"
            )


def _entry(token: CatalogToken) -> TokenEntry:
    return TokenEntry(
        sha256=token.sha256,
        tenant=token.tenant,
        roles=tuple(Role(role) for role in token.roles),
        groups=tuple(token.groups),
        expires_at=token.expires_at,
        name=token.name,
    )


_: type[Authority] = AcceptedTokens
