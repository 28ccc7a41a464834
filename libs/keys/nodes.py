"""What an agent and the coordinator show each other: credentials of nodes, and invitations to them.

The coordinator alone has the *node key*. Everything else is a MAC (HMAC-SHA256) under it, so the
coordinator keeps no secret of a node, and its catalog has none:

    secret of a credential   MAC(node key, "credential", node, credential id)
    token of the agent       node~credential id~MAC(secret, "announce")
    token of the coordinator node~credential id~MAC(secret, "order")
    invitation               invitation id~MAC(node key, "invitation", invitation id)

So what the coordinator shows to one node is good at no other node, and neither token can be turned
into the other one without the secret. Which credential of a node counts, and whether an invitation
is still good, the catalog says (`libs.catalogdb.nodes`). Only Python's own modules are used,
because `deploy.compose.credentials` makes credentials on machines that have nothing else.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from uuid import UUID

from libs.errors import ConfigurationError
from libs.ids import NodeIdentity, check_name

#: Characters of the node key at least; 32 random bytes in hexadecimal have 64.
_KEY_LENGTH_MIN = 32
#: Stands between the parts of a token, and in no name.
_BETWEEN = "~"


@dataclass(frozen=True, slots=True)
class NodeCredential:
    """The secret of one node, as its agent keeps it."""

    node: str
    credential: UUID
    secret: bytes = field(repr=False)

    @staticmethod
    def parse(text: str) -> "NodeCredential":
        """Read what `text` wrote.

        Raises:
            ConfigurationError: it is no credential. The text is not repeated.
        """
        try:
            node, credential, secret = text.strip().split(_BETWEEN)
            read = NodeCredential(node, UUID(hex=credential), bytes.fromhex(secret))
        except ValueError:
            read = None
        if read is None or len(read.secret) != hashlib.sha256().digest_size:
            raise ConfigurationError(
                "credential of a node: expected NODE~ID~SECRET, got another text"
            )
        return read

    @property
    def text(self) -> str:
        """One line, which is a secret."""
        return _joined(self.node, self.credential, self.secret)

    @property
    def announce_token(self) -> str:
        """What the agent shows to the coordinator."""
        return _joined(self.node, self.credential, _mac(self.secret, "announce"))

    @property
    def order_token(self) -> str:
        """What the coordinator shows to this node's agent, and to no other."""
        return _joined(self.node, self.credential, _mac(self.secret, "order"))


class NodeKey:
    """The coordinator's key above the credentials of all nodes.

    Args:
        text: the key.

    Raises:
        ConfigurationError: it is too short to be a secret.
    """

    def __init__(self, text: str) -> None:
        if len(text) < _KEY_LENGTH_MIN:
            raise ConfigurationError(
                f"node key: expected at least {_KEY_LENGTH_MIN} random characters, "
                f"got {len(text)}; `openssl rand -hex 32` makes one"
            )
        self._key = text.encode()

    def credential(self, node: str, credential: UUID) -> NodeCredential:
        """The credential of a node.

        Raises:
            BadInputError: no name of a node.
        """
        check_name("node", node)
        return NodeCredential(node, credential, _mac(self._key, "credential", node, credential.hex))

    def node_of(self, token: str) -> NodeIdentity | None:
        """Whose `announce_token` this is; None if it is none that was made with this key."""
        node, _, rest = token.partition(_BETWEEN)
        credential = _uuid(rest.partition(_BETWEEN)[0])
        if credential is None:
            return None
        secret = _mac(self._key, "credential", node, credential.hex)
        expected = NodeCredential(node, credential, secret).announce_token
        return NodeIdentity(node, credential) if _equal(expected, token) else None

    def invitation(self, invitation: UUID) -> str:
        """The text of an invitation, which is a secret."""
        return _joined(invitation.hex, _mac(self._key, "invitation", invitation.hex))

    def invitation_of(self, token: str) -> UUID | None:
        """Which invitation this is; None if it is none that was made with this key."""
        invitation = _uuid(token.partition(_BETWEEN)[0])
        if invitation is None or not _equal(self.invitation(invitation), token):
            return None
        return invitation


def _mac(key: bytes, *parts: str) -> bytes:
    # No part has a NUL, so no two lists of parts give one text.
    text = "\0".join(("backcast node 1", *parts))
    return hmac.new(key, text.encode(errors="surrogatepass"), hashlib.sha256).digest()


def _joined(*parts: str | UUID | bytes) -> str:
    texts = [part if isinstance(part, str) else part.hex for part in parts]
    return _BETWEEN.join(text if isinstance(text, str) else text() for text in texts)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(hex=text) if len(text) == 32 else None
    except ValueError:
        return None


def _equal(one: str, other: str) -> bool:
    both = (text.encode(errors="surrogatepass") for text in (one, other))
    return hmac.compare_digest(*both)
