"""Planted bugs of VMs: rules about definitions, about who may lie, and about disks that move."""

from tests.faults.mutants.mutant import Mutant

_MACHINES = "libs/machines"
_DRIVER = "services/change_capture/drivers/qemu"
_FAKES = "tests/unit/change_capture/test_fake_machines.py"
_REAL = "tests/integration/qemu/test_machines.py"
_UNIT = "tests/unit/machines"

MACHINES = (
    Mutant(
        name="an option that nobody knows is kept",
        file=f"{_MACHINES}/options.py",
        old="    if name not in _PARTLY:\n        return None\n",
        new="    if name not in _PARTLY:\n        return value\n",
        rule="of a command line only what is known to be harmless is kept",
        tests=f"{_UNIT}/test_options.py",
        chosen="no_secret",
    ),
    Mutant(
        name="every property of a device is kept",
        file=f"{_MACHINES}/options.py",
        old="if k in _PROPERTIES[name] and _is_plain(v)}",
        new="if _is_plain(v)}",
        rule="of a command line only what is known to be harmless is kept",
        tests=f"{_UNIT}/test_options.py",
        chosen="no_secret",
    ),
    Mutant(
        name="a definition's options are believed",
        file=f"{_MACHINES}/starting.py",
        old="        (option, kept)\n"
        "        for option, value in definition.options\n"
        "        if (kept := kept_value(option, value)) is not None\n",
        new="        (option, value) for option, value in definition.options\n",
        rule="what starts a restored VM opens nothing of the host",
        tests=f"{_UNIT}/test_starting.py",
        chosen="judged_again",
    ),
    Mutant(
        name="words of a VM reach the shell",
        file=f"{_MACHINES}/starting.py",
        old='            line += f" {shlex.quote(word)}"\n',
        new="            line += f' \"{word}\"'\n",
        rule="nothing that a VM said is run by the shell",
        tests=f"{_UNIT}/test_starting.py",
        chosen="run_by_the_shell or beside_it",
    ),
    Mutant(
        name="a file that QEMU names is opened by its path",
        file=f"{_DRIVER}/machine/files.py",
        old="    source = roots.open(tenant, path)\n",
        new="    from services.change_capture.drivers.local.roots import OpenSource\n"
        "    source = OpenSource(path, os.open(path, os.O_RDONLY))\n",
        rule="no path that a process names is opened outside of the tenant's roots",
        tests=_FAKES,
        chosen="outside_of_the_roots",
    ),
    Mutant(
        name="any file that is read-only is firmware",
        file=f"{_DRIVER}/machine/files.py",
        old="    return not (flash.is_read_only and is_firmware(flash.file))\n",
        new="    return not flash.is_read_only\n",
        rule="a script names no file of the host but firmware of the distribution",
        tests=_FAKES,
        chosen="outside_of_the_roots",
    ),
    Mutant(
        name="a process that has another's number is believed",
        file=f"{_DRIVER}/machine/command_line.py",
        old="    if not any(_names(one, str(socket)) for one in arguments):\n",
        new="    if not arguments:\n",
        rule="a command line counts only if it names the socket",
        tests=_FAKES,
        chosen="does_not_name",
    ),
    Mutant(
        name="a process of another user is believed",
        file=f"{_DRIVER}/machine/command_line.py",
        old="        if process > 0 and folder.stat().st_uid == user:\n",
        new="        if process > 0:\n",
        rule="a command line counts only if its process is of the user that listened",
        tests=_FAKES,
        chosen="of_another_user",
    ),
    Mutant(
        name="a store of variables is read once",
        file=f"{_DRIVER}/machine/reading.py",
        old='        return "quiet" if self._read() == self._files else "fuzzy"\n',
        new='        return "quiet"\n',
        rule="what was written around the cut is said",
        tests=_REAL,
        chosen="written_at_the_cut",
    ),
    Mutant(
        name="a definition that fails leaves views open",
        file=f"{_DRIVER}/driver.py",
        old="                    self._views.end(view.names)\n                self._undo",
        new="                    pass\n                self._undo",
        rule="a cut that fails leaves nothing in the VM",
        tests=_REAL,
        chosen="fails_after_the_cut",
    ),
    Mutant(
        name="a disk that is gone is still asked for",
        file=f"{_DRIVER}/machine/telling.py",
        old="        if not _is_there(qmp, device):",
        new="        if False:",
        rule="a disk that was unplugged holds no snapshot up",
        tests=_REAL,
        chosen="plugged_in",
    ),
    Mutant(
        name="a tenant's VMs crowd out those of another",
        file=f"{_DRIVER}/machine/discovery.py",
        old="            if count == FOUND_COUNT_MAX:\n",
        new="            if False:\n",
        rule="an agent tells of a bounded number of VMs for each root",
        tests="tests/unit/change_capture/test_found_vms.py",
        chosen="crowd_out",
    ),
    Mutant(
        name="a VM of another node is resolved",
        file="libs/catalogdb/notifications/machines.py",
        old="WHERE kind = %s AND names ->> 'node' = %s\"",
        new="WHERE kind = %s AND %s <> ''\"",
        rule="a node speaks of its own VMs alone",
        tests="tests/integration/catalogdb/notifications/test_machines.py",
        chosen="switched_off",
    ),
)
