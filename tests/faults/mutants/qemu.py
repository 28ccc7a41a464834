"""Planted bugs in the driver that asks QEMU's dirty bitmaps."""

from tests.faults.mutants.mutant import Mutant

_DRIVER = "services/change_capture/drivers/qemu"
_BITMAPS = f"{_DRIVER}/bitmaps.py"
_CUT = f"{_DRIVER}/cut.py"
_REAL = "tests/integration/qemu"

QEMU = (
    Mutant(
        name="a bitmap begins after the cut",
        file=_CUT,
        old="    for one in disks:\n        access =",
        new="    import time\n"
        "    time.sleep(0.2)\n"
        "    for one in disks:\n"
        "        of = {'node': one.disk.node.name, 'name': one.names.since_cut}\n"
        '        qmp.execute("block-dirty-bitmap-clear", **of)\n'
        "        access =",
        rule="what is written since the cut is in the bitmap, which begins before it",
        tests=f"{_REAL}/test_frozen_views.py",
        chosen="one_moment",
    ),
    Mutant(
        name="a scratch file without room fails the guest",
        file=_CUT,
        old='on_cbw_error="break-snapshot"',
        new='on_cbw_error="break-guest-write"',
        rule="a full scratch disk breaks the snapshot, never a guest's write",
        tests=f"{_REAL}/test_frozen_views.py",
        chosen="without_room",
    ),
    Mutant(
        name="a scratch file that takes nothing holds the guest",
        file=_CUT,
        old="cbw_timeout=_COPY_SECONDS_MAX",
        new="cbw_timeout=0",
        rule="a guest waits for a slow scratch disk for a bounded time",
        tests=f"{_REAL}/test_frozen_views.py",
        chosen="takes_nothing",
    ),
    Mutant(
        name="disks of one VM are cut one after the other",
        file=_CUT,
        old='        qmp.execute("blockdev-reopen", options=options)\n',
        new="        import time\n"
        "        for one in options:\n"
        "            time.sleep(0.05)\n"
        '            qmp.execute("blockdev-reopen", options=[one])\n',
        rule="disks of one process are cut at one instant",
        tests=f"{_REAL}/test_cut_together.py",
        chosen="without_its_cause",
    ),
    Mutant(
        name="disks of several processes are of one moment",
        file=f"{_DRIVER}/gate.py",
        old="len(paths) == self._volume_count)",
        new="True)",
        rule="a view says that it is frozen only if all that was cut with it is of its moment",
        tests=f"{_REAL}/test_cut_together.py",
        chosen="barrier_lets",
    ),
    Mutant(
        name="a VM with iothreads is captured",
        file=f"{_DRIVER}/process.py",
        old="        if names:\n",
        new="        if False:\n",
        rule="no capture brings a VM down",
        tests=f"{_REAL}/test_virtual_machines.py",
        chosen="bring_down",
    ),
    Mutant(
        name="a bitmap of another device is read",
        file=_BITMAPS,
        old="    if found.device != _device(view):\n",
        new="    if False:\n",
        rule="tracking belongs to one device",
        tests=_REAL,
        chosen="resize_of_a_running or another_vm_behind",
    ),
    Mutant(
        name="a bitmap that was disabled is believed",
        file=_BITMAPS,
        old="    if not bitmap.is_recording:\n",
        new="    if False:\n",
        rule="only a bitmap that records is believed",
        tests=f"{_REAL}/test_kept_bitmaps.py",
        chosen="somebody_changed",
    ),
    Mutant(
        name="a bitmap that could be saved is not",
        file=_BITMAPS,
        old='        "persistent": node is not None and node.keeps_bitmaps,\n',
        new='        "persistent": False,\n',
        rule="a disk in qcow2 keeps its bitmap over a restart of its VM",
        tests=f"{_REAL}/test_kept_bitmaps.py",
        chosen="restart_of_the_vm_keeps",
    ),
    Mutant(
        name="a rejected session's bitmap replaces the base's",
        file=_BITMAPS,
        old="{order.session} if sealed else base)\n",
        new="{order.session})\n",
        rule="the bitmap of the base is kept until the next one is sealed",
        tests=f"{_REAL}/test_kept_bitmaps.py",
        chosen="session_that_failed",
    ),
    Mutant(
        name="the bitmaps of other volumes are removed",
        file=_BITMAPS,
        old="            if name and name.volume == volume and name.session not in sessions:\n",
        new="            if name and name.session not in sessions:\n",
        rule="what is somebody else's is never touched",
        tests=f"{_REAL}/test_kept_bitmaps.py",
        chosen="of_others",
    ),
    Mutant(
        name="what another agent makes is left over",
        file=f"{_DRIVER}/names.py",
        old='    prefix = f"{_PREFIX}{agent}-"\n    view',
        new="    prefix = name[: len(_PREFIX) + len(agent) + 1]\n    view",
        rule="what is somebody else's is never touched",
        tests=f"{_REAL}/test_left_overs.py",
        chosen="another_agent",
    ),
    Mutant(
        name="an open view is left over",
        file=f"{_DRIVER}/own_views.py",
        old="lambda view: view not in self._open)\n",
        new="lambda view: True)\n",
        rule="only what is of no open view is removed",
        tests=f"{_REAL}/test_frozen_views.py",
        chosen="several_views",
    ),
    Mutant(
        name="a view is made before it is noted",
        file=f"{_DRIVER}/own_views.py",
        old='        self._records.write("views", names.view, DiskRecord(tenant, str(path)))\n'
        "        self",
        new="        self",
        rule="a view is noted before anything of it is made",
        tests=f"{_REAL}/test_left_overs.py",
        chosen="kill_after_each_step",
    ),
    Mutant(
        name="a QMP socket is reached by its path",
        file=f"{_DRIVER}/process.py",
        old="        found = self._roots.open_socket(self.tenant, self.socket)\n"
        "        try:\n"
        "            qmp",
        new="        from services.change_capture.drivers.local.roots import OpenSource\n"
        "        found = OpenSource(self.socket, os.open(self.socket, os.O_PATH))\n"
        "        try:\n"
        "            qmp",
        rule="an agent connects to no socket outside of the tenant's roots",
        tests=f"{_REAL}/test_granted_sockets.py",
        chosen="outside",
    ),
)
