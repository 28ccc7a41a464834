"""Which services the command talks to, and for whom.

`BACKCAST_URL` names the restore service; the others are found through it. Without the variable
they are those that ``backcast dev up`` started in `BACKCAST_HOME`. `BACKCAST_CA_FILE` names the
authorities that sign them, if the system does not know these.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from libs.errors import ConfigurationError
from libs.ids import check_name
from services.cli.output import Output
from services.cli.streams import tell_line

if TYPE_CHECKING:  # imported late below: it brings urllib3, which ``--help`` need not wait for
    from libs.rest.client import RestClient
    from services.cli.waits import Waits

_TENANT = "default"


class Services:
    """The public services, as one tenant's command sees them. Thread-safe.

    Args:
        url: of the restore service.
        token: of the caller.
        tenant: whose requests are made.
        ca_file: authorities that sign the services and the store; the system's if None.
        links: URLs of the other services; None: the restore service says them.
        tell: shows a line to people.

    Raises:
        BadInputError: the tenant's name is none.
    """

    def __init__(  # noqa: PLR0913 -- where a command's services are, and for whom
        self,
        url: str,
        token: str,
        tenant: str,
        ca_file: Path | None = None,
        links: Mapping[str, str] | None = None,
        tell: Callable[[str], object] = tell_line,
    ) -> None:
        self.tenant = check_name("tenant", tenant)
        self._tell = tell
        self._token = token
        #: Authorities that sign the services and the store; the system's if None.
        self.ca_file = ca_file
        self._known_links = links
        self.restore = self._client(url)

    @cached_property
    def coordinator(self) -> "RestClient":
        """The coordinator, where volumes are added and snapshots taken.

        Raises:
            UnavailableError: the restore service does not answer.
            UnauthenticatedError: it does not know the token.
        """
        return self._client(self._links["coordinator"])

    @cached_property
    def catalog(self) -> "RestClient":
        """The catalog service, where snapshots expire, are held and verified. Errors as above."""
        return self._client(self._links["catalog"])

    @cached_property
    def _links(self) -> Mapping[str, str]:
        if self._known_links is not None:
            return self._known_links
        links: Mapping[str, str] = self.restore.get("/v1")
        return links

    def path(self, below: str) -> str:
        """The full path of what lies ``below`` the tenant's."""
        return f"/v1/tenants/{quote(self.tenant)}{below}"

    def get(self, below: str, query: Mapping[str, object] | None = None) -> Any:
        """GET a document of the tenant from the restore service."""
        return self.restore.get(self.path(below), query)

    @cached_property
    def waits(self) -> "Waits":
        """Tells people whom the command waits for."""
        from services.cli.waits import Waits  # noqa: PLC0415 -- see above

        return Waits(self._tell)

    def _client(self, url: str) -> "RestClient":
        from services.cli.waits import WaitingClient  # noqa: PLC0415 -- see above

        return WaitingClient(url, self._token, self.ca_file, self.waits)


def connect(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Services:
    """The services that arguments and environment name; no request is made yet.

    Raises:
        ConfigurationError: a URL without a token, or neither and nothing was started here.
        BadInputError: the tenant's name is none.
    """
    tenant = args.tenant or environ.get("BACKCAST_TENANT") or _TENANT
    url, token = environ.get("BACKCAST_URL"), environ.get("BACKCAST_TOKEN")
    ca_file = environ.get("BACKCAST_CA_FILE")
    tell = Output(as_json=args.json).note
    if url and token:
        return Services(url, token, tenant, Path(ca_file) if ca_file else None, tell=tell)
    if url:
        raise ConfigurationError(f"BACKCAST_TOKEN is not set, but {url} asks for a token")
    from deploy.local.home import BackcastHome  # noqa: PLC0415 -- needless against a cluster

    home = BackcastHome.from_environment(environ)
    if not home.exists:
        raise ConfigurationError(
            f"BACKCAST_URL is not set and nothing was started in {home.folder}: "
            f"run `backcast dev up`, or set BACKCAST_URL and BACKCAST_TOKEN"
        )
    links = {name: home.service_url(name) for name in ("coordinator", "catalog")}
    return Services(home.url, token or home.secret("token"), tenant, home.ca_file, links, tell)
