"""Planted bugs that let who waits miss its news, or take more than its share."""

from tests.faults.mutants.mutant import Mutant

WAITING = (
    Mutant(
        name="a bell is silenced after the reading",
        file="libs/rest/waiting.py",
        old="            bell.silence()  # before reading: later news rings it again\n"
        "            found = await read()\n",
        new="            found = await read()\n            bell.silence()\n",
        rule="news while one reads wakes who has read",
        tests="tests/unit/rest/test_waiting.py",
        chosen="news_while_one_reads",
    ),
    Mutant(
        name="a bell is hung up after the reading",
        file="libs/rest/waiting.py",
        old="    with bells.hung_up(what) as bell:\n"
        "        while True:\n"
        "            bell.silence()  # before reading: later news rings it again\n"
        "            found = await read()\n",
        new="    while True:\n"
        "        found = await read()\n"
        "        with bells.hung_up(what) as bell:\n",
        rule="whoever waits says so before it reads",
        tests="tests/unit/rest/test_waiting.py",
        chosen="news_while_one_reads",
    ),
    Mutant(
        name="what came before the listening is nobody's news",
        file="libs/catalogdb/listening.py",
        old="                self._missed()  # nobody told of what came before\n",
        new="",
        rule="whoever waits looks by itself when the listening begins",
        tests="tests/integration/catalogdb/log/test_followers.py",
        chosen="connection_is_killed",
    ),
    Mutant(
        name="nobody looks while nobody listens",
        file="libs/catalogdb/listening.py",
        old="            self._missed()  # nobody tells of what comes until the next round\n",
        new="            pass\n",
        rule="whoever waits looks by itself while nobody can listen",
        tests="tests/integration/catalogdb/log/test_followers.py",
        chosen="while_nobody_can_listen",
    ),
    Mutant(
        name="who is woken joins a read that is under way",
        file="services/restore/events/sharing.py",
        old="wanted.results[-1][0] <= asked_at:",
        new="wanted.results[-1][0] < asked_at:",
        rule="a read is shared only with those who asked before it began",
        tests="tests/unit/restore/test_sharing.py",
        chosen="under_way",
    ),
    Mutant(
        name="a poll keeps its place among requests in work",
        file="libs/rest/shares.py",
        old="        self._release()\n        self._count_poll(1)\n",
        new="        self._count_poll(1)\n",
        rule="waiting holds no slot",
        tests="tests/unit/rest/test_waiting.py",
        chosen="leave_polls_to_others",
    ),
    Mutant(
        name="one token takes all of its tenant",
        file="libs/rest/shares.py",
        old="    return max(1, int(count * TOKEN_SHARE))\n",
        new="    return count\n",
        rule="a token leaves room to the others of its tenant",
        tests="tests/unit/rest",
        chosen="one_token",
    ),
)
