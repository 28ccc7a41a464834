"""TLS from files: the certificate that a server shows, and the authorities that a client trusts.

The files are looked at again when a connection is made, so that a new certificate needs no restart.
Connections that stand keep what they began with. New files that cannot be used are refused with a
line in the log, and the old ones stay in use. Keys are never encrypted files: nobody could be asked
for the password.
"""

import ipaddress
import logging
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

from libs.errors import ConfigurationError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The files are looked at no more often than this, however many connect.
_LOOK_SECONDS_MIN = 1.0

#: OpenSSL's verification errors (`openssl verify -help`, x509_vfy.h) → what to do about them.
_ADVICE = {
    9: "its validity has not begun; compare the clocks",
    10: "renew it",
    18: "name the CA file of its issuer",
    19: "name the CA file of its issuer",
    20: "name the CA file of its issuer",
    21: "name the CA file of its issuer",
    62: "use a name that it has, or let its issuer add this one",
    64: "use an address or name that it has, or let its issuer add this one",
}


class Reloaded(Generic[T]):
    """What is made of files, and made anew when they change. Thread-safe.

    Args:
        what: names it in the log and in errors.
        files: what it is made of.
        make: makes it.

    Raises:
        ConfigurationError: it cannot be made of the files as they are now.
    """

    def __init__(self, what: str, files: tuple[Path, ...], make: Callable[[], T]) -> None:
        self._what = what
        self._files = files
        self._make = make
        self._lock = threading.Lock()
        self._look_at = time.monotonic() + _LOOK_SECONDS_MIN
        #: Versions of the files: those in use, and the last that were refused.
        self._used = self._refused = _versions(files)
        try:
            self._value = make()
        except (OSError, ValueError) as err:
            raise ConfigurationError(f"{what} {self._names}: cannot be used: {err}") from err

    def current(self) -> T:
        """It, as the files are now; as they were before if they are broken now."""
        with self._lock:
            if time.monotonic() >= self._look_at:
                self._look()
                self._look_at = time.monotonic() + _LOOK_SECONDS_MIN
            return self._value

    def _look(self) -> None:
        found = _versions(self._files)  # before they are read: what changes meanwhile is seen later
        if found == self._used:
            return
        try:
            self._value = self._make()
        except (OSError, ValueError) as err:
            if found != self._refused:
                detail = f"{self._names}: {err}; what was read before stays in use"
                log.error(  # noqa: TRY400 -- foreseen, and the error's text says all
                    "changed files refused", extra={"what": self._what, "detail": detail}
                )
            self._refused = found
        else:
            self._used = found
            log.info("changed files in use", extra={"what": self._what, "files": self._names})

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self._files))


class ServerTls:
    """The certificate that this process shows to clients. Thread-safe.

    Args:
        certificate_file: certificate chain in PEM, its own first.
        key_file: its private key in PEM.
        minimum: least version of TLS.
        client_ca_file: authorities of clients in PEM; a client must show a certificate of theirs.
            None: clients show none.

    Raises:
        ConfigurationError: the files cannot be used.
    """

    def __init__(
        self,
        certificate_file: Path,
        key_file: Path,
        minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        client_ca_file: Path | None = None,
    ) -> None:
        def make() -> ssl.SSLContext:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = minimum
            context.load_cert_chain(certificate_file, key_file, _no_password)
            context.num_tickets = 0  # nobody resumes a session: clients keep their connections
            if client_ca_file is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(client_ca_file)
            _warn_of_end(certificate_file)
            return context

        files = (certificate_file, key_file, *([client_ca_file] if client_ca_file else []))
        self._context = Reloaded("TLS files", files, make)

    def current(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._context.current()

    def standing(self) -> ssl.SSLContext:
        """For a server that keeps one context: each handshake switches to the current one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        current = self.current()
        context.minimum_version = current.minimum_version

        def switch(handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            handshake.context = self.current()

        context.sni_callback = switch  # called for each handshake, whether it names a host or not
        return context


class ClientTls:
    """The authorities that this process trusts when it connects. Thread-safe.

    Args:
        ca_file: their certificates in PEM; the system's if None.
        minimum: least version of TLS.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(
        self, ca_file: Path | None, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    ) -> None:
        def make() -> ssl.SSLContext:
            context = ssl.create_default_context(cafile=ca_file)
            context.minimum_version = minimum
            return context

        files = () if ca_file is None else (ca_file,)
        self._context = Reloaded("CA file", files, make)

    def current(self) -> ssl.SSLContext:
        """For the next connection: the server's certificate and its name are verified."""
        return self._context.current()


def explain(error: ssl.SSLCertVerificationError) -> str:
    """Why a server's certificate is not accepted, and what to do."""
    advice = _ADVICE.get(error.verify_code, "see `openssl verify`")
    return f"the server's certificate is not trusted ({error.verify_message}); {advice}"


def is_loopback(host: str) -> bool:
    """Whether an address or name surely means this host; other names may lead anywhere."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _versions(files: tuple[Path, ...]) -> tuple[object, ...]:
    """What tells that a file was written or replaced, also behind a link."""
    found: list[object] = []
    for file in files:
        try:
            status = file.stat()
        except OSError as err:
            found.append(err.errno)
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _no_password() -> str:
    raise ValueError("the key is encrypted; expected one without a password")


def _warn_of_end(certificate_file: Path) -> None:
    from cryptography import x509  # noqa: PLC0415 -- the command, which serves nothing, starts faster

    certificate = x509.load_pem_x509_certificates(certificate_file.read_bytes())[0]
    end = certificate.not_valid_after_utc
    if end <= datetime.now(UTC):
        detail = f"{certificate_file}: expired at {end.isoformat()}; renew it"
        log.warning("TLS certificate has expired", extra={"detail": detail})
