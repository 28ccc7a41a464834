"""Whose requests the listener for agents takes: nodes' by their credentials, and invited ones.

No token of a person is good there, and none of a node anywhere else.
"""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from libs.errors import ForbiddenError, UnauthenticatedError
from libs.ids import NodeIdentity
from libs.keys.nodes import NodeKey
from libs.rest.auth import ALL_TENANTS, TokenEntry, Tokens, digest_of

_bearer = HTTPBearer(auto_error=False, description="A node's credential, or an invitation.")


class NodeTokens(Tokens):
    """The tokens that agents show, as far as the node key alone can judge them.

    Whether a credential or an invitation still counts, the catalog says.
    """

    def __init__(self, key: NodeKey) -> None:
        super().__init__("[]")
        self.key = key

    def find(self, token: str) -> TokenEntry | None:
        """Names the node, or the invited, so that each has a share of the listener of its own."""
        node = self.key.node_of(token)
        if node is None and self.key.invitation_of(token) is None:
            return None
        name = f"node {node.name}" if node else "invitation"
        return TokenEntry(sha256=digest_of(token), tenant=ALL_TENANTS, role="reader", name=name)

    def holds(self, entry: TokenEntry) -> bool:
        """What the key has made, it has made; no request of an agent lasts long."""
        return True


async def calling_node(
    request: Request,
    node: str,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> NodeIdentity:
    """A dependency of a route with ``{node}``: the node that calls, which is the one of the path.

    Raises:
        UnauthenticatedError: no credential of a node.
        ForbiddenError: that of another node.
    """
    caller = _key(request).node_of(credentials.credentials) if credentials else None
    if caller is None:
        raise UnauthenticatedError("expected 'Authorization: Bearer' with a credential of a node")
    if caller.name != node:
        raise ForbiddenError(f"node {caller.name}: its credential is not good for node {node[:63]}")
    return caller


async def invited(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> UUID:
    """A dependency: the invitation that the caller has.

    Raises:
        UnauthenticatedError: none.
    """
    found = _key(request).invitation_of(credentials.credentials) if credentials else None
    if found is None:
        raise UnauthenticatedError("expected 'Authorization: Bearer' with an invitation")
    return found


def _key(request: Request) -> NodeKey:
    tokens: NodeTokens = request.app.state.tokens
    return tokens.key
