"""Planted bugs in what becomes of volumes: moved, removed, paused."""

from tests.faults.mutants.mutant import Mutant

_TESTS = "tests/integration/catalogdb/volumes/test_changes.py"

VOLUMES = (
    Mutant(
        name="a removed volume's references stay open for ever",
        file="libs/catalogdb/sessions/sealing.py",
        old="    _close_absent(tx, session, sequence)\n",
        new="",
        rule="an open row counts what the group's head has",
        tests=_TESTS,
        chosen="frees_what_it_held",
    ),
    Mutant(
        name="a tracker is trusted although its volume moved",
        file="libs/catalogdb/sessions/session.py",
        old="p.session = s.session AND v.moved_after >= s.head_sequence)",
        new="p.session = s.session AND v.moved_after > s.head_sequence)",
        rule="nothing tracked since a base of another place is trusted",
        tests=_TESTS,
        chosen="after_a_move",
    ),
    Mutant(
        name="a volume is removed while a session has a part of it",
        file="libs/catalogdb/volumes/removing.py",
        old='            refuse_while_open(volume.of, "the volume cannot be removed")\n',
        new="",
        rule="a change of a group waits for its open session",
        tests=_TESTS,
        chosen="removal_waits",
    ),
    Mutant(
        name="a group that keeps fewer takes a volume from anybody",
        file="libs/catalogdb/volumes/regrouping.py",
        old="        if joined and not may_shorten and not joined.keeps_all_of(kept):\n",
        new="        if joined and not may_shorten and joined is kept:\n",
        rule="nobody who backs up can delete",
        tests="tests/integration/catalogdb/volumes/test_kept.py",
        chosen="takes_a_volume_from_nobody",
    ),
    Mutant(
        name="retention goes on while a group is paused",
        file="libs/catalogdb/snapshots/retention.py",
        old="c.halted_since IS NULL AND g.paused_at IS NULL",
        new="c.halted_since IS NULL",
        rule="nothing expires by age while nothing new is taken",
        tests=_TESTS,
        chosen="paused_group",
    ),
    Mutant(
        name="a rebuilt catalog forgets that a volume was removed",
        file="libs/catalogdb/recovery/checkpoint_rows.py",
        old="    removed = Removed(by=removed_by, at=removed_at) if removed_at else None\n",
        new="    removed = None\n",
        rule="what became of a volume is in checkpoints",
        tests="tests/integration/catalog/recovery/test_volume_changes.py",
        chosen="lost_or_fell_back",
    ),
)
