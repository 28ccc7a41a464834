"""An issuer of tokens for people (OIDC): it signs, and serves its documents over loopback.

Tokens are put together by hand from their parts, so that a test can make wrong ones. Signatures are
those of `cryptography`, not of the library that the services verify with.
"""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

AUDIENCE = "https://backcast.example.org"
#: Below the server's address: issuers have paths.
PATH = "/realms/test"


def b64(raw: bytes) -> str:
    """As JWTs write bytes."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class SigningKey:
    """A key of the issuer.

    Args:
        kid: its name.
        algorithm: what it signs by, and the kind of key that is made.
        size_bits: of an RSA key.
    """

    def __init__(self, kid: str, algorithm: str = "ES256", size_bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.key: PrivateKey
        if algorithm in ("RS256", "PS256"):
            self.key = rsa.generate_private_key(65537, size_bits)
        elif algorithm == "ES256":
            self.key = ec.generate_private_key(ec.SECP256R1())
        else:
            self.key = ed25519.Ed25519PrivateKey.generate()

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as the issuer gives it."""
        about: dict[str, Any] = {"kid": self.kid, "use": "sig"}
        if isinstance(self.key, rsa.RSAPrivateKey):
            public = self.key.public_key().public_numbers()
            n, e = (one.to_bytes((one.bit_length() + 7) // 8) for one in (public.n, public.e))
            return about | {"kty": "RSA", "n": b64(n), "e": b64(e)}
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            point = self.key.public_key().public_numbers()
            x, y = point.x.to_bytes(32), point.y.to_bytes(32)
            return about | {"kty": "EC", "crv": "P-256", "x": b64(x), "y": b64(y)}
        raw = self.key.public_key().public_bytes_raw()
        return about | {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}

    @property
    def pem(self) -> bytes:
        """The public key as anybody has it."""
        return self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def signature(self, signed: bytes) -> bytes:
        """The signature of some bytes, as its algorithm writes it."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
            way = padding.PKCS1v15() if self.algorithm == "RS256" else pss
            return self.key.sign(signed, way, hashes.SHA256())
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32) + s.to_bytes(32)
        return self.key.sign(signed)

    def token(self, claims: Mapping[str, Any], **header: Any) -> str:
        """A token with some claims; what is None in the header is left out."""
        whole = {"alg": self.algorithm, "kid": self.kid, "typ": "at+jwt", **header}
        head = {name: value for name, value in whole.items() if value is not None}
        signed = unsigned(head, claims)
        return f"{signed}.{b64(self.signature(signed.encode()))}"


def unsigned(header: Mapping[str, Any], claims: Any) -> str:
    """The part of a token that is signed."""
    return ".".join(b64(json.dumps(one).encode()) for one in (header, claims))


def hmac_token(secret: bytes, claims: Mapping[str, Any], kid: str) -> str:
    """A token that is signed by HMAC with what everybody knows."""
    signed = unsigned({"alg": "HS256", "kid": kid, "typ": "at+jwt"}, claims)
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def claims_of(issuer: str, now: float, **more: Any) -> dict[str, Any]:
    """The claims of a good token; what is None is left out."""
    whole = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now - 10,
        "exp": now + 290,
        "groups": ["readers"],
        **more,
    }
    return {name: value for name, value in whole.items() if value is not None}


class Issuer:
    """A running issuer. What it answers can be changed at any time.

    Args:
        url: of its server.
    """

    def __init__(self, url: str) -> None:
        self.url = url + PATH
        self.keys: list[SigningKey] = []
        #: By path: what is answered instead of its document.
        self.instead: dict[str, bytes] = {}
        #: It sends its documents in pieces, whose length it does not say before.
        self.in_pieces = False
        #: It answers 503 to everybody.
        self.down = False
        #: Paths that were asked for.
        self.asked: list[str] = []

    def answer(self, path: str) -> bytes | None:
        """The document of a path; None: there is none now."""
        self.asked.append(path)
        discovery = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        documents = {
            f"{PATH}/.well-known/openid-configuration": json.dumps(discovery).encode(),
            f"{PATH}/keys": json.dumps({"keys": [one.jwk for one in self.keys]}).encode(),
        }
        return None if self.down else (documents | self.instead).get(path)


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """An issuer on a free port of this machine, without keys."""
    issuer: Issuer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            document = issuer.answer(self.path)
            self.send_response(503 if document is None else 200)
            if issuer.in_pieces and document:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in (document[:10], document[10:]):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
                return
            self.send_header("Content-Length", str(len(document or b"")))
            self.end_headers()
            self.wfile.write(document or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its base's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
