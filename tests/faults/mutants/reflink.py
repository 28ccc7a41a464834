"""Planted bugs in the driver that compares clones by their extent maps."""

from tests.faults.mutants.mutant import Mutant

_DRIVER = "services/change_capture/drivers/reflink"
_COMPARISON = f"{_DRIVER}/comparison.py"
_EXTENTS = f"{_DRIVER}/extents.py"
_KEEPING = f"{_DRIVER}/keeping.py"
_MAPS = "tests/unit/change_capture/test_extent_comparison.py"
_REAL = "tests/integration/reflink"

REFLINK = (
    Mutant(
        name="the base's map is asked for once",
        file=_COMPARISON,
        old="        if window_of(base, start, end, extent_count_max) == before:\n",
        new="        if True:\n",
        rule="both maps are of one moment",
        tests=_MAPS,
        chosen="given_away",
    ),
    Mutant(
        name="a part of a compressed extent is believed",
        file=_EXTENTS,
        old="        whole = self.length == _ENCODED_SIZE_BYTES_MAX\n",
        new="        whole = True\n",
        rule="a map does not say which part of a compressed extent is meant",
        tests=_MAPS,
        chosen="only_whole_ones",
    ),
    Mutant(
        name="equal answers of the kernel are equal bytes",
        file=_COMPARISON,
        old="        elif before.answer != after.answer or not after.is_plain:\n",
        new="        elif before.answer != after.answer:\n",
        rule="what a map does not vouch for counts as changed",
        tests=_MAPS,
        chosen="does_not_vouch",
    ),
    Mutant(
        name="room that was allocated is where its blocks are",
        file=_EXTENTS,
        old="        if self.flags == UNWRITTEN | (self.flags & _HARMLESS):\n"
        "            return None\n"
        "        if not self.flags & ~_HARMLESS:\n",
        new="        if not self.flags & ~(_HARMLESS | UNWRITTEN):\n",
        rule="what was allocated and not written is zeros",
        tests=_MAPS,
        chosen="exactly_the_blocks",
    ),
    Mutant(
        name="the end of a resized volume is left out",
        file=f"{_DRIVER}/driver.py",
        old="        resized = min(size, self._base_size_bytes) if size != self._base_size_bytes "
        "else None\n",
        new="        resized = min(size, self._base_size_bytes) if False else None\n",
        rule="the chunk in which the shorter size ends is looked at",
        tests=f"{_REAL}/test_changes.py",
        chosen="end_of_a_resized",
    ),
    Mutant(
        name="a clone that somebody touched is believed",
        file=_KEEPING,
        old="        if found != record.clone or _token(descriptor) != record.token:\n",
        new="        if False:\n",
        rule="the base's clone is the file that was kept, untouched",
        tests=f"{_REAL}/test_kept_clones.py",
        chosen="touched_is_not_believed",
    ),
    Mutant(
        name="a clone of another file is compared",
        file=_KEEPING,
        old="        if record.identity != view.identity:\n",
        new="        if False:\n",
        rule="tracking belongs to one device",
        tests=f"{_REAL}/test_kept_clones.py",
        chosen="do_not_know_each_other",
    ),
    Mutant(
        name="a clone is named before its record",
        file=_KEEPING,
        old="            self._records.write(volume, session, intent)\n",
        new="",
        rule="a clone that has a name has a record",
        tests=f"{_REAL}/test_kept_clones.py",
        chosen="kill_after_each_step",
    ),
    Mutant(
        name="a rejected session's clone replaces the base's",
        file=f"{_DRIVER}/driver.py",
        old="{order.session} if sealed else base)\n",
        new="{order.session})\n",
        rule="the clone of the base is kept until the next one is sealed",
        tests=f"{_REAL}/test_kept_clones.py",
        chosen="session_that_failed",
    ),
    Mutant(
        name="a clone is a volume",
        file="services/change_capture/drivers/local/roots.py",
        old=" in own or _is_marked(found):\n",
        new=" in own:\n",
        rule="no tenant reads a clone",
        tests=f"{_REAL}/test_clones_are_no_volumes.py",
        chosen="is_no_volume",
    ),
    Mutant(
        name="a folder of clones has volumes",
        file="services/change_capture/drivers/local/roots.py",
        old=" in own or _is_marked(one) for one in _above(folder))\n",
        new=" in own for one in _above(folder))\n",
        rule="no tenant reads what lies beside clones",
        tests=f"{_REAL}/test_clones_are_no_volumes.py",
        chosen="is_no_volume",
    ),
    Mutant(
        name="a file with NOCOW is not cloned",
        file="services/change_capture/drivers/local/clone.py",
        old="        _overwrite_as(source.descriptor, written)\n",
        new="",
        rule="btrfs clones a file with NOCOW into one with NOCOW",
        tests=f"{_REAL}/test_movements.py",
        chosen="nocow",
    ),
)
