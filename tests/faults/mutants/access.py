"""Planted bugs of who may do what: roles, revoked tokens, groups."""

from tests.faults.mutants.mutant import Mutant

ACCESS = (
    Mutant(
        name="who backs up may expire",
        file="services/catalog/deletion/expiry_endpoints.py",
        old="Deleter = Annotated[Caller, Depends(require(Role.DELETE))]",
        new="Deleter = Annotated[Caller, Depends(require(Role.DELETE, Role.OPERATOR))]",
        rule="nobody who backs up can delete",
        tests="tests/unit/access/test_matrix.py",
        chosen="exactly_those_who_may and catalog",
    ),
    Mutant(
        name="who backs up may keep fewer",
        file="services/catalog/deletion/expiry_endpoints.py",
        old="                caller.require(Role.DELETE)\n",
        new="                caller.require(Role.DELETE, Role.OPERATOR)\n",
        rule="nobody who backs up can delete",
        tests="tests/integration/catalog/deletion/test_expiry_endpoints.py",
        chosen="never_fewer",
    ),
    Mutant(
        name="a token of a group acts for the others",
        file="libs/rest/auth.py",
        old="        if group not in self.groups:\n",
        new="        if not group:\n",
        rule="a token of some groups acts for no other",
        tests="tests/unit/access/test_matrix.py",
        chosen="exactly_those_who_may and restore",
    ),
    Mutant(
        name="a revoked token is accepted from memory for ever",
        file="libs/access/accepted.py",
        old="        if time.monotonic() - self._known_at > self._trust_seconds:\n",
        new="        if self._state is None:\n",
        rule="nobody is believed for long without news of the catalog",
        tests="tests/integration/catalog/access/test_tokens.py",
        chosen="for_ever",
    ),
    Mutant(
        name="a catalog that went back revives tokens",
        file="libs/catalogdb/access/tokens.py",
        old='            _TOKENS + " WHERE revoked_at IS NULL AND t.incarnation = i.number",\n',
        new='            _TOKENS + " WHERE revoked_at IS NULL",\n',
        rule="a token is good in one incarnation alone",
        tests="tests/integration/catalog/access/test_tokens.py",
        chosen="went_back",
    ),
    Mutant(
        name="the chain of the audit log is not verified",
        file="services/cli/commands/access/audit.py",
        old="        if record != chained(digest, last + 1, record.act):\n",
        new="        if False:\n",
        rule="a changed record does not fit the chain",
        tests="tests/integration/catalog/access/test_audit.py",
        chosen="was_changed",
    ),
    Mutant(
        name="what cannot be recorded is answered",
        file="libs/rest/server.py",
        old='                await note(message["status"])\n            await send(message)\n',
        new='                await send(message)\n                await note(message["status"])\n'
        "            else:\n                await send(message)\n",
        rule="nobody reads data that the audit log does not have",
        tests="tests/unit/access/test_recorded.py",
        chosen="cannot_be_recorded",
    ),
    Mutant(
        name="a request goes on without its token",
        file="libs/access/standing.py",
        old="                    scope.cancel()\n",
        new="                    pass\n",
        rule="requests in work end with their token",
        tests="tests/unit/access/test_token_file.py",
        chosen="ends_with_its_token",
    ),
)
