"""`python -m tests.faults.disks.attack FOLDER`: fill the disk of each process in turn.

Run by `test_full_disks` in a mount namespace where `DISK_SIZES_MIB` are mounted below FOLDER. What
it counted is in FOLDER/figures.json. Ends with an error at the first thing that is not as it must
be.
"""

import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.home import BackcastHome
from deploy.local.process import wait_until
from deploy.local.servers.s3 import S3Choice
from libs.errors import BackcastError
from tests.faults.disks.disk import SmallDisk
from tests.faults.disks.faults import FAULTS, FullDisk
from tests.faults.proxies.link import Trigger
from tests.faults.site import SERVICES, FaultSite, ProxiedCluster
from tests.faults.volumes import AttackedVolume

MIB = 1 << 20
SEED = 20261127
FIGURES = "figures.json"
#: Three spans: what is published and registered of them needs new pages everywhere.
_VOLUME_SIZE_BYTES = 24 * MIB
#: By process. Room for what the servers keep by themselves, and no more: it is memory.
DISK_SIZES_MIB = {"kafka": 64, "postgres": 192, "minio": 256, "agent": 16}
#: Time without progress after which a session ends (30 s here), and to notice that it has passed.
_ANSWER_SECONDS_MAX = 45.0
#: From the start of a server that had halted until each process says that it is ready.
_RECOVERY_SECONDS_MAX = 40.0


def home_of(folder: Path) -> BackcastHome:
    """The home whose data folders are on small disks."""
    return BackcastHome(folder / "home", tied=True)


@dataclass
class Figures:
    """What the run did."""

    faults: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    sealed_after_waiting: int = 0
    restored_while_full: int = 0
    restores_refused: int = 0
    servers_halted: int = 0
    next_attempts_sealed: int = 0
    acknowledged_restored_and_right: int = 0
    longest_refusal_seconds: float = 0.0
    longest_recovery_seconds: float = 0.0


class Attack:
    """Fills disks of a site, one at a time.

    Args:
        site: without a supervisor: a service that ends is a failure.
    """

    def __init__(self, site: FaultSite) -> None:
        self.site = site
        self.figures = Figures()
        self._pids = {name: site.pid_of(name) for name in SERVICES}

    def run(self, fault: FullDisk) -> None:
        """One disk: a snapshot before, one while it is full, one after."""
        disk = SmallDisk(self.site.cluster.home.data(fault.process))
        volume = AttackedVolume(
            self.site, fault.name, _VOLUME_SIZE_BYTES, random.Random(f"{SEED} {fault.name}")
        )
        assert volume.take(), volume.last_refusal
        volume.change(0.6)
        begun = time.monotonic()
        with self._asking(fault, disk, volume) as asked:
            fault.meanwhile(self.site, asked)
            if fault.refusal:
                assert not asked.result(), f"{fault.name}: nothing was full"
                self._check_refusal(fault, volume, time.monotonic() - begun)
                self._restore_while_full(fault, volume)
            self._relieve(fault, disk, volume)
            if not fault.refusal:
                assert asked.result(), f"{fault.name}: {volume.last_refusal}"
                self.figures.sealed_after_waiting += 1
        volume.wait_until_ended()
        volume.change(0.1)
        assert volume.take(), f"{fault.name}: the next attempt fails: {volume.last_refusal}"
        self.figures.next_attempts_sealed += 1
        self.figures.acknowledged_restored_and_right += volume.assert_nothing_is_lost()
        now = {name: self.site.pid_of(name) for name in SERVICES}
        assert now == self._pids, f"{fault.name}: services ended: {self._pids}, now {now}"
        self.figures.faults += 1

    @contextmanager
    def _asking(
        self, fault: FullDisk, disk: SmallDisk, volume: AttackedVolume
    ) -> Iterator["Future[bool]"]:
        """A client that asks for a snapshot, and waits for it while the disk is full."""
        with ThreadPoolExecutor(1, thread_name_prefix="client") as client:
            if fault.point is None:
                fault.strike(self.site, disk, volume)
                yield client.submit(volume.ask)
                return
            trigger = Trigger(fault.point, before=lambda _: fault.strike(self.site, disk, volume))
            with self.site.proxied.s3_proxy.striking(trigger):
                asked = client.submit(volume.ask)
                assert trigger.struck.wait(_ANSWER_SECONDS_MAX), "the fault found nothing to strike"
                yield asked

    def _check_refusal(self, fault: FullDisk, volume: AttackedVolume, seconds: float) -> None:
        print(f"{fault.name}: refused after {seconds:.1f} s: {volume.last_refusal}")
        missing = [words for words in fault.refusal if words not in volume.last_refusal]
        assert not missing, f"{fault.name}: {volume.last_refusal!r} does not say {missing}"
        assert seconds < _ANSWER_SECONDS_MAX, f"{fault.name}: answered after {seconds:.0f} s"
        self.figures.refused[volume.last_refusal.partition(":")[0]] += 1
        self.figures.longest_refusal_seconds = max(
            self.figures.longest_refusal_seconds, round(seconds, 1)
        )

    def _restore_while_full(self, fault: FullDisk, volume: AttackedVolume) -> None:
        for session, sequence in volume.acknowledged.items():
            try:
                is_right, refusal = volume.restores(str(sequence), volume.asked[session]), ""
            except BackcastError as err:
                is_right, refusal = False, f"{err.code}: {err}"
            if refusal:
                assert fault.refuses_restores, f"{fault.name}@{sequence}: {refusal}"
                missing = [words for words in fault.refusal if words not in refusal]
                assert not missing, f"{fault.name}: {refusal!r} does not say {missing}"
                self.figures.restores_refused += 1
            else:
                assert is_right, f"{fault.name}@{sequence} restores to other bytes"
                self.figures.restored_while_full += 1

    def _relieve(self, fault: FullDisk, disk: SmallDisk, volume: AttackedVolume) -> None:
        fault.relieve(self.site, disk, volume)
        begun = time.monotonic()

        def everything_works() -> bool:
            # What halts on a full disk takes its time: it may end when there is room again.
            if self.site.pid_of(fault.process) is None:
                assert fault.halts, f"{fault.name}: {fault.process} has ended"
                self.figures.servers_halted += 1
                self.site.start(fault.process)
            return self.site.down_count() == 0

        assert wait_until(everything_works, _RECOVERY_SECONDS_MAX), f"{fault.name}: still down"
        seconds = round(time.monotonic() - begun, 1)
        print(f"{fault.name}: everything works {seconds} s after there was room")
        self.figures.longest_recovery_seconds = max(self.figures.longest_recovery_seconds, seconds)
        disk.make_room()


def main() -> None:
    """Fill all of them, on a cluster of its own."""
    folder = Path(sys.argv[1])
    volumes = folder / "volumes"
    volumes.mkdir()
    cluster = ProxiedCluster(home_of(folder))
    try:
        cluster.up(print, s3=S3Choice.MINIO)
        attack = Attack(FaultSite(cluster, volumes))
        for fault in FAULTS:
            begun = time.monotonic()
            attack.run(fault)
            print(f"{fault.name}: done after {time.monotonic() - begun:.1f} s")
    finally:
        cluster.down(print)
        cluster.close_proxies()
        shutil.rmtree(volumes)
    (folder / FIGURES).write_text(json.dumps(vars(attack.figures)))


if __name__ == "__main__":
    main()
