"""Settings that services share: how to listen and log, how to reach Postgres, Kafka and S3.

A service's settings inherit `ServiceSettings` and hold the groups as fields:

    @dataclass(frozen=True, kw_only=True)
    class Settings(ServiceSettings):
        postgres: PostgresSettings
        kek: Secret
"""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from libs.runtime.settings import Secret
from libs.runtime.tls import ServerTls, is_loopback


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What every service has: a log, and an HTTP listener for its API, health and metrics."""

    #: Least severe level that is logged.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: Address and port of the HTTP listener; port 0 takes a free one.
    listen: str = "127.0.0.1:0"
    #: Certificate chain in PEM; with it every listener of the service speaks TLS only.
    tls_certificate_file: Path | None = None
    #: Private key of the certificate in PEM.
    tls_key_file: Path | None = None
    #: Where the service speaks to clients and other services without TLS: on loopback alone, or
    #: anywhere. Anywhere is for networks that encrypt, and for proxies on the same host.
    plaintext: Literal["loopback", "anywhere"] = "loopback"
    #: Requests that are worked on at the same time; more wait.
    request_thread_count_max: int = 32
    #: Longest request body that is read.
    request_body_size_bytes_max: int = 1_048_576
    #: Time that requests in flight get to finish when the process is asked to stop.
    stop_timeout_seconds: int = 10

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ValueError: certificate without key or key without certificate, an address beyond
                loopback without either, or no thread at all.
        """
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERTIFICATE_FILE and TLS_KEY_FILE must be set together")
        self._check_listen("LISTEN", self.listen)
        if self.request_thread_count_max == 0:
            raise ValueError("REQUEST_THREAD_COUNT_MAX must be 1 or more")

    def server_tls(self, minimum: ssl.TLSVersion) -> ServerTls | None:
        """What the listeners show to clients; None: they speak without TLS.

        Raises:
            ConfigurationError: the files cannot be used.
        """
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerTls(self.tls_certificate_file, self.tls_key_file, minimum)

    def may_speak_plainly(self, host: str) -> bool:
        """Whether the service may speak without TLS at an address, or to one."""
        return self.plaintext == "anywhere" or is_loopback(host)

    def _check_listen(self, name: str, address: str) -> None:
        """Refuse to listen without TLS where others could read along.

        Raises:
            ValueError: the address is beyond loopback, and there is no certificate.
        """
        host = address.rpartition(":")[0]
        if self.tls_certificate_file is None and host and not self.may_speak_plainly(host):
            raise ValueError(
                f"{name} {address!r} is beyond loopback and there is no certificate; expected "
                f"TLS_CERTIFICATE_FILE and TLS_KEY_FILE, or PLAINTEXT=anywhere where the network "
                f"itself encrypts"
            )

    def _check_url(self, name: str, url: str) -> None:
        """Refuse to send a token to another host without TLS.

        Raises:
            ValueError: the URL is http: beyond loopback.
        """
        parts = urlsplit(url)
        if parts.scheme == "http" and not self.may_speak_plainly(parts.hostname or ""):
            raise ValueError(
                f"{name} {url!r} is beyond loopback and without TLS; expected https:, or "
                f"PLAINTEXT=anywhere where the network itself encrypts"
            )


@dataclass(frozen=True, kw_only=True)
class PostgresSettings:
    """How to reach the catalog."""

    #: File with the libpq connection string or URL; it may hold a password.
    dsn: Secret
    #: Connections kept at most.
    pool_size_max: int = 8


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """How to reach the brokers."""

    #: Addresses of some brokers, host:port separated by commas.
    bootstrap: str
    #: PLAINTEXT only on loopback or inside an encrypted network.
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    #: How the user is proved with the SASL protocols.
    sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    #: User with the SASL protocols.
    sasl_username: str | None = None
    #: File with the user's password with the SASL protocols.
    sasl_password: Secret | None = None
    #: Certificate authorities in PEM that sign the brokers; the system's if not set.
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ValueError: a SASL protocol without user or password.
        """
        with_user = self.security_protocol.startswith("SASL")
        if with_user and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError(
                f"KAFKA_SECURITY_PROTOCOL {self.security_protocol} needs KAFKA_SASL_USERNAME and "
                f"KAFKA_SASL_PASSWORD_FILE"
            )


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """How to reach the object store."""

    #: URL of the S3 server, such as https://s3.example.net:9000.
    endpoint: str
    #: Bucket that holds the repository.
    bucket: str
    #: Region that requests are signed for.
    region: str = "us-east-1"
    #: File with the access key.
    access_key: Secret
    #: File with the secret key.
    secret_key: Secret
    #: Certificate authorities in PEM that sign the server; the system's if not set.
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Check the endpoint.

        Raises:
            ValueError: not the URL of a server.
        """
        _check_endpoint("S3_ENDPOINT", self.endpoint)


@dataclass(frozen=True, kw_only=True)
class SecondS3Settings:
    """How to reach the second object store, which gets a copy of everything; if there is one."""

    #: URL of the second store's S3 server; there is no second store if it is not set.
    endpoint: str | None = None
    #: Bucket of the second store.
    bucket: str | None = None
    #: Region that requests to it are signed for.
    region: str = "us-east-1"
    #: File with its access key.
    access_key: Secret | None = None
    #: File with its secret key.
    secret_key: Secret | None = None
    #: Certificate authorities in PEM that sign its server; the system's if not set.
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ValueError: some of it is missing, or the endpoint is not the URL of a server.
        """
        given = (self.endpoint, self.bucket, self.access_key, self.secret_key)
        if any(given) and not all(given):
            raise ValueError(
                "SECOND_S3_ENDPOINT, SECOND_S3_BUCKET, SECOND_S3_ACCESS_KEY_FILE and "
                "SECOND_S3_SECRET_KEY_FILE must be set together"
            )
        if self.endpoint is not None:
            _check_endpoint("SECOND_S3_ENDPOINT", self.endpoint)

    @property
    def store(self) -> S3Settings | None:
        """The second store, if there is one."""
        if not (self.endpoint and self.bucket and self.access_key and self.secret_key):
            return None
        return S3Settings(
            endpoint=self.endpoint,
            bucket=self.bucket,
            region=self.region,
            access_key=self.access_key,
            secret_key=self.secret_key,
            ca_file=self.ca_file,
        )


#: The default of services.
NO_SECOND_STORE = SecondS3Settings()


@dataclass(frozen=True, kw_only=True)
class OidcSettings:
    """The issuer (OIDC) whose tokens are accepted for people; if there is one."""

    #: URL of the issuer, exactly as its discovery document and its tokens have it. If it is not
    #: set, tokens of files and of the catalog are the only ones.
    issuer: str | None = None
    #: What a token must be for: its `aud` has this. It must be the id of no client of the issuer.
    audience: str | None = None
    #: Claim of a token whose values the mapping knows: a text, or a list of texts.
    claim: str = "groups"
    #: File with the mapping: tenant, roles and groups by value of the claim. Whoever has no value
    #: of it may do nothing.
    mapping_file: Path | None = None
    #: Certificate authorities in PEM that sign the issuer's servers; the system's if not set.
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            ValueError: some of it is missing, or the issuer is not the URL of one.
        """
        given = (self.issuer, self.audience, self.mapping_file)
        if any(given) and not all(given):
            raise ValueError("OIDC_ISSUER, OIDC_AUDIENCE and OIDC_MAPPING_FILE belong together")
        if self.issuer is not None:
            _check_issuer(self.issuer)


#: The default of services.
NO_ISSUER = OidcSettings()


def _check_issuer(issuer: str) -> None:
    url = urlsplit(issuer)
    safe = url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or ""))
    more = url.query or url.fragment or "@" in url.netloc
    if not safe or not url.hostname or more or not re.fullmatch("[!-~]+", issuer):
        raise ValueError(
            f"OIDC_ISSUER {issuer!r}: expected https://HOST[:PORT][/PATH] and nothing else; http: "
            f"is for loopback alone"
        )


def _check_endpoint(name: str, endpoint: str) -> None:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/"):
        raise ValueError(f"{name} {endpoint!r}: expected http://HOST:PORT or https://HOST:PORT")
