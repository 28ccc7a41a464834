"""Planted bugs in the barrier at which a group is cut (scenario 18)."""

from tests.faults.mutants.mutant import Mutant

_CORE = "services/change_capture/coordinator/session.py"
_CORE_TESTS = "tests/unit/change_capture/test_session.py"

BARRIERS = (
    Mutant(
        name="18 a cut counts although a hold was broken",
        file=_CORE,
        old="        case NodeReleased(unbroken=False) if state.phase in _HELD:\n"
        "            return _hold_broken(state, fact.node)\n",
        new="",
        rule="the cut counts only if every node confirms that its hold was unbroken",
        tests=_CORE_TESTS,
        chosen="broken_hold_rejects",
    ),
    Mutant(
        name="18 a release is forgotten when a barrier fails",
        file=_CORE,
        old="            return [ReleaseNode(node, abandoned=True) for node in nodes]",
        new="            return [ReleaseNode(node, abandoned=True) for node in nodes[1:]]",
        rule="every node that was told to hold is told to release in every ending",
        tests=_CORE_TESTS,
        chosen="told_to_release",
    ),
    Mutant(
        name="18 the late answer of an older attempt is taken",
        file=_CORE,
        old="    if member is None or fact.attempt != state.attempt or state.phase > Phase.CUT:",
        new="    if member is None or state.phase > Phase.CUT:",
        rule="what an older attempt answers changes nothing",
        tests=_CORE_TESTS,
        chosen="another_attempt",
    ),
    Mutant(
        name="18 nodes cut although one of them does not hold",
        file=_CORE,
        old="        case Phase.PREPARED if all(one.held_at is not None for one in members):",
        new="        case Phase.PREPARED if any(one.held_at is not None for one in members):",
        rule="no node cuts before all hold",
        tests=_CORE_TESTS,
        chosen="each_step_waits",
    ),
    Mutant(
        name="18 an older attempt's cut is recorded",
        file="libs/catalogdb/sessions/barrier.py",
        old="               WHERE s.session = %s AND s.state = 'o' AND s.cut_attempt = %s"
        ' FOR UPDATE OF s""",',
        new="               WHERE s.session = %s AND s.state = 'o' AND s.cut_attempt >= %s"
        ' FOR UPDATE OF s""",',
        rule="only the current attempt's cut counts",
        tests="tests/integration/catalogdb/sessions/test_barrier.py",
        chosen="older_attempt",
    ),
    Mutant(
        name="18 what was never cut together is sealed",
        file="libs/catalogdb/sessions/sealing.py",
        old="    if not is_cut:\n",
        new="    if False:\n",
        rule="a group whose barrier has no cut that counts is not acknowledged",
        tests="tests/integration/catalogdb/sessions/test_barrier.py",
        chosen="not_acknowledged",
    ),
    Mutant(
        name="18 a node carries out what an older attempt orders",
        file="services/change_capture/barrier/barrier.py",
        old="        if known and known.number > attempt:\n"
        "            raise _outdated(session, attempt, known.number)\n"
        "        if known is None or known.number < attempt:\n"
        "            raise NotFoundError(",
        new="        if known is None or known.number < attempt:\n            raise NotFoundError(",
        rule="a node refuses an older attempt",
        tests="tests/integration/barrier/test_node_barriers.py",
        chosen="older_attempt",
    ),
    Mutant(
        name="18 a view is given out although its hold was broken",
        file="services/change_capture/barrier/barrier.py",
        old="            return self._views.pop(volume, None) if self._status.unbroken else None",
        new="            return self._views.pop(volume, None)",
        rule="no capture reads a view whose hold was broken",
        tests="tests/integration/barrier/test_cut_views.py",
        chosen="gives_no_view",
    ),
    Mutant(
        name="18 a hold counts although a gate of it was broken",
        file="services/change_capture/barrier/barrier.py",
        old="unbroken=unbroken and all(released))",
        new="unbroken=unbroken)",
        rule="the cut counts only if every gate confirms that its hold was unbroken",
        tests="tests/unit/change_capture/test_node_gates.py",
        chosen="one_broken_gate",
    ),
    Mutant(
        name="18 a broken gate keeps the ones behind it from their release",
        file="services/change_capture/barrier/barrier.py",
        old="released = [gate.release(unbroken=unbroken) for gate in self._gates.values()]",
        new="released = (gate.release(unbroken=unbroken) for gate in self._gates.values())",
        rule="every gate that was told to hold is told to release in every ending",
        tests="tests/unit/change_capture/test_node_gates.py",
        chosen="one_broken_gate",
    ),
    Mutant(
        name="18 a freezer stays when its agent is killed",
        file="services/change_capture/barrier/freezer.py",
        old="    command = _command(until - time.monotonic())\n",
        new="    time.sleep(max(0.0, until - time.monotonic()))\n    command = _command(0)\n",
        rule="a killed agent leaves no frozen file system",
        tests="tests/integration/barrier/test_hold.py",
        chosen="killed_agent",
    ),
    Mutant(
        name="18 a moment that no date has reaches the coordinator",
        file="services/change_capture/rpc.py",
        old="NodeTime = Annotated[float, Field(ge=0, lt=253_402_300_800, allow_inf_nan=False)]",
        new="NodeTime = float",
        rule="what a node's clock says decides nothing, and ends no coordinator",
        tests="tests/unit/change_capture/test_barrier_rpc.py",
        chosen="no_date",
    ),
)
