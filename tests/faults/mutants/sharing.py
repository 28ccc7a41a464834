"""Planted bugs in the one cut of a disk that several nodes write (the rules of `model/barrier`)."""

from tests.faults.mutants.mutant import Mutant

_FILTER = "services/change_capture/filter"
_TESTS = "tests/unit/change_capture/filter/test_sharing.py"
_CORE = "services/change_capture/coordinator/session.py"
_CORE_TESTS = "tests/unit/change_capture/test_session_followers.py"
_VOLUMES = "libs/catalogdb/volumes/sharing.py"
_VOLUMES_TESTS = "tests/integration/catalogdb/volumes/test_sharing.py"


def _shared(name: str, file: str, old: str, new: str, rule: str, chosen: str) -> Mutant:
    return Mutant(
        name=f"shared disk: {name}",
        file=f"{_FILTER}/{file}.py",
        old=old,
        new=new,
        rule=rule,
        tests=_TESTS,
        chosen=chosen,
    )


SHARING = (
    _shared(
        "the lead says saved and saves nothing",
        "sharing/lead",
        "            frozen.keep(first, last)\n",
        "",
        "before a follower overwrites, the lead has saved the chunk (model 5)",
        "overwrites_first",
    ),
    _shared(
        "a follower asks after it has overwritten",
        "volume",
        "        self._touch(offset, len(data))\n        self.disk.write(offset, data)\n",
        "        self.disk.write(offset, data)\n        self._touch(offset, len(data))\n",
        "the lead is asked before the write",
        "overwrites_first",
    ),
    _shared(
        "only the lead's bits are taken",
        "sharing/lead",
        "            found.add_packed(packed)\n",
        "",
        "what changed is the union of what any node has written (model 11)",
        "any_node_has_written",
    ),
    _shared(
        "the followers are not asked at the end",
        "cuts",
        "view.frozen.broken or (view.led.why_broken() if view.led else None)",
        "view.frozen.broken",
        "after the last read every node is asked whether it broke the view (model 8, 16)",
        "falls_silent",
    ),
    _shared(
        "a follower that got no answer says nothing",
        "sharing/follower",
        '            self.break_off(f"the {self._about} has not saved a chunk: {broken}")\n',
        "",
        "whoever overwrites what nobody saved says so (model 9)",
        "does_not_answer_breaks",
    ),
    _shared(
        "a node that lost its tracking counts as one that wrote nothing",
        "sharing/lead",
        '                found = TrackingLost(reason, f"node {node}: {answer.lost_message}")\n',
        "                del reason\n",
        "a node whose bits are missing makes the tracking of the disk lost (model 14)",
        "lost_its_tracking",
    ),
    _shared(
        "the lead holds although a follower is not connected",
        "cuts",
        "            if led:\n                led.require_all()\n",
        "",
        "every node that writes the disk is asked for, or nobody is cut",
        "before_all_are_connected",
    ),
    _shared(
        "a cut counts whose link to the lead broke before the release",
        "cuts",
        " and view.frozen.broken is None\n",
        "\n",
        "what a follower overwrites without the lead is not in a cut that counts",
        "link_broke_before",
    ),
    _shared(
        "whoever names a cut takes part in it",
        "sharing/channel",
        "        if not hmac.compare_digest(self._proof, expected):\n",
        "        if not expected:\n",
        "only who has the key of the attempt is believed",
        "belong",
    ),
    _shared(
        "a file that other nodes write is believed to be ours alone",
        "process",
        "stat.S_ISREG(status.st_mode) and not disk.is_direct",
        "stat.S_ISREG(status.st_mode)",
        "what other nodes write does not lose this node's tracking",
        "clean_restart",
    ),
    Mutant(
        name="shared disk: nodes hold before all followers are connected",
        file=_CORE,
        old="        case Phase.OPENED if not outstanding(state):",
        new="        case Phase.OPENED:",
        rule="followers connect before anybody holds",
        tests=_CORE_TESTS,
        chosen="nobody_holds_before",
    ),
    Mutant(
        name="shared disk: what a node that left has written is forgotten",
        file=_VOLUMES,
        old="                [volume.volume_no, names[1]],\n            )\n"
        "        _distrust(tx, volume)\n",
        new="                [volume.volume_no, names[1]],\n            )\n",
        rule="after a node has left, nothing that was tracked since the head is believed",
        tests=_VOLUMES_TESTS,
        chosen="leave",
    ),
)
