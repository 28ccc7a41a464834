"""Planted bugs that let whoever dials an agent keep chunkers out."""

from tests.faults.mutants.mutant import Mutant

_AGENT = "services/change_capture/agent"
_TESTS = "tests/unit/change_capture/test_span_crowds.py"

CROWDS = (
    Mutant(
        name="a newcomer is waited for",
        file=f"{_AGENT}/spans/newcomers.py",
        old="        accepted.setblocking(False)\n",
        new="        accepted.settimeout(0.5)\n",
        rule="who says nothing delays nobody",
        tests=_TESTS,
        chosen="silent_peers",
    ),
    Mutant(
        name="one address displaces the newcomers of another",
        file=f"{_AGENT}/spans/newcomers.py",
        old="            most = max(self._of_source.values(), key=len)",
        new="            most = self._waiting",
        rule="newcomers make room for those of their own address",
        tests=_TESTS,
        chosen="displaces_none",
    ),
    Mutant(
        name="a hello may take as long as it likes",
        file=f"{_AGENT}/spans/newcomers.py",
        old="                self._end_overdue()\n",
        new="",
        rule="a hello is whole in time, or its connection ends",
        tests=_TESTS,
        chosen="half_a_hello",
    ),
    Mutant(
        name="a silent peer keeps its place",
        file=f"{_AGENT}/spans/peers.py",
        old="        if chosen is None:\n",
        new="        if chosen is None or chosen in self._idle:\n",
        rule="who asks for nothing makes room",
        tests=_TESTS,
        chosen="fallen_silent",
    ),
    Mutant(
        name="a request in work makes room",
        file=f"{_AGENT}/spans/peers.py",
        old="            self._idle.pop(peer, None)\n            return self._is_here(peer)\n",
        new="            return self._is_here(peer)\n",
        rule="a peer with a request in work is never closed for others",
        tests=_TESTS,
        chosen="in_work",
    ),
)
