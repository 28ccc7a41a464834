"""Writers of the witness as processes, one for each node."""

import select
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

from deploy.local.process import outer_environ
from deploy.local.services import SOURCE
from deploy.witness.records import Layout
from libs.errors import UnavailableError

#: A writer answers after its step, which waits while its writes are held.
ANSWER_SECONDS_MAX = 30.0


class RunningWriter:
    """A process that writes as one node, until it is stopped or its disk fails.

    Args:
        layout: of the disk.
        node: which node it is, from 0.
        disks: as `python -m deploy.witness` takes them.
        pause_seconds: between two steps, so that writers leave the processors to others.
    """

    def __init__(
        self, layout: Layout, node: int, disks: Sequence[str], pause_seconds: float = 0.0
    ) -> None:
        self.node = node
        counts = {
            "trial": layout.trial,
            "nodes": layout.nodes,
            "contended": layout.contended,
            "slots": layout.slots,
            "node": node,
            "pause": pause_seconds,
        }
        options = [f"--{name}={value}" for name, value in counts.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deploy.witness", "write", *disks, *options],
            cwd=SOURCE,
            env=outer_environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self) -> tuple[int, float]:
        """Number of its newest acknowledged record, and its longest step since the last question.

        Raises:
            UnavailableError: it has ended, or its writes are held for too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            if select.select([self._process.stdout], [], [], ANSWER_SECONDS_MAX)[0]:
                line = self._process.stdout.readline()
        except OSError:
            line = b""
        if not line:
            raise UnavailableError(
                f"writer of node {self.node}: it does not answer; was its disk taken away?"
            )
        number, seconds = line.split()
        return int(number), float(seconds)

    def stop(self) -> None:
        """Let it end after its step, or end it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(ANSWER_SECONDS_MAX)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()
