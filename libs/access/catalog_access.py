"""What each service that has the catalog does about its callers, put together."""

import functools
from collections.abc import Callable
from typing import Protocol

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from libs.access.accepted import AcceptedTokens
from libs.access.audit_log import AuditLog
from libs.access.token_file import TokenFile
from libs.catalogdb.pool import Catalog
from libs.rest.auth import Authority
from libs.rest.server import create_app
from libs.runtime.groups import OidcSettings, ServiceSettings
from libs.runtime.health import Health
from libs.runtime.loops import Loop
from libs.runtime.settings import Secret


class AccessSettings(Protocol):
    """The part of a service's settings that says whose tokens it accepts."""

    @property
    def tokens(self) -> Secret:
        """Its token file."""

    @property
    def oidc(self) -> OidcSettings:
        """The issuer of tokens for people, if there is one."""


class CatalogAccess:
    """Accepted tokens, groups, and the audit log of one service.

    Args:
        catalog: the catalog, in the service's role.
        service: its name.
        settings: whose tokens it accepts.
        registry: gets the service's metrics.
        group_of: which group of a tenant a parameter of its requests means.
    """

    def __init__(
        self,
        catalog: Catalog,
        service: str,
        settings: AccessSettings,
        registry: CollectorRegistry,
        group_of: Callable[[Catalog, str, str, str], str],
    ) -> None:
        self._service = service
        self._registry = registry
        issued, issuer_loops = _issued_tokens(settings.oidc, registry)
        self._tokens = AcceptedTokens(TokenFile(settings.tokens), catalog, issued)
        self._loops = [self._tokens.loop(), *issuer_loops]
        self._auditor = AuditLog(catalog, service)
        self._group_of = functools.partial(group_of, catalog)

    def create_app(self, settings: ServiceSettings, health: Health) -> FastAPI:
        """The service's application, to which it adds its routes."""
        return create_app(
            f"Backcast {self._service}",
            settings,
            health,
            self._registry,
            self._tokens,
            group_of=self._group_of,
            auditor=self._auditor,
        )

    def loops(self) -> list[Loop]:
        """The loops that keep the tokens, and the keys of the issuer, up to date."""
        return self._loops

    def close(self) -> None:
        """Wait until everything is recorded. No request may be in work any more."""
        self._auditor.close()


def _issued_tokens(
    settings: OidcSettings, registry: CollectorRegistry
) -> tuple[Authority | None, list[Loop]]:
    """The tokens of the issuer, if there is one, and the loop that keeps its keys up to date."""
    if settings.issuer is None:
        return None, []
    from libs.access.oidc.issued import IssuedTokens  # noqa: PLC0415 -- 0.25 s of CPU: signatures

    issued = IssuedTokens.of(settings, registry)
    return issued, [issued.loop()] if issued else []
