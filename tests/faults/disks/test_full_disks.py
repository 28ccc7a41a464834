"""Real servers on disks that are really full, one after the other.

What must hold: the client reads what is full and what to do, or waits and gets its snapshot; what
was acknowledged restores byte for byte, also meanwhile; no service ends; once there is room, the
next snapshot is sealed.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.fixtures import start_or_skip
from tests.faults.disks.attack import DISK_SIZES_MIB, FIGURES, SEED, home_of
from tests.faults.disks.disk import check_disks_can_be_mounted, with_disks
from tests.faults.disks.faults import FAULTS

#: It ends an attack that hangs: 168 s were taken on two cores for which others waited all the time.
_SECONDS_MAX = 600


@pytest.mark.slow
def test_full_disks_lose_nothing(tmp_path: Path, tally: Callable[..., None]) -> None:
    home = home_of(tmp_path)
    disks = {home.data(name): mib for name, mib in DISK_SIZES_MIB.items()}
    start_or_skip(lambda: check_disks_can_be_mounted(home.data("kafka")))
    # Its servers and services are tied to it, and it to us: nothing outlives a killed test.
    attack = [sys.executable, "-u", "-m", "tests.faults.disks.attack", str(tmp_path)]
    begun = time.monotonic()
    ended = subprocess.run(
        with_disks(disks, ["setpriv", "--pdeathsig", "KILL", *attack]),
        timeout=_SECONDS_MAX,
        check=False,
    )
    assert ended.returncode == 0, "the attack failed: see what it printed"
    figures = json.loads((tmp_path / FIGURES).read_text())
    refused = str(figures.pop("refused"))
    seconds = round(time.monotonic() - begun)
    tally("full disks", seed=SEED, refused=refused, **figures, lost=0, wrong=0, seconds=seconds)
    assert figures["faults"] == len(FAULTS)
    assert figures["servers_halted"] == sum(fault.halts for fault in FAULTS)
    assert figures["next_attempts_sealed"] == len(FAULTS)
    assert figures["acknowledged_restored_and_right"] >= 2 * len(FAULTS)
    always_restorable = [f for f in FAULTS if f.refusal and not f.refuses_restores]
    assert figures["restored_while_full"] >= len(always_restorable)
