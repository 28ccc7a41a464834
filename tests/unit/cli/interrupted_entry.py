"""The command, interrupted by a real SIGINT at its n-th import: ``python FILE N HOW ARGUMENTS``.

HOW is ``plain``, or ``finalizer``: the signal comes while a finalizer runs, where Python can raise
nothing. With N 0 it comes when the interpreter ends. What it prints on its last line is the number
of imports, if it was not interrupted.
"""

import atexit
import os
import signal
import sys


class _Finalized:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # the handler runs between two instructions
            pass


class _Interrupting:
    def __init__(self, number: int, how: str) -> None:
        self.number, self.how, self.count = number, how, 0

    def __call__(self, event: str, _: object) -> None:
        if event != "import":
            return
        self.count += 1
        if self.count == self.number:
            if self.how == "finalizer":
                _Finalized()
            else:
                os.kill(os.getpid(), signal.SIGINT)


def _run() -> int:
    from services.cli.entry import main

    interrupting = _Interrupting(int(sys.argv[1]), sys.argv[2])
    arguments = sys.argv[3:]
    if interrupting.number == 0:
        atexit.register(os.kill, os.getpid(), signal.SIGINT)
    sys.addaudithook(interrupting)
    status = main(arguments)
    print(f"imports {interrupting.count}", flush=True)
    return status


sys.exit(_run())
