"""A volume filter that speaks TLS, used by programs that others wrote."""

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from libs.errors import SourceError, UnavailableError
from libs.nbd.connection.connection import NbdConnection
from libs.nbd.connection.dialling import NbdAddress
from libs.runtime.tls import ClientTls
from services.change_capture.filter import connection
from services.change_capture.filter.process import VolumeFilter
from tests.contract.test_nbd_programs import needs, read, run
from tests.support.certificates import Files, Site
from tests.support.filters import filter_settings, running_filter

SIZE = 16 << 20


class Place(NamedTuple):
    """A filter that speaks TLS, and a folder of certificates as QEMU and libnbd read it."""

    filter: VolumeFilter
    port: int
    credentials: Path
    image: Path
    site: Site

    @property
    def uri(self) -> str:
        return f"nbds://localhost:{self.port}/?tls-certificates={self.credentials}"

    def qemu(self, credentials: Path | None = None) -> list[str]:
        folder = credentials or self.credentials
        return [
            *("--object", f"tls-creds-x509,id=tls,endpoint=client,dir={folder}"),
            *("--image-opts", f"driver=nbd,host=127.0.0.1,port={self.port},tls-creds=tls"),
        ]


def written(folder: Path, site: Site, files: Files) -> Path:
    folder.mkdir()
    (folder / "ca-cert.pem").write_bytes(site.ca_file.read_bytes())
    (folder / "client-cert.pem").write_bytes(files.certificate.read_bytes())
    (folder / "client-key.pem").write_bytes(files.key.read_bytes())
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(SIZE)
    site = Site(tmp_path / "authority")
    credentials = written(tmp_path / "guest", site, site.issue(["guest"], "guest"))
    files = site.issue(["localhost", "127.0.0.1"])
    settings = filter_settings(
        tmp_path,
        image,
        nbd_listen="127.0.0.1:0",
        tls_certificate_file=files.certificate,
        tls_key_file=files.key,
        nbd_client_ca_file=site.ca_file,
    )
    with running_filter(settings) as one:
        port = one.clients.listeners[0].getsockname()[1]
        yield Place(one, port, credentials, image, site)


def test_qemu_and_libnbd_use_the_volume_by_mutual_tls(place: Place, tmp_path: Path) -> None:
    needs("qemu-img", "qemu-io", "nbdinfo", "nbdcopy")
    other = tmp_path / "other"
    other.write_bytes(bytes(range(256)) * (32 << 10))
    (about,) = json.loads(run("nbdinfo", "--json", place.uri))["exports"]
    assert about["export-size"] == SIZE
    assert "volume" in run("nbdinfo", "--list", place.uri)
    run("nbdcopy", other, place.uri)
    assert place.image.read_bytes()[: 8 << 20] == other.read_bytes()
    said = run(
        *("qemu-io", *place.qemu()),
        *("-c", "write -P 7 9M 3M", "-c", "read -P 7 9M 3M", "-c", "write -z 1M 64k"),
        *("-c", "aio_write -P 8 13M 64k", "-c", "aio_write -P 9 14M 100k", "-c", "aio_flush"),
        *("-c", "read -P 9 14M 100k", "-c", "read -P 0 1M 64k", "-c", "flush"),
    )
    assert "failed" not in said
    run("nbdcopy", place.uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == place.image.read_bytes()
    assert 144 in place.filter.volume.marks


def test_a_client_without_tls_is_told_that_it_is_required(place: Place) -> None:
    needs("nbdinfo", "qemu-img")
    plain = f"nbd://127.0.0.1:{place.port}"
    for command in (["nbdinfo", plain], ["nbdinfo", "--list", plain]):
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert said.returncode != 0
    said = subprocess.run(
        ["qemu-img", "info", plain], capture_output=True, text=True, check=False, timeout=60
    )
    assert said.returncode != 0
    assert "this server requires TLS" in said.stderr
    with pytest.raises(SourceError, match="this server requires TLS"):
        NbdConnection(NbdAddress(f"127.0.0.1:{place.port}"), "")


def test_a_client_whom_the_authority_does_not_know_is_refused(place: Place, tmp_path: Path) -> None:
    """It has no certificate, or that of another authority; and it is nothing to the others."""
    needs("qemu-io", "nbdinfo")
    stranger = Site(tmp_path / "elsewhere").issue(["guest"], "guest")
    false = written(tmp_path / "false", place.site, stranger)
    read_first = ["-c", "read 0 4k"]
    tls = ClientTls(place.site.ca_file)
    with pytest.raises(UnavailableError):
        NbdConnection(NbdAddress(f"127.0.0.1:{place.port}", tls), "")
    done = subprocess.run(
        ["qemu-io", *place.qemu(false), *read_first],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    said = run("qemu-io", *place.qemu(), *read_first)
    assert "failed" not in said
    assert next(place.filter.volume.marks.runs(), None) is None


def test_our_client_shows_its_certificate(place: Place) -> None:
    """Bytes that come before TLS is on count for nothing, and the data is longer than a record."""

    class Shown(ClientTls):
        def current(self) -> ssl.SSLContext:
            context = super().current()
            folder = place.credentials
            context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
            return context

    where = NbdAddress(f"127.0.0.1:{place.port}", Shown(place.site.ca_file))
    content = bytes(range(251)) * 8000
    with NbdConnection(where, "volume") as guest:
        guest.write(70_000, content)
        guest.flush()
        assert read(guest, 70_000, len(content)) == content


def test_what_comes_after_starttls_and_before_tls_ends_the_connection(place: Place) -> None:
    """Whoever sits between could have added it."""
    with socket.create_connection(("127.0.0.1", place.port)) as plain:
        plain.settimeout(30)
        assert plain.recv(18, socket.MSG_WAITALL)[:8] == b"NBDMAGIC"
        start = b"IHAVEOPT" + (5).to_bytes(4, "big") + bytes(4)
        plain.sendall(
            (3).to_bytes(4, "big") + start + b"IHAVEOPT" + (3).to_bytes(4, "big") + bytes(4)
        )
        assert plain.recv(4096) == b""


def test_a_client_that_does_not_finish_its_handshake_loses_its_place(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and within TLS; without that, a few silent ones would keep a guest out."""
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS_MAX", 0.5)
    for said in (b"", (3).to_bytes(4, "big") + b"IHAVEOPT" + (5).to_bytes(4, "big") + bytes(4)):
        with socket.create_connection(("127.0.0.1", place.port)) as silent:
            silent.settimeout(60)
            silent.sendall(said)
            while silent.recv(4096):
                pass
