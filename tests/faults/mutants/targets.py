"""Planted bugs in the names and files that a restore makes, takes and removes."""

from tests.faults.mutants.mutant import Mutant

_NEW_FILE = "libs/restoring/new_file.py"
_TARGET = "libs/restoring/target.py"
_TESTS = "tests/unit/restoring/test_target_names.py"

TARGETS = (
    Mutant(
        name="a failing restore removes whatever has the temporary name",
        file=_NEW_FILE,
        old="        if os.path.samestat(named, os.fstat(descriptor)):\n",
        new="        if named:\n",
        rule="a failing restore removes its own file and no other",
        tests=_TESTS,
        chosen="its_temporary_name",
    ),
    Mutant(
        name="a failing restore removes by path",
        file=_NEW_FILE,
        old="        _remove(folder, name, descriptor)\n        raise\n",
        new="        _remove(folder, name, descriptor)\n"
        "        path.unlink(missing_ok=True)\n        raise\n",
        rule="a failing restore removes its own file and no other",
        tests=_TESTS,
        chosen="under_its_name",
    ),
    Mutant(
        name="a name that was taken meanwhile is overwritten",
        file=_NEW_FILE,
        old="        if replaces:\n",
        new="        if path:\n",
        rule="without force nothing is overwritten, whenever it appeared",
        tests=_TESTS,
        chosen="took_meanwhile",
    ),
    Mutant(
        name="a target is named by its path again",
        file=_NEW_FILE,
        old="            os.rename(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)\n",
        new="            os.rename(name, path, src_dir_fd=folder)\n",
        rule="every name is a name in the folder that was opened",
        tests=_TESTS,
        chosen="exchanged_meanwhile",
    ),
    Mutant(
        name="everybody may read what was restored",
        file=_NEW_FILE,
        old="_MODE = 0o600\n",
        new="_MODE = 0o644\n",
        rule="a restored file is its owner's alone, also if one was overwritten",
        tests=_TESTS,
        chosen="its_owner_alone",
    ),
    Mutant(
        name="a link is followed",
        file=_TARGET,
        old='_located(path, path.name or ".", folder, os.O_NOFOLLOW)',
        new='_located(path, path.name or ".", folder)',
        rule="a restore follows no link to a file",
        tests=_TESTS,
        chosen="not_followed",
    ),
    Mutant(
        name="anybody's link leads to a device",
        file=_TARGET,
        old="        is_trusted = os.fstat(link).st_uid in (0, os.geteuid())\n",
        new="        is_trusted = True\n",
        rule="a link is followed to a device if this user or root has made it",
        tests=_TESTS,
        chosen="behind_a_link",
    ),
)
