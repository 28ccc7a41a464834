"""Credentials of nodes: one is good for its node, in its direction, and under its key alone."""

import json
from uuid import UUID, uuid4

import pytest

from libs.errors import BadInputError, ConfigurationError
from libs.ids import NodeIdentity
from libs.keys.nodes import NodeCredential, NodeKey
from libs.rest.auth import Tokens
from services.change_capture.coordinator.nodes.tokens import NodeTokens
from services.change_capture.enrolment import accepted

KEY = NodeKey("k" * 64)
A = KEY.credential("node-a", UUID(int=1))
B = KEY.credential("node-b", UUID(int=2))


def test_a_credential_is_read_as_it_was_written() -> None:
    assert NodeCredential.parse(A.text + "\n") == A
    assert A.secret.hex() not in repr(A)


def test_the_key_knows_whose_token_it_is() -> None:
    assert KEY.node_of(A.announce_token) == NodeIdentity("node-a", UUID(int=1))


def test_what_the_coordinator_shows_to_one_node_is_good_at_no_other() -> None:
    assert accepted(A).find(A.order_token)
    for stranger in (
        B.order_token,
        A.announce_token,
        A.text,
        KEY.credential("node-a", UUID(int=2)).order_token,
        NodeKey("l" * 64).credential("node-a", UUID(int=1)).order_token,
    ):
        assert accepted(A).find(stranger) is None


def test_a_token_with_another_name_id_or_mac_is_nobodys() -> None:
    node, credential, mac = A.announce_token.split("~")
    for forged in (
        f"node-b~{credential}~{mac}",
        f"{node}~{UUID(int=2).hex}~{mac}",
        "~".join((node, credential, B.announce_token.split("~")[2])),
        f"{node}~{credential}~{mac}~",
        A.order_token,
        A.text,
        NodeKey("l" * 64).credential("node-a", UUID(int=1)).announce_token,
        KEY.invitation(UUID(int=1)),
        "",
        "~~",
        "\ud800~" + credential + "~" + mac,
    ):
        assert KEY.node_of(forged) is None, forged


def test_an_invitation_is_its_keys_and_no_credential() -> None:
    invitation = uuid4()
    text = KEY.invitation(invitation)
    assert KEY.invitation_of(text) == invitation
    assert NodeKey("l" * 64).invitation_of(text) is None
    for forged in (text + "0", uuid4().hex + text[32:], A.announce_token, ""):
        assert KEY.invitation_of(forged) is None
    assert KEY.node_of(text) is None


def test_the_listener_for_agents_takes_no_token_of_a_person() -> None:
    tokens = NodeTokens(KEY)
    assert tokens.find(A.announce_token)
    assert tokens.find(KEY.invitation(uuid4()))
    assert tokens.find("an-administrators") is None


def test_a_token_of_a_node_is_no_token_of_a_person() -> None:
    digests = [json.loads('{"sha256": "' + "0" * 64 + '", "tenant": "*", "role": "admin"}')]
    assert Tokens(json.dumps(digests)).find(A.announce_token) is None


@pytest.mark.parametrize("text", ["", "node-a", "node-a~1~2", A.announce_token[:-2], "a~b~c~d"])
def test_another_text_is_no_credential(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected NODE~ID~SECRET"):
        NodeCredential.parse(text)


def test_a_short_key_and_a_wrong_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 32"):
        NodeKey("short")
    with pytest.raises(BadInputError, match="node name"):
        KEY.credential("a~b", UUID(int=1))
