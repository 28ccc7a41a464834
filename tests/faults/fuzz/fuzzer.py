"""`python -m tests.faults.fuzz.fuzzer FOLDER RUNS SEED TARGET…`: guided by coverage (libFuzzer).

Each target runs in a child process, because libFuzzer takes over the whole process and because the
bounds hold for a process: no input may take longer than SECONDS_MAX, and the address space may grow
by MEMORY_BYTES_MAX at most, so that a length that is believed before it is checked ends in a
MemoryError, which is a finding. FOLDER/TARGET/log tells what happened; a finding is beside it as
`crash-…` or `timeout-…`.
"""

import os
import resource
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # no stubs

with atheris.instrument_imports(include=["libs", "services"]):
    from tests.faults.fuzz.targets import TARGETS

from tests.faults.fuzz.target import Target

#: An input of a few KiB takes microseconds; on a machine that is busy with other tests, some more.
SECONDS_MAX = 10
#: A manifest may expand to 16 MiB and is decoded to a small multiple of that.
MEMORY_BYTES_MAX = 192 << 20


def main() -> None:
    """Fuzz one target after another."""
    folder, runs, seed, *names = sys.argv[1:]
    for name in names:
        here = Path(folder) / name
        (here / "corpus").mkdir(parents=True)
        child = os.fork()
        if not child:
            _log_to(here / "log")
            _fuzz(TARGETS[name], here, int(runs), seed)
        os.waitpid(child, 0)


def _log_to(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _fuzz(target: Target, folder: Path, runs: int, seed: str) -> None:
    """Never returns: libFuzzer ends the process."""
    for number, data in enumerate(target.seeds()):
        (folder / "corpus" / f"seed-{number}").write_bytes(data)
    options = [
        f"-runs={max(1, runs // target.cost)}",
        f"-seed={seed}",
        f"-max_len={target.size_bytes_max}",
        "-len_control=0",
        f"-timeout={SECONDS_MAX}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([target.name, *options, str(folder / "corpus")], target.run)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY_BYTES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
