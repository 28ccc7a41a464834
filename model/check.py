"""Check the model: every configuration holds, every weakened variant and every probe fails.

`python -m model.check` runs all of them, two at once, and ends with 1 if anything is not as
expected. `--trail 6` or `--trail 2+3` shows the counterexample of a variant, step by step.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from model.runs import CONFIGURATIONS, PROBES, STATES_MIN, VARIANTS, Variant
from model.spin import Defines, Search, SpinError, search, trail

#: The searches take 4 GiB together at most, and CI has two cores.
_PARALLEL = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One search and what it must find."""

    title: str
    defines: Defines
    must_fail: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one search found, or why it found nothing."""

    case: Case
    found: Search | None
    error: str = ""

    @property
    def as_expected(self) -> bool:
        """Whether the search was completed and said what it must."""
        return self.found is not None and (self.found.violated is not None) == self.case.must_fail

    def line(self) -> str:
        """The outcome as a row of the table."""
        if self.found is None:
            return f"{self.case.title:<72} {self.error}"
        verdict = "holds" if self.found.violated is None else "fails"
        judgement = "" if self.as_expected else "   NOT AS EXPECTED"
        figures = f"{self.found.states:>11,} {self.found.seconds:>6.1f}"
        return f"{self.case.title:<72} {figures}  {verdict}{judgement}"


def cases() -> list[Case]:
    """All searches, the longest first, so that two of them keep two cores busy to the end."""
    holding = [Case(f"protocol: {name}", c, False) for name, c in CONFIGURATIONS.items()]
    weak = [Case(f"without {v.name}: {v.rule}", v.defines(), True) for v in VARIANTS]
    probes = [
        Case(f"probe {number}: {event}", {**CONFIGURATIONS[where], "PROBE": number}, True)
        for number, event, where in PROBES
    ]
    return [*holding, *weak, *probes]


def run(case: Case) -> Outcome:
    """One search, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="backcast-model-") as folder:
        try:
            return Outcome(case, search(case.defines, Path(folder)))
        except SpinError as err:
            return Outcome(case, None, str(err))


def check(chosen: Sequence[Case]) -> bool:
    """Run the searches and print the table; whether everything is as expected."""
    begun = time.monotonic()
    print(f"{'':<72} {'states':>11} {'s':>6}")
    outcomes = []
    with ThreadPoolExecutor(_PARALLEL) as searches:
        for outcome in searches.map(run, chosen):
            print(outcome.line(), flush=True)
            outcomes.append(outcome)
    wrong = sum(not outcome.as_expected for outcome in outcomes)
    states = sum(o.found.states for o in outcomes if o.found and not o.case.must_fail)
    enough = states >= STATES_MIN
    print(
        f"\n{len(outcomes)} searches, {wrong} not as expected; {states:,} states of the protocol "
        f"(at least {STATES_MIN:,} are asked for); {time.monotonic() - begun:.0f} s"
    )
    return not wrong and enough


def show(variant: Variant) -> bool:
    """Print the steps by which a variant loses or leaks; whether it does."""
    with tempfile.TemporaryDirectory(prefix="backcast-model-") as folder:
        found = search(variant.defines(), Path(folder))
        print(f"without {variant.name}: {variant.rule}\nscenarios {variant.scenarios}\n")
        if found.violated is None:
            print(f"holds in all {found.states:,} states")
            return False
        for number, step in enumerate(trail(variant.defines(), Path(folder)), 1):
            print(f"{number:>3}  {step}")
        print(f"     {found.violated}")
        return True


def _missing(commands: Iterable[str]) -> list[str]:
    return [command for command in commands if shutil.which(command) is None]


def main() -> int:
    """Exit status: 0 all as expected, 1 not, 2 a tool is missing or the arguments are wrong."""
    parser = argparse.ArgumentParser(prog="python -m model.check", description=__doc__)
    parser.add_argument("--trail", metavar="RULES", help="show the counterexample of one variant")
    arguments = parser.parse_args()
    if missing := _missing(["spin", "gcc"]):
        print(f"missing: {', '.join(missing)}; apt-get install spin gcc", file=sys.stderr)
        return 2
    if arguments.trail is None:
        return 0 if check(cases()) else 1
    variant = next((v for v in VARIANTS if v.name == arguments.trail), None)
    if variant is None:
        names = " ".join(v.name for v in VARIANTS)
        print(f"no variant {arguments.trail}; there are: {names}", file=sys.stderr)
        return 2
    return 0 if show(variant) else 1


if __name__ == "__main__":
    sys.exit(main())
