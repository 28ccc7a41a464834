"""Addresses that an agent may announce, and what becomes of a name that means another one later."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import pytest
from fastapi.responses import RedirectResponse

from libs.errors import BadInputError, UnavailableError
from libs.rest.client import RestClient
from libs.rest.connections import Timeouts
from libs.rest.server import create_app, serving
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from services.change_capture.coordinator.nodes.addresses import AgentNetworks

ANYWHERE = AgentNetworks()


@pytest.mark.parametrize(
    "url",
    [
        "http://10.1.2.3:8080",
        "https://192.168.7.1",
        "http://203.0.113.9:80/",
        "http://[fd12:3456::9]:8080",
        "http://[2001:db8:1::9]",
    ],
)
def test_an_agent_may_be_at_a_unicast_address(url: str) -> None:
    ANYWHERE.require_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://10.1.2.3",
        "gopher://10.1.2.3:70",
        "//10.1.2.3",
        "10.1.2.3:8080",
        "",
        "http://",
        "http://user:secret@10.1.2.3",
        "http://secret@10.1.2.3",
        "http://10.1.2.3/internal",
        "http://10.1.2.3?query",
        "http://10.1.2.3/?query",
        "http://10.1.2.3#fragment",
        "http://10.1.2.3:99999",
        "http://10.1.2.3:port",
        "http://[10.1.2.3",
        "http://10.1.2.3\n",
        " http://10.1.2.3",
    ],
)
def test_a_url_that_is_no_agents_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInputError, match=r"expected http://HOST\[:PORT\]") as refused:
        ANYWHERE.require_url(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.9.10", "loopback"),
        ("localhost", "loopback"),
        ("2130706433", "loopback"),
        ("0x7f.1", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[::127.0.0.1]", "loopback"),
        ("[64:ff9b::7f00:1]", "loopback"),
        ("[2002:7f00:1::]", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("[::]", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("[::ffff:169.254.169.254]", "link-local"),
        ("[fe80::1]", "link-local"),
        ("224.0.0.1", "multicast"),
        ("[ff02::1]", "multicast"),
        ("255.255.255.255", "reserved"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("[fd00:ec2::254]", "metadata"),
    ],
)
def test_addresses_that_no_agent_has_are_refused(host: str, kind: str) -> None:
    with pytest.raises(BadInputError, match=kind):
        ANYWHERE.require_url(f"http://{host}:8080")
    with pytest.raises(BadInputError, match=kind):
        ANYWHERE.require_host_port(f"{host}:8081")


@pytest.mark.parametrize("address", ["10.1.2.3", "10.1.2.3:", ":8081", "10.1.2.3:x", "a:70000"])
def test_a_span_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(BadInputError, match="expected HOST:PORT"):
        ANYWHERE.require_host_port(address)


def test_named_networks_are_all_that_is_allowed() -> None:
    networks = AgentNetworks(["127.0.0.0/8", "10.2.0.0/16"])
    networks.require_url("http://127.0.0.1:1")
    networks.require_host_port("10.2.3.4:1")
    for host in ("10.3.0.1", "[::1]", "169.254.169.254"):
        with pytest.raises(BadInputError, match="outside of the networks"):
            networks.require_url(f"http://{host}")
    with pytest.raises(ValueError, match="network"):
        AgentNetworks(["ten"])


def test_a_name_that_does_not_resolve_may_do_so_later() -> None:
    with pytest.raises(UnavailableError, match="does not resolve"):
        ANYWHERE.require_url("http://no-such-host.invalid:1")


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the name agent.test mean another address from now on, as who owns a name can."""
    real = socket.getaddrinfo

    def rename(address: str) -> None:
        def resolve(host: str, *rest: object, **named: object) -> object:
            return real(address if host == "agent.test" else host, *rest, **named)  # type: ignore[arg-type]  # passed on

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

    return rename


def test_a_name_that_means_another_address_later_is_sent_nothing(
    renamed: Callable[[str], None],
) -> None:
    settings = ServiceSettings()
    app = create_app("victim", settings, Health(), new_registry())
    seen: list[str] = []

    @app.get("/v1/node")
    def node() -> None:
        seen.append("asked")

    renamed("10.1.2.3")
    with serving(app, settings) as url:
        port = url.rpartition(":")[2]
        ANYWHERE.require_url(f"http://agent.test:{port}")
        renamed("127.0.0.1")
        with pytest.raises(UnavailableError, match="loopback; nothing was sent"):
            RestClient(f"http://agent.test:{port}", "t", admit=ANYWHERE.admit).get("/v1/node")
    assert seen == []


def test_an_answer_without_end_is_none_and_a_redirect_is_not_followed() -> None:
    settings = ServiceSettings()
    app = create_app("rogue", settings, Health(), new_registry())
    seen: list[str] = []

    @app.get("/long")
    def long() -> str:
        return "x" * (2 << 20)

    @app.get("/moved")
    def moved() -> RedirectResponse:
        return RedirectResponse("/target")

    @app.get("/target")
    def target() -> str:
        seen.append("asked")
        return "secret"

    with serving(app, settings) as url:
        client = RestClient(url, "t", answer_size_bytes_max=1 << 20)
        with pytest.raises(UnavailableError, match="IncompleteRead"):
            client.get("/long")
        assert client.get("/moved") is None
    assert seen == []


def test_an_answer_that_drips_comes_to_an_end() -> None:
    def drip(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not peer.recv(1 << 16):  # the request; then one byte whenever there is time
                pass
            while True:
                peer.sendall(b"x")
                dripping.wait(0.01)

    dripping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        timeouts = Timeouts(read_seconds=5.0, total_seconds=0.3)
        begun = time.monotonic()
        with pytest.raises(UnavailableError):
            RestClient(url, "t", timeouts=timeouts).get("/v1/node")
        assert time.monotonic() - begun < 3
    dripping.set()
    thread.join(5)
    assert not thread.is_alive()
