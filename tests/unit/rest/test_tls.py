"""REST with TLS: whom clients believe, new certificates, strangers, and where it must be."""

import dataclasses
import socket
import ssl
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi import FastAPI

from deploy.local.process import wait_until
from libs.errors import ConfigurationError, UnavailableError
from libs.rest.client import RestClient
from libs.rest.limits import ServerLimits
from libs.rest.server import create_app, serving
from libs.runtime import tls
from libs.runtime.groups import ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.settings import load
from tests.support.certificates import Site

SETTINGS = ServiceSettings(listen="127.0.0.1:0", stop_timeout_seconds=1)


@pytest.fixture
def app() -> FastAPI:
    made = create_app("try", SETTINGS, Health(), new_registry())
    made.get("/v1/x")(lambda: "x")
    return made


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def settings(site: Site) -> ServiceSettings:
    files = site.issue(["127.0.0.1", "restore.example"])
    return dataclasses.replace(
        SETTINGS, tls_certificate_file=files.certificate, tls_key_file=files.key
    )


def ask(url: str, site: Site, server_name: str | None = None) -> str:
    """GET once, by a connection of its own."""
    client = RestClient(url, "t", site.ca_file, server_name=server_name)
    answer: str = client.get("/v1/x")
    client._pool.close()
    return answer


def test_who_trusts_the_authority_is_answered(
    app: FastAPI, settings: ServiceSettings, site: Site
) -> None:
    with serving(app, settings) as url:
        assert url.startswith("https://")
        assert ask(url, site) == "x"
        assert ask(url, site, "restore.example") == "x"


@pytest.mark.parametrize("server_name", ["other.example", "localhost"])
def test_another_name_is_refused(
    app: FastAPI, settings: ServiceSettings, site: Site, server_name: str
) -> None:
    with (
        serving(app, settings) as url,
        pytest.raises(ConfigurationError, match=f"'{server_name}'.*; use a name that it has"),
    ):
        ask(url, site, server_name)


def test_another_address_is_refused(app: FastAPI, site: Site, settings: ServiceSettings) -> None:
    site.issue(["192.0.2.1"])
    with (
        serving(app, settings) as url,
        pytest.raises(ConfigurationError, match=r"IP address mismatch.*use an address or name"),
    ):
        ask(url, site)


def test_another_authority_is_refused(
    app: FastAPI, settings: ServiceSettings, tmp_path: Path
) -> None:
    with (
        serving(app, settings) as url,
        pytest.raises(ConfigurationError, match="name the CA file of its issuer"),
    ):
        ask(url, Site(tmp_path / "other"))


def test_an_expired_certificate_is_refused(
    app: FastAPI, settings: ServiceSettings, site: Site
) -> None:
    site.issue(["127.0.0.1"], until=datetime.now(UTC) - timedelta(minutes=1))
    with (
        serving(app, settings) as url,
        pytest.raises(ConfigurationError, match=r"has expired.*renew it"),
    ):
        ask(url, site)


def test_a_new_certificate_is_shown_without_a_restart(
    app: FastAPI, settings: ServiceSettings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LOOK_SECONDS_MIN", 0.0)
    with serving(app, settings) as url:
        standing = RestClient(url, "t", site.ca_file)
        assert standing.get("/v1/x") == "x"
        site.issue(["new.example"])
        assert ask(url, site, "new.example") == "x"
        assert standing.get("/v1/x") == "x"  # its connection stays
        standing._pool.close()
        assert settings.tls_key_file
        settings.tls_key_file.write_text("broken")
        assert ask(url, site, "new.example") == "x"


def test_files_that_cannot_be_used_are_a_configuration_error(
    app: FastAPI, settings: ServiceSettings
) -> None:
    assert settings.tls_certificate_file
    settings.tls_certificate_file.write_text("not a certificate")
    with pytest.raises(ConfigurationError, match="TLS files"), serving(app, settings):
        pass


def test_who_speaks_without_tls_gets_nothing(
    app: FastAPI, settings: ServiceSettings, site: Site
) -> None:
    with serving(app, settings) as url:
        with pytest.raises(UnavailableError):
            ask(url.replace("https:", "http:"), site)
        assert ask(url, site) == "x"


def test_a_server_without_tls_is_not_believed(app: FastAPI, site: Site) -> None:
    with serving(app, SETTINGS) as url, pytest.raises(UnavailableError, match="speak TLS"):
        ask(url.replace("http:", "https:"), site)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_a_client_that_ends_no_handshake_is_not_waited_for(
    app: FastAPI, settings: ServiceSettings, said: bytes
) -> None:
    limits = ServerLimits(head_seconds_max=0.5)
    with serving(app, settings, limits) as url:
        host, port = url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(said)
            assert client.recv(1) == b""


def test_half_handshakes_keep_nobody_out(
    app: FastAPI, settings: ServiceSettings, site: Site
) -> None:
    limits = ServerLimits(connection_count_max=8, head_seconds_max=60.0)
    with serving(app, settings, limits) as url, ExitStack() as crowd:
        host, port = url.removeprefix("https://").split(":")
        for _ in range(40):
            one = crowd.enter_context(socket.create_connection((host, int(port)), timeout=20))
            one.sendall(b"\x16\x03\x01\x02\x00\x01")

        def answered() -> bool:
            try:
                return ask(url, site) == "x"
            except UnavailableError:  # it had to make room itself
                return False

        assert wait_until(answered, 10)


BEYOND = ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "service:8080"]
HERE = ["127.0.0.1:0", "[::1]:0", "localhost:8080"]


@pytest.mark.parametrize("listen", BEYOND)
def test_a_listener_beyond_loopback_needs_a_certificate_or_a_word(
    listen: str, settings: ServiceSettings
) -> None:
    environ = {"BACKCAST_TRY_LISTEN": listen}
    with pytest.raises(ConfigurationError, match=r"beyond loopback.*PLAINTEXT=anywhere"):
        load(ServiceSettings, "try", environ)
    plain = load(ServiceSettings, "try", environ | {"BACKCAST_TRY_PLAINTEXT": "anywhere"})
    assert plain.server_tls(ssl.TLSVersion.TLSv1_3) is None
    files = {
        "BACKCAST_TRY_TLS_CERTIFICATE_FILE": str(settings.tls_certificate_file),
        "BACKCAST_TRY_TLS_KEY_FILE": str(settings.tls_key_file),
    }
    encrypted = load(ServiceSettings, "try", environ | files)
    assert encrypted.server_tls(ssl.TLSVersion.TLSv1_3)


@pytest.mark.parametrize("listen", HERE)
def test_a_listener_on_loopback_needs_none(listen: str) -> None:
    assert load(ServiceSettings, "try", {"BACKCAST_TRY_LISTEN": listen}).listen == listen
