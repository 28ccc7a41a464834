"""An authority of this machine's own, and the certificates that it issues.

For the servers of `backcast dev up --tls` and for tests. A site takes those of its own authority,
such as cert-manager's.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

#: Clocks that are behind by so much accept a new certificate.
_SLACK = timedelta(hours=1)
_YEARS_10 = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its private key, both in PEM; the key must not be shown."""

    certificate: str
    key: str


class Authority:
    """Issues certificates.

    Args:
        own: its certificate and key.
    """

    def __init__(self, own: Certificate) -> None:
        self.own = own

    @classmethod
    def new(cls, name: str) -> Self:
        """A new authority, valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _named(name)
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = (
            _builder(subject, subject, key.public_key(), datetime.now(UTC) + _YEARS_10)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
        )
        return cls(_signed(builder, key, key))

    def issue(self, names: Sequence[str], until: datetime | None = None) -> Certificate:
        """A server's certificate.

        Args:
            names: host names, node names and addresses that clients may know the server by.
            until: end of its validity; in ten years if None.
        """
        issuer = x509.load_pem_x509_certificate(self.own.certificate.encode())
        issuing_key = serialization.load_pem_private_key(self.own.key.encode(), None)
        assert isinstance(issuing_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        end = until or datetime.now(UTC) + _YEARS_10
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing_key.public_key())
        builder = (
            _builder(_named(names[0]), issuer.subject, key.public_key(), end)
            .add_extension(x509.SubjectAlternativeName([*map(_as_name, names)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(identifier, critical=False)
        )
        return _signed(builder, issuing_key, key)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])])


def _as_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), end) - _SLACK)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder,
    issuing_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
) -> Certificate:
    encoding = serialization.Encoding.PEM
    return Certificate(
        builder.sign(issuing_key, hashes.SHA256()).public_bytes(encoding).decode(),
        key.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
