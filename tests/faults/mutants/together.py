"""Planted bugs of what the parts of a session share at one chunker."""

from tests.faults.mutants.mutant import Mutant

_TESTS = "tests/integration/chunker/test_together.py"
_RACES = "tests/integration/chunker/test_together_races.py"

TOGETHER = (
    Mutant(
        name="a shared pack is pinned for one attempt only",
        file="libs/catalogdb/packs/registering.py",
        old="[sorted(pinned_by), pack.pack_no]",
        new="[sorted(pinned_by)[:1], pack.pack_no]",
        rule="a shared pack is pinned for every attempt that needs it",
        tests=_TESTS,
        chosen="costs_a_look_up",
    ),
    Mutant(
        name="a shared pack is registered for attempts that are over",
        file="libs/catalogdb/packs/registering.py",
        old="WHERE attempt = ANY(%s) AND open ORDER BY attempt FOR SHARE",
        new="WHERE attempt = ANY(%s) ORDER BY attempt FOR SHARE",
        rule="a pack is registered for those of its attempts that are current",
        tests=_TESTS,
        chosen="pinned_for_those_who_are_current",
    ),
    Mutant(
        name="an item comes twice in a pack",
        file="libs/packs/pack.py",
        old="            fresh = [item for item in items if item.id not in self._ids]\n",
        new="            fresh = list(items)\n",
        rule="of equal items of several parts a pack has the first one",
        tests=_TESTS,
        chosen="in_their_pack_once",
    ),
    Mutant(
        name="a part waits for the others for ever",
        file="services/chunker/parts/together.py",
        old="if self._rounds >= _ROUNDS_MAX else",
        new="if self._rounds < 0 else",
        rule="a part that is through waits some rounds for others",
        tests=_TESTS,
        chosen="waits_for_others_some_rounds",
    ),
    Mutant(
        name="a part waits for what another chunker has taken",
        file="services/chunker/parts/renewing.py",
        old="        looked_at = [*quiet, *reserved]\n",
        new="        looked_at = [*quiet]\n",
        rule="nobody waits for a part that is at another chunker",
        tests=_TESTS,
        chosen="another_chunker_took_meanwhile",
    ),
    Mutant(
        name="how a capture began is never recorded",
        file="libs/catalogdb/sessions/attempts.py",
        old="    _record_work(tx, [PartInWork(part.attempt, part.begun, part.progress)])\n",
        new="    _record_work(tx, [])\n",
        rule="what a successor needs is recorded when a part is finished at the latest",
        tests=_TESTS,
        chosen="costs_a_look_up",
    ),
    Mutant(
        name="what was read of a partition is stored after its parts were dropped",
        file="services/chunker/parts/attempts.py",
        old="        self._positions.forget(partitions)",
        new="        self._positions.forget(frozenset())",
        rule="the stored position is behind no capture that nobody has recorded",
        tests=_RACES,
        chosen="lost_before_it_was_recorded",
    ),
)
