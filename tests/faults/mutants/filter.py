"""Planted bugs in the volume filter and its driver."""

from tests.faults.mutants.mutant import Mutant

_FILTER = "services/change_capture/filter"
_TESTS = "tests/unit/change_capture/filter"


def _filter(name: str, file: str, old: str, new: str, rule: str, tests: str, chosen: str) -> Mutant:
    return Mutant(
        name=f"filter: {name}",
        file=f"{_FILTER}/{file}.py",
        old=old,
        new=new,
        rule=rule,
        tests=f"{_TESTS}/{tests}.py",
        chosen=chosen,
    )


FILTER = (
    _filter(
        "a write marks its first chunk alone",
        "volume",
        "        self._marks.mark(first, last)\n",
        "        self._marks.mark(first, first)\n",
        "every chunk of a write is marked",
        "test_frozen",
        "whatever_is_written",
    ),
    _filter(
        "bytes are kept after they are overwritten",
        "volume",
        "        self._touch(offset, len(data))\n        self.disk.write(offset, data)\n",
        "        self.disk.write(offset, data)\n        self._touch(offset, len(data))\n",
        "a chunk is kept before it is overwritten",
        "test_frozen",
        "whatever_is_written",
    ),
    _filter(
        "a reader asks for kept chunks before it reads",
        "frozen",
        "            self._disk.read(start, buffer[:wanted])\n"
        "            first = start // CHUNK_SIZE_BYTES\n"
        "            for number in range(-(-wanted // CHUNK_SIZE_BYTES)):\n"
        "                if first + number in self._kept:\n",
        "            first = start // CHUNK_SIZE_BYTES\n"
        "            count = -(-wanted // CHUNK_SIZE_BYTES)\n"
        "            kept = {n for n in range(count) if first + n in self._kept}\n"
        "            self._disk.read(start, buffer[:wanted])\n"
        "            for number in range(count):\n"
        "                if number in kept:\n",
        "what is read counts only if it is not kept afterwards",
        "test_frozen",
        "while_it_is_read",
    ),
    _filter(
        "a scratch file without room fails the write",
        "frozen",
        '                self.break_off(\n                    f"more than',
        '                raise OSError(28, "no room")\n                self.break_off(\n'
        '                    f"more than',
        "the snapshot breaks, never the guest's write",
        "test_frozen",
        "without_room_breaks",
    ),
    _filter(
        "a slow scratch file holds a write up without bound",
        "frozen",
        "                if left <= 0:\n",
        "                if left <= -60:\n",
        "a write waits a bounded time for the scratch file",
        "test_frozen",
        "bounded_wait",
    ),
    _filter(
        "a hold does not wait for those inside",
        "valve",
        "            while self.is_closed and any(one.is_inside for one in self._passages):\n",
        "            while False:\n",
        "writes under way end before the cut",
        "test_valve",
        "those_inside or no_writer",
    ),
    _filter(
        "a late release counts",
        "valve",
        "            self._open_if_over()\n            was_closed = ",
        "            was_closed = ",
        "a hold is over at its own deadline, whoever was told",
        "test_valve",
        "after_the_deadline",
    ),
    _filter(
        "a cut whose hold was broken counts",
        "cuts",
        "            is_whole = was_held and view.is_cut and view.frozen.broken is None\n",
        "            is_whole = view.is_cut and view.frozen.broken is None\n",
        "a cut counts only if the hold was unbroken until the release",
        "test_cuts",
        "before_the_release",
    ),
    _filter(
        "the bits of a cut that came to nothing are dropped",
        "cuts",
        "        self._rejoin(view.before)\n",
        "",
        "what was swapped out joins again unless the session was sealed",
        "test_cuts",
        "takes_no_mark",
    ),
    _filter(
        "the bits of a rejected session are dropped",
        "marks/tracking",
        "        if not sealed:\n            return self.take_out(cuts[at].token)\n",
        "        if not sealed:\n            self.take_out(cuts[at].token)\n"
        "            return None\n",
        "what was swapped out joins again unless the session was sealed",
        "test_tracking",
        "rejected_session",
    ),
    _filter(
        "a state that is in use stays clean",
        "marks/tracking",
        "                state.facts, state.is_clean, state.current = facts, False, None\n",
        "                state.facts, state.current = facts, state.current\n",
        "a state is unclean, durably, before the first write",
        "test_tracking",
        "stopped_and_then_killed",
    ),
    _filter(
        "a volume that was written to without a filter is believed",
        "marks/tracking",
        "    if state.facts != facts:\n",
        "    if False:\n",
        "a write behind the filter's back loses the tracking",
        "test_tracking",
        "behind_its_back",
    ),
)
