"""Planted bugs in what people are told."""

from tests.faults.mutants.mutant import Mutant

_OPENING = "tests/integration/catalogdb/notifications/test_opening.py"
_REVIEWING = "tests/integration/catalogdb/notifications/test_reviewing.py"

NOTIFICATIONS = (
    Mutant(
        name="the newest that a rebuild has put back passes for the newest",
        file="libs/catalogdb/snapshots/points.py",
        old="is_sure = point.sequence is not None or is_whole(tx)",
        new="is_sure = True",
        rule="only a number names a point while the catalog is not reconciled",
        tests="tests/integration/catalogdb/snapshots/test_points.py",
        chosen="waits_for_a_whole_catalog",
    ),
    Mutant(
        name="nobody misses chunkers",
        file="services/catalog/watch.py",
        old="        self._look_at_chunkers()\n",
        new="",
        rule="silence means that nothing is known to be wrong",
        tests="tests/integration/catalogdb/notifications/test_watch.py",
        chosen="no_chunker_takes_captures",
    ),
    Mutant(
        name="damage is over when some of it is repaired",
        file="libs/catalogdb/notifications/damage.py",
        old="    over = is_open - {name for name in is_open if (numbers[name],) in left}\n",
        new="    over = is_open\n",
        rule="a notification is not resolved while what it tells of holds",
        tests=_OPENING,
        chosen="until_all_of_a_pack",
    ),
    Mutant(
        name="who repairs does not wait for who records damage",
        file="libs/catalogdb/notifications/damage.py",
        old="    is_open = lock_notifications(tx, Kind.DAMAGE, numbers.keys())\n",
        new="    is_open = set(numbers)\n",
        rule="who resolves locks the row, then looks whether it still holds",
        tests=_OPENING,
        chosen="who_repairs_waits",
    ),
    Mutant(
        name="a rejected session is told in a transaction of its own",
        file="libs/catalogdb/sessions/session.py",
        old="        append(tx, source, rejected)\n    return tell_rejected(rejected)\n",
        new="        append(tx, source, rejected[:1])\n"
        "    with catalog.transaction() as tx:\n"
        "        append(tx, source, rejected[1:])\n"
        "    return tell_rejected(rejected)\n",
        rule="a notification opens in the transaction of what it tells of",
        tests=_OPENING,
        chosen="rejected_and_told_at_one_moment",
    ),
    Mutant(
        name="nobody is told of a rejected session",
        file="libs/catalogdb/sessions/session.py",
        old="    opened = open_notification(tx, finding) if finding else []\n",
        new="    opened = open_notification(tx, finding) if not finding else []\n",
        rule="no session is rejected without a notification",
        tests=_OPENING,
        chosen="every_way_to_reject",
    ),
    Mutant(
        name="a sealed session leaves its group told as failing",
        file="libs/catalogdb/sessions/sealing.py",
        old='    append(tx, "chunker", [_event(view), *resolved])\n',
        new='    append(tx, "chunker", [_event(view)])\n',
        rule="what resolves a notification is told with it",
        tests=_OPENING,
        chosen="until_the_next_one_is_sealed",
    ),
    Mutant(
        name="what is seen again is told again",
        file="libs/catalogdb/notifications/opening.py",
        old="            event = NotificationChanged if is_other else None\n",
        new="            event = NotificationChanged if is_other or seen else None\n",
        rule="repeating a transaction tells nothing twice",
        tests=_OPENING,
        chosen="merely_seen_again",
    ),
    Mutant(
        name="a node that announces itself is called silent",
        file="libs/catalogdb/notifications/reviewing.py",
        old='                   ORDER BY name FOR UPDATE OF n SKIP LOCKED""",\n',
        new='                   ORDER BY name""",\n',
        rule="who calls a node silent has its row locked",
        tests=_REVIEWING,
        chosen="while_it_is_looked_at or waits_for_the_look",
    ),
    Mutant(
        name="a node that is back stays told as silent",
        file="libs/catalogdb/nodes/announcing.py",
        old=(
            "    if heard.rowcount:\n"
            '        append(tx, "coordinator", tell_announced(tx, node.name, disk))\n'
        ),
        new="    if heard.rowcount:\n        tell_announced(tx, node.name, disk)\n",
        rule="what resolves a notification is told with it",
        tests=_REVIEWING,
        chosen="until_it_announces_itself",
    ),
)
