"""What is known of an issuer's tokens without verifying them, which needs more to be imported."""

from libs.rest.auth import TokenEntry


class IssuedEntry(TokenEntry, frozen=True):
    """The entry of a token of the issuer, with what it was derived from."""

    #: The values of its claim.
    values: tuple[str, ...] = ()
    #: Thumbprint of the key that signed it.
    key: str = ""


def looks_issued(token: str) -> bool:
    """Whether a token is written as a JWT is: its header is a JSON object, which begins so."""
    return token.startswith("eyJ") and token.count(".") == 2
