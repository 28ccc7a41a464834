"""TLS files: used, replaced while a server runs, broken; and what a client says of a server."""

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.local.process import wait_until
from libs.errors import ConfigurationError
from libs.runtime import tls
from libs.runtime.tls import ClientTls, ServerTls, explain, is_loopback
from tests.support.certificates import Files, Site

NAME = "node-1"


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK_SECONDS_MIN", 0.0)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def files(site: Site) -> Files:
    return site.issue([NAME])


class Server:
    """Shakes hands with whoever connects, by the standing context or by the current one."""

    def __init__(self, shown: ServerTls, *, standing: bool) -> None:
        self._shown = shown
        self._standing = shown.standing() if standing else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.settimeout(10)
            try:
                context = self._standing or self._shown.current()
                with context.wrap_socket(peer, server_side=True) as encrypted:
                    encrypted.recv(1)
            except OSError:
                pass


@pytest.fixture(params=[True, False], ids=["standing", "current"])
def server(files: Files, request: pytest.FixtureRequest) -> Iterator[Server]:
    running = Server(ServerTls(files.certificate, files.key), standing=request.param)
    yield running
    running.close()


def serial_seen(server: Server, trusted: ClientTls, name: str = NAME) -> str:
    """The serial number of the certificate that a client is shown and accepts."""
    with (
        socket.create_connection(server.address, timeout=10) as connected,
        trusted.current().wrap_socket(connected, server_hostname=name) as encrypted,
    ):
        shown = encrypted.getpeercert()
        assert shown
        return str(shown["serialNumber"])


def refusal(server: Server, trusted: ClientTls, name: str = NAME) -> str:
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        serial_seen(server, trusted, name)
    return explain(caught.value)


def test_a_new_certificate_needs_no_restart(server: Server, site: Site) -> None:
    trusted = ClientTls(site.ca_file)
    before = serial_seen(server, trusted)
    assert serial_seen(server, trusted) == before
    site.issue([NAME])
    assert serial_seen(server, trusted) != before


@pytest.mark.parametrize("broken", ["certificate", "key", "other key", "no file"])
def test_a_broken_pair_is_refused_and_the_old_one_stays(
    server: Server, site: Site, files: Files, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trusted = ClientTls(site.ca_file)
    before = serial_seen(server, trusted)
    key = files.key.read_text()
    match broken:
        case "certificate":
            files.certificate.write_text("nonsense")
        case "key":
            files.key.write_text("nonsense")
        case "other key":
            files.key.write_text(site.issue([NAME], "other").key.read_text())
        case "no file":
            files.key.unlink()
    for _ in range(3):
        assert serial_seen(server, trusted) == before
    refused = [one for one in caplog.records if one.message == "changed files refused"]
    assert len(refused) == 1
    assert str(files.key) in vars(refused[0])["detail"]
    assert "PRIVATE" not in caplog.text
    site.issue([NAME])
    assert wait_until(lambda: serial_seen(server, trusted) != before, 5)
    assert key != files.key.read_text()


def test_a_new_authority_needs_no_restart(server: Server, site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(other.ca_file.read_text())
    trusted = ClientTls(bundle)
    assert "name the CA file" in refusal(server, trusted)
    bundle.write_text(other.ca_file.read_text() + site.ca_file.read_text())
    assert serial_seen(server, trusted)
    bundle.write_text("nonsense")
    assert serial_seen(server, trusted)


def test_a_name_that_the_certificate_lacks_is_refused(server: Server, site: Site) -> None:
    said = refusal(server, ClientTls(site.ca_file), "node-2")
    assert "'node-2'" in said
    assert "use a name that it has" in said


def test_an_expired_certificate_is_refused(
    server: Server, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.issue([NAME], until=datetime.now(UTC) - timedelta(hours=1))
    said = refusal(server, ClientTls(site.ca_file))
    assert "expired" in said
    assert "renew it" in said
    assert "TLS certificate has expired" in caplog.messages


def test_versions_before_the_least_one_are_refused(server: Server, site: Site) -> None:
    trusted = ClientTls(site.ca_file)
    trusted.current().maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r"PROTOCOL|alert|EOF"):
        serial_seen(server, trusted)


@pytest.mark.parametrize("broken", ["certificate", "key", "missing", "encrypted"])
def test_files_that_cannot_be_used_at_the_start_are_a_configuration_error(
    files: Files, broken: str
) -> None:
    match broken:
        case "certificate":
            files.certificate.write_text("nonsense")
        case "key":
            files.key.write_text("nonsense")
        case "missing":
            files.key.unlink()
        case "encrypted":
            head = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF"
            files.key.write_text(
                f"-----BEGIN EC PRIVATE KEY-----\n{head}\n\nAAAA\n-----END EC PRIVATE KEY-----\n"
            )
    with pytest.raises(ConfigurationError, match=r"TLS files .*server\.key"):
        ServerTls(files.certificate, files.key)
    with pytest.raises(ConfigurationError, match=r"CA file .*nowhere"):
        ClientTls(Path("/nowhere"))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.example.net", False),
        ("agent", False),
    ],
)
def test_which_hosts_are_surely_this_one(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
