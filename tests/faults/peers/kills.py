"""`python -m tests.faults.peers.kills [KILLS]`: kill -9 of other programs' backups and prunes.

The oracle is the one of `tests.faults.kills`: what a command acknowledged by exit status 0 restores
byte for byte, and the next attempt succeeds. Half of the kills strike when a number of files has
been written to the repository, the others at a random moment. Every third command is a prune down
to the last three snapshots; what it may remove is no longer asked for. Where the next attempt is
refused because of the dead one's lock, the lock is broken as the manual says, and that is counted.
Writes `build/faults/peers-kills.json`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.peers.programs import PROGRAMS, Program

SEED = 20261122
_SIZE_BYTES = 24 << 20
_CHANGE_BYTES = 8 << 20
_KEEP = 3
_FILES_MAX = 6
_POLL_SECONDS = 0.0005

#: Removing all but the last snapshots, in one command, and what breaks a dead process's lock.
_PRUNE = {
    "restic": ("forget", "--keep-last", str(_KEEP), "--group-by", "host", "--prune"),
    "borg": ("prune", "--keep-last", str(_KEEP)),
}
_BREAK_LOCK = {"restic": ("unlock",), "borg": ("break-lock",)}


class Victim:
    """A program, the file that it protects, and what it acknowledged."""

    def __init__(self, program: Program, seed: int) -> None:
        self.program = program
        self.chance = random.Random(seed)
        self.source = program.folder / "disk"
        self.content = bytearray(self.chance.randbytes(_SIZE_BYTES))
        #: Content by label, of what was acknowledged and no prune may have removed.
        self.acknowledged: dict[str, bytes] = {}
        self.counts = Counter[str]()
        self.recovery_seconds: list[float] = []
        self._labels = 0
        self._seconds = 1.0

    def run(self, kills: int) -> None:
        """Kill so often."""
        assert self.program.init() == 0, self.program.log.read_text()
        begun = time.monotonic()
        assert self._attempt()
        self._seconds = time.monotonic() - begun
        while self.counts["kills"] < kills:
            if self.counts["kills"] % 3 == 2:
                self._kill_prune()
            else:
                self._kill_backup()
            self._expect_next()
        for label, content in self.acknowledged.items():
            self._restore(label, content)
        self.counts["check_passed"] = int(self.program.check() == 0)

    def _change(self) -> str:
        at = self.chance.randrange(_SIZE_BYTES - _CHANGE_BYTES)
        self.content[at : at + _CHANGE_BYTES] = self.chance.randbytes(_CHANGE_BYTES)
        self.source.write_bytes(self.content)
        self._labels += 1
        return f"number-{self._labels}"

    def _kill_backup(self) -> None:
        label = self._change()
        words = {
            "restic": ("backup", "--tag", label, self.source),
            "borg": ("create", f"::{label}", self.source),
        }[self.program.name]
        if self._killed(words):
            self.counts["kills_of_backup"] += 1
        else:
            self._note(label)

    def _kill_prune(self) -> None:
        kept = set(self.program.labels()[-_KEEP:])
        self.acknowledged = {k: v for k, v in self.acknowledged.items() if k in kept}
        self.counts["kills_of_prune"] += self._killed(_PRUNE[self.program.name])

    def _killed(self, words: tuple[str | Path, ...]) -> bool:
        """Run a command and kill it on its way; False if it ended with success before."""
        before = self._file_count()
        files = self.chance.randint(1, _FILES_MAX) if self.chance.random() < 0.5 else None
        seconds = self.chance.uniform(0.05, 1.0) * self._seconds
        begun = time.monotonic()
        with self.program.log.open("ab") as log:
            process = subprocess.Popen(
                self.program.argv(*words),
                env={**os.environ, **self.program.environment},
                stdout=log,
                stderr=log,
            )
            while process.poll() is None:
                waited = time.monotonic() - begun
                if waited > seconds if files is None else abs(self._file_count() - before) >= files:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(_POLL_SECONDS)
        if process.wait() == -signal.SIGKILL:
            self.counts["kills"] += 1
            return True
        self.counts["ended_before_the_kill"] += 1
        return False

    def _file_count(self) -> int:
        return sum(len(files) for _, _, files in os.walk(self.program.repository))

    def _attempt(self) -> bool:
        label = self._change()
        if self.program.backup(self.source, label) != 0:
            return False
        self._note(label)
        return True

    def _note(self, label: str) -> None:
        self.acknowledged[label] = bytes(self.content)
        self.counts["acknowledged"] += 1

    def _expect_next(self) -> None:
        begun = time.monotonic()
        if not self._attempt():
            self.counts["next_backups_refused_until_lock_broken"] += 1
            self.program.run(*_BREAK_LOCK[self.program.name])
            self.counts["next_backups_that_failed"] += not self._attempt()
        self.recovery_seconds.append(time.monotonic() - begun)
        if self.counts["kills"] % 3 == 0 and self.program.run(*self._dry_prune()) != 0:
            self.counts["next_prunes_refused_until_lock_broken"] += 1
            self.program.run(*_BREAK_LOCK[self.program.name])
            self.counts["next_prunes_that_failed"] += self.program.run(*self._dry_prune()) != 0
        label = self.chance.choice(sorted(self.acknowledged))
        self._restore(label, self.acknowledged[label])

    def _dry_prune(self) -> tuple[str, ...]:
        """A prune that takes the exclusive lock and removes nothing."""
        return (*_PRUNE[self.program.name], "--dry-run")

    def _restore(self, label: str, content: bytes) -> None:
        status, restored = self.program.restored(self.source, label)
        self.counts["restored"] += 1
        if restored != content:
            self.counts["wrong" if status == 0 else "lost"] += 1


def main() -> None:
    """Attack each program."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    results = {}
    for program_class in PROGRAMS:
        with tempfile.TemporaryDirectory() as folder:
            program = program_class(Path(folder))
            victim = Victim(program, SEED)
            begun = time.monotonic()
            victim.run(kills)
            recovery = sorted(victim.recovery_seconds)
            results[program.name] = {
                "version": program.version,
                "seed": SEED,
                "lost": 0,
                "wrong": 0,
                **victim.counts,
                "recovery_seconds_p50": round(recovery[len(recovery) // 2], 2),
                "recovery_seconds_p99": round(recovery[int(0.99 * (len(recovery) - 1))], 2),
                "seconds": round(time.monotonic() - begun),
            }
            print(program.name, json.dumps(results[program.name]))
    path = Path("build/faults/peers-kills.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
