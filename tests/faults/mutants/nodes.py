"""Planted bugs in who may be which node, and where."""

from tests.faults.mutants.mutant import Mutant

_REGISTRATION = "services/change_capture/coordinator/nodes/registration.py"
_TOKENS = "services/change_capture/coordinator/nodes/tokens.py"
_CREDENTIAL = "libs/keys/nodes.py"
_ADDRESSES = "services/change_capture/coordinator/nodes/addresses.py"
_TESTS = "tests/integration/coordinator/test_registration.py"
_FORGETTING = "tests/integration/coordinator/test_forgetting.py"
_UNITS = "tests/unit/change_capture"

NODES = (
    Mutant(
        name="a credential announces any node",
        file=_TOKENS,
        old="    if caller.name != node:\n",
        new="    if False:\n",
        rule="a credential is good for its node alone",
        tests=_TESTS,
        chosen="announces_no_other_node",
    ),
    Mutant(
        name="all agents accept one token",
        file=_CREDENTIAL,
        old='        return _joined(self.node, self.credential, _mac(self.secret, "order"))\n',
        new='        return "the coordinator"\n',
        rule="what the coordinator shows to one node is good at no other",
        tests=f"{_UNITS}/test_credential.py",
        chosen="good_at_no_other",
    ),
    Mutant(
        name="the MAC of a token is not looked at",
        file=_CREDENTIAL,
        old="        return NodeIdentity(node, credential) if _equal(expected, token) else None\n",
        new="        return NodeIdentity(node, credential)\n",
        rule="a token is good only if the node key has made it",
        tests=f"{_UNITS}/test_credential.py",
        chosen="nobodys",
    ),
    Mutant(
        name="a node is moved while its boot answers",
        file=_REGISTRATION,
        old='            self._refuse_if_it_answers(known, f"moved to {node.rpc_url}")\n',
        new="            pass\n",
        rule="a node whose boot answers at its old address is not moved",
        tests=_TESTS,
        chosen="not_moved",
    ),
    Mutant(
        name="an announced address is believed",
        file=_REGISTRATION,
        old="        self._confirm(node)\n",
        new="",
        rule="an address is recorded only if the agent there is the one that was announced",
        tests=_TESTS,
        chosen="another_agent_answers",
    ),
    Mutant(
        name="a replaced credential still counts",
        file=_REGISTRATION,
        old="        if known.credential not in (None, caller.credential):\n",
        new="        if False:\n",
        rule="one credential of a node counts",
        tests=_TESTS,
        chosen="claimed_once",
    ),
    Mutant(
        name="a forgotten node comes back by its old credential",
        file=_REGISTRATION,
        old="        if forgotten:\n",
        new="        if False:\n",
        rule="a forgotten node is let in by an invitation for its name alone",
        tests=_FORGETTING,
        chosen="forgotten_node",
    ),
    Mutant(
        name="an invitation is good for ever",
        file="libs/catalogdb/nodes/enrolment.py",
        old="               WHERE invitation = %s AND left_count > 0 AND expires_at > now()\n",
        new="               WHERE invitation = %s AND left_count > -99\n",
        rule="an invitation is good so often and so long",
        tests=_TESTS,
        chosen="with_its_time",
    ),
    Mutant(
        name="an invitation that was used gives the credential again",
        file="libs/catalogdb/nodes/enrolment.py",
        old="            if row.boot == NO_BOOT:\n",
        new="            if True:\n",
        rule="an exchange may be repeated until the node has announced itself",
        tests=_TESTS,
        chosen="good_once",
    ),
    Mutant(
        name="an invitation for new nodes takes over a node",
        file="libs/catalogdb/nodes/enrolment.py",
        old="        if row and spent[0] is None:\n",
        new="        if False:\n",
        rule="an invitation for new nodes is good for no name that is or was a node's",
        tests=_TESTS,
        chosen="takes_over_none",
    ),
    Mutant(
        name="a node speaks of others' captures",
        file="libs/catalogdb/sessions/watching.py",
        old="                 ON p.capture = c.capture AND n.name = c.node\n"
        "                    AND n.credential IS NOT DISTINCT FROM c.credential\n",
        new="                 ON p.capture = c.capture AND coalesce(c.node, '') <> '' AND\n"
        "                    (c.credential IS NULL OR true)\n",
        rule="a node learns and says nothing of captures that are not its own",
        tests=_FORGETTING,
        chosen="its_own_captures",
    ),
    Mutant(
        name="a checkpoint's word on a credential is not heard",
        file="libs/catalogdb/recovery/applying.py",
        old="           SET credential = excluded.credential, "
        "forgotten_at = excluded.forgotten_at\n",
        new="           SET forgotten_at = excluded.forgotten_at\n",
        rule="a claim in a catalog that went back gives way to the checkpoint",
        tests=_FORGETTING,
        chosen="checkpoint_says",
    ),
    Mutant(
        name="the address of a connection is not looked at",
        file="libs/rest/connections.py",
        old="        if self._admit is not None:\n",
        new="        if False:\n",
        rule="a name that means another address later is sent nothing",
        tests=f"{_UNITS}/test_agent_networks.py",
        chosen="another_address_later",
    ),
    Mutant(
        name="an IPv4 address in an IPv6 one is not seen",
        file=_ADDRESSES,
        old="        address = _embedded(ipaddress.ip_address(text))\n",
        new="        address = ipaddress.ip_address(text)\n",
        rule="no agent is at an address of the coordinator's own host, in whatever form",
        tests=f"{_UNITS}/test_agent_networks.py",
        chosen="no_agent_has",
    ),
    Mutant(
        name="an agent asks for another credential after a crash",
        file="services/change_capture/enrolment.py",
        old="    write_durably(file, chosen.hex)\n",
        new="",
        rule="an agent that dies before it has the answer asks for the same credential",
        tests=f"{_UNITS}/test_enrolment.py",
        chosen="dies_before",
    ),
)
