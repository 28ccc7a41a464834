"""The issuer's keys as a service knows them: fetched in the background, kept while nobody answers.

No request waits for the issuer. A token under a name that no known key has makes the loop ask the
issuer again, but not more often than every `AGAIN_SECONDS`, whatever names somebody makes up.
"""

import logging
import threading
from collections.abc import Callable

from libs.access.oidc.key_set import IssuerKey, KeySet
from libs.errors import UnavailableError
from libs.runtime.loops import Loop

log = logging.getLogger(__name__)

#: The issuer is asked this often without a reason: a key that it withdrew counts no longer than
#: that.
REFRESH_SECONDS = 300.0
#: It is asked at most this often, and again so long after it did not answer.
AGAIN_SECONDS = 30.0
#: So long keys count without news of the issuer: over a night in which it is down, and no longer,
#: because nobody hears meanwhile which keys it has withdrawn.
KEEP_SECONDS = 86_400.0
#: Both exchanges with the issuer, with room.
_PATIENCE_SECONDS = 120.0


class IssuerKeys:
    """Keys of one issuer. Thread-safe.

    Args:
        issuer: names it in messages.
        fetch: gets its keys; raises a BackcastError if it cannot.
        clock: monotonic seconds.
    """

    def __init__(
        self, issuer: str, fetch: Callable[[], KeySet], clock: Callable[[], float]
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._known = KeySet()
        self._asked_at = self._known_at = float("-inf")

    def loop(self) -> Loop:
        """The loop that asks the issuer. While it does not answer, each round is put off."""
        return Loop(
            "oidc",
            lambda _stop, _progressed: self.refresh(),
            REFRESH_SECONDS,
            again_seconds=AGAIN_SECONDS,
            patience_seconds=_PATIENCE_SECONDS,
            wake=self._wake,
        )

    def refresh(self) -> None:
        """Ask the issuer.

        Raises:
            BackcastError: it does not answer as it should; the keys of before stay.
        """
        with self._lock:
            self._wake.clear()
            asked_at = self._asked_at = self._clock()
        found = self._fetch()
        with self._lock:
            changed, self._known, self._known_at = found != self._known, found, asked_at
        if changed:
            kids = [one.kid for one in found.keys]
            log.info("keys of the issuer", extra={"issuer": self._issuer, "kids": kids})

    @property
    def age_seconds(self) -> float:
        """Time since the keys that are known were asked for; infinite if there are none."""
        return self._clock() - self._known_at

    def find(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        """The key that a header names.

        Raises:
            UnavailableError: no keys are known, or they are too old.
        """
        known = self._require_known()
        if not known.knows(kid):
            self._ask_again()
        return known.find(kid, algorithm)

    def has(self, thumbprint: str) -> bool:
        """Whether the issuer still has a key. Raises as `find` does."""
        return self._require_known().has(thumbprint)

    def _require_known(self) -> KeySet:
        if self.age_seconds > KEEP_SECONDS:
            raise UnavailableError(
                f"tokens of issuer {self._issuer}: it was not heard of for long, so that nobody "
                f"knows its keys; other tokens are good"
            )
        return self._known

    def _ask_again(self) -> None:
        """Have the loop ask the issuer, unless that was done a moment ago."""
        with self._lock:
            if self._clock() - self._asked_at >= AGAIN_SECONDS:
                self._wake.set()
