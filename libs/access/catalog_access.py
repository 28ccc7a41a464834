"""What each service that has the catalog does about its callers, put together."""

import functools
from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from libs.access.accepted import AcceptedTokens
from libs.access.audit_log import AuditLog
from libs.access.token_file import TokenFile
from libs.catalogdb.pool import Catalog
from libs.rest.server import create_app
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.loops import Loop
from libs.runtime.settings import Secret


class CatalogAccess:
    """Accepted tokens, groups, and the audit log of one service.

    Args:
        catalog: the catalog, in the service's role.
        service: its name.
        tokens: its token file.
        group_of: which group of a tenant a parameter of its requests means.
    """

    def __init__(
        self,
        catalog: Catalog,
        service: str,
        tokens: Secret,
        group_of: Callable[[Catalog, str, str, str], str],
    ) -> None:
        self._service = service
        self._tokens = AcceptedTokens(TokenFile(tokens), catalog)
        self._auditor = AuditLog(catalog, service)
        self._group_of = functools.partial(group_of, catalog)

    def create_app(
        self, settings: ServiceSettings, health: Health, registry: CollectorRegistry
    ) -> FastAPI:
        """The service's application, to which it adds its routes."""
        return create_app(
            f"Backcast {self._service}",
            settings,
            health,
            registry,
            self._tokens,
            group_of=self._group_of,
            auditor=self._auditor,
        )

    def loop(self) -> Loop:
        """The loop that keeps the tokens up to date."""
        return self._tokens.loop()

    def close(self) -> None:
        """Wait until everything is recorded. No request may be in work any more."""
        self._auditor.close()
