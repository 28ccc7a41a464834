"""Which addresses an agent may have.

Whatever announces itself makes the coordinator send requests to an address of its choice, and
chunkers dial one. So an address must be one at which an agent can be: not the coordinator's own
host, not what only a link's neighbours or a cloud's machines are to reach, and no URL that says
more than where to connect. A name is judged by everything that it resolves to, and once more by the
address of each connection (`AgentNetworks.admit`), because a name may mean something else later.
"""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from libs.errors import BadInputError, UnavailableError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_EXPECTED_URL = "expected http://HOST[:PORT] or https://HOST[:PORT] and nothing else"
_EXPECTED_HOST_PORT = "expected HOST:PORT"
_PORT_MAX = 65_535
#: Where clouds tell machines their credentials, as far as no kind of address says so.
_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"))
)
#: IPv6 addresses in which the last 32 bits are an IPv4 address that is reached by them.
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


class AgentNetworks:
    """Where agents may be.

    Args:
        networks: in CIDR notation, such as 10.2.0.0/16; nothing else is allowed then. None: every
            unicast address that is not one of this host, of the link, or of a cloud's metadata.

    Raises:
        ValueError: one of them is no network.
    """

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def require_url(self, url: str) -> None:
        """Refuse a base URL at which no agent may be asked.

        Raises:
            BadInputError: it is no http or https URL of a host alone, or no agent may be there.
            UnavailableError: its host does not resolve now.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise BadInputError(f"rpc_url: {_EXPECTED_URL}") from None
        plain = f"{parts.scheme}://{parts.netloc}" == url.rstrip("/")
        # The text is not repeated: it may hold somebody's password.
        if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or not plain:
            raise BadInputError(f"rpc_url: {_EXPECTED_URL}")
        self._require_host("rpc_url", host, port)

    def require_host_port(self, address: str) -> None:
        """Refuse a span address that chunkers must not dial. Errors as above."""
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdecimal() or int(port) > _PORT_MAX:
            raise BadInputError(f"span_address: {_EXPECTED_HOST_PORT}")
        self._require_host("span_address", host.removeprefix("[").removesuffix("]"), int(port))

    def admit(self, address: str) -> None:
        """Refuse a connection to an IP address.

        Raises:
            UnavailableError: no agent may be there.
        """
        reason = self._reason_against(address)
        if reason:
            raise UnavailableError(
                f"agent: its name leads to an address {reason}; nothing was sent"
            )

    def _require_host(self, what: str, host: str, port: int | None) -> None:
        if port == 0:
            raise BadInputError(f"{what}: port 0 is none that can be reached")
        for address in _resolved(what, host):
            reason = self._reason_against(address)
            if reason:
                raise BadInputError(
                    f"{what}: {host} is an address {reason}; announce one that others can reach, "
                    f"or name its network in BACKCAST_COORDINATOR_AGENT_NETWORKS"
                )

    def _reason_against(self, text: str) -> str | None:
        address = _embedded(ipaddress.ip_address(text))
        if self._networks:
            if any(address in network for network in self._networks):
                return None
            return "outside of the networks of agents"
        if address in _METADATA:
            return "of a cloud's metadata"
        for kind in ("loopback", "link_local", "multicast", "unspecified", "reserved"):
            if getattr(address, f"is_{kind}"):
                return f"that is {kind.replace('_', '-')}"
        return None


def _resolved(what: str, host: str) -> Iterator[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError) as err:
        raise UnavailableError(f"{what}: the name {host[:255]!r} does not resolve here") from err
    yield from sorted({str(one[4][0]) for one in found})


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address.sixtofour:
            return address.sixtofour
        if address in _TRANSLATED or (int(address) >> 32 == 0 and int(address) > 1):
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
