"""What the settings of a filter refuse."""

from pathlib import Path

import pytest

from tests.support.filters import filter_settings

FILES = {"tls_certificate_file": Path("/c.pem"), "tls_key_file": Path("/k.pem")}
CA = {"nbd_client_ca_file": Path("/ca.pem")}


def refused(expected: str, **more: object) -> None:
    with pytest.raises(ValueError, match=expected):
        filter_settings(Path("/f"), Path("/f/image"), **more)


def test_authorities_of_clients_are_refused_where_no_tls_is_spoken() -> None:
    refused("is a Unix socket, where no TLS is spoken", **FILES, **CA)
    refused("needs TLS_CERTIFICATE_FILE", nbd_listen="127.0.0.1:10809", **CA)


def test_an_address_of_the_network_needs_to_know_its_clients() -> None:
    beyond = {"nbd_listen": "192.0.2.7:10809"}
    refused("there is no certificate", **beyond)
    refused("anybody who reaches it could write the volume", **beyond, **FILES)
    filter_settings(Path("/f"), Path("/f/image"), **beyond, **FILES, **CA)
    filter_settings(Path("/f"), Path("/f/image"), **beyond, plaintext="anywhere")


def test_a_unix_socket_is_without_tls_also_if_metrics_have_a_certificate() -> None:
    assert filter_settings(Path("/f"), Path("/f/image"), **FILES).nbd_tls() is None
