"""Tokens of people that the issuer made, as entries like those of token files."""

import functools
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.access.oidc.entry import IssuedEntry
from libs.access.oidc.fetching import fetch_keys
from libs.access.oidc.keys import IssuerKeys
from libs.access.oidc.mapping import Mapping, read_mapping
from libs.access.oidc.verifying import Expected, RefusedError, Verified, verify
from libs.errors import UnauthenticatedError
from libs.events.fields import NAME_LENGTH_MAX
from libs.rest.auth import Authority, TokenEntry, digest_of
from libs.runtime.groups import OidcSettings
from libs.runtime.loops import Loop
from libs.runtime.tls import Reloaded

log = logging.getLogger(__name__)

#: Verified tokens that are remembered: 8 MiB at most. What is more is verified again: 0.2 ms.
_REMEMBERED_COUNT_MAX = 1024
#: A line of the log for each kind of reason at most this often; metrics count them all.
_LOG_SECONDS = 1.0
#: Characters of the digest in a name that is shortened: 96 bits, which nobody meets by chance.
_DIGEST_LENGTH = 24
_EXPIRED = "this token of the issuer has expired; log in at the issuer again, which makes a new one"


class IssuedTokens:
    """Tokens of one issuer, as far as the mapping has them. Thread-safe.

    A token is verified once and remembered by its SHA-256 until it expires. What it may do is
    looked up in the mapping each time, and its key must still be one of the issuer's.

    Args:
        expected: what tokens must say.
        keys: the issuer's.
        mapping: the mapping as it is now.
        registry: gets the metrics.
        now: Unix time.
    """

    def __init__(
        self,
        expected: Expected,
        keys: IssuerKeys,
        mapping: Callable[[], Mapping],
        registry: CollectorRegistry,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._expected = expected
        self._keys = keys
        self._mapping = mapping
        self._now = now
        self._lock = threading.Lock()
        #: By SHA-256 of the token; what was used last stands last.
        self._remembered: OrderedDict[str, Verified] = OrderedDict()
        #: By reason: when the log had it last.
        self._logged_at: dict[str, float] = {}
        self._refused = Counter(
            "backcast_oidc_refused",
            "Refusals of tokens that look like the issuer's, by reason; a request may count twice.",
            ["reason"],
            registry=registry,
        )
        self._verified = Counter(
            "backcast_oidc_verified", "Signatures of tokens that were verified.", registry=registry
        )
        Gauge(
            "backcast_oidc_keys_age_seconds",
            "Time since the issuer last gave its keys, in seconds; +Inf if it never did.",
            registry=registry,
        ).set_function(lambda: keys.age_seconds)

    @staticmethod
    def of(settings: OidcSettings, registry: CollectorRegistry) -> "IssuedTokens | None":
        """Those that the settings name; None if they name no issuer.

        Raises:
            ConfigurationError: the mapping file, or that of authorities, cannot be used.
        """
        issuer, audience, file = settings.issuer, settings.audience, settings.mapping_file
        if issuer is None or audience is None or file is None:
            return None
        mapping = Reloaded("OIDC mapping", (file,), functools.partial(read_mapping, file))
        fetch = functools.partial(fetch_keys, issuer, settings.ca_file)
        keys = IssuerKeys(issuer, fetch, time.monotonic)
        expected = Expected(issuer, audience, settings.claim)
        return IssuedTokens(expected, keys, mapping.current, registry)

    def loop(self) -> Loop:
        """The loop that keeps the keys up to date."""
        return self._keys.loop()

    def find(self, token: str) -> TokenEntry | None:
        """The entry of a token, or None; then the log says why.

        Raises:
            UnauthenticatedError: the issuer has made it for us, and its time is over.
            UnavailableError: the issuer's keys are not known.
        """
        digest = digest_of(token)
        try:
            verified = self._verify(token, digest)
            entry = self._entry(verified, digest)
            if entry is None:
                claim = self._expected.claim
                raise RefusedError(
                    "mapping", f"no entry of the mapping has a value of its claim {claim}"
                )
        except RefusedError as err:
            self._note(err)
            if err.reason == "expired":  # the last thing that is judged: it was good once
                raise UnauthenticatedError(_EXPIRED, presented=True) from None
            return None
        return entry

    def holds(self, entry: TokenEntry) -> bool:
        """Whether an entry still is as it was: not expired, and by its key and the mapping.

        Raises:
            UnavailableError: the issuer's keys are not known any more.
        """
        if not isinstance(entry, IssuedEntry) or entry.expires_at is None:
            return False
        if self._now() >= entry.expires_at.timestamp():
            return False
        mapped = self._mapping().find(entry.values)
        if mapped is None:
            return False
        now = (mapped.tenant, mapped.roles, mapped.groups)
        return now == (entry.tenant, entry.roles, entry.groups) and self._keys.has(entry.key)

    def _verify(self, token: str, digest: str) -> Verified:
        with self._lock:
            found = self._remembered.get(digest)
            if found is not None:
                self._remembered.move_to_end(digest)
        if found is not None and self._now() < found.expires_at and self._keys.has(found.key):
            return found
        found = verify(token, self._keys, self._expected, self._now())
        self._verified.inc()
        with self._lock:
            self._remembered[digest] = found
            while len(self._remembered) > _REMEMBERED_COUNT_MAX:
                self._remembered.popitem(last=False)
        return found

    def _entry(self, verified: Verified, digest: str) -> TokenEntry | None:
        mapped = self._mapping().find(verified.values)
        if mapped is None:
            return None
        return IssuedEntry(
            sha256=digest,
            tenant=mapped.tenant,
            roles=mapped.roles,
            groups=mapped.groups,
            expires_at=datetime.fromtimestamp(verified.expires_at, UTC),
            name=name_of(self._expected.issuer, verified.subject),
            values=verified.values,
            key=verified.key,
        )

    def _note(self, refusal: RefusedError) -> None:
        """Count a refusal, and tell its reason in the log; a flood of them fills no log."""
        self._refused.labels(refusal.reason).inc()
        now, reason = self._now(), refusal.reason
        with self._lock:
            if 0 <= now - self._logged_at.get(reason, float("-inf")) < _LOG_SECONDS:
                return
            self._logged_at[reason] = now
        log.warning(
            "token of the issuer refused", extra={"reason": reason, "detail": refusal.detail}
        )


def name_of(issuer: str, subject: str) -> str:
    """What logs, holds and the audit log call a person: ``subject@issuer``, without ``https://``.

    Names have 63 characters at most. One that would be longer keeps the beginning of the subject,
    and a digest of issuer and subject instead of the rest. The '…' between them is in no subject
    and no issuer, so that nobody is called like somebody else.
    """
    name = f"{subject}@{issuer.removeprefix('https://')}"
    if len(name) <= NAME_LENGTH_MAX:
        return name
    digest = hashlib.sha256(f"{issuer} {subject}".encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{subject[: NAME_LENGTH_MAX - _DIGEST_LENGTH - 1]}…{digest}"


_: type[Authority] = IssuedTokens
