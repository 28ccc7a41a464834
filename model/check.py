"""Check the models: every configuration holds, every weakened variant and every probe fails.

`python -m model.check` runs all of them, two at once, and ends with 1 if anything is not as
expected. `--trail 6` or `--trail 2+3` shows the counterexample of a variant of the protocol, step
by step, and `--trail barrier:6` one of the barrier.
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

from model.barrier import BARRIER
from model.protocol import PROTOCOL
from model.searches import Model, Variant
from model.spin import Defines, Search, SpinError, search, trail

#: The searches take 4 GiB together at most, and CI has two cores.
_PARALLEL = 2
_MODELS = (PROTOCOL, BARRIER)


@dataclass(frozen=True, slots=True)
class Case:
    """One search and what it must find."""

    title: str
    model: Model
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
    holding, failing = list[Case](), list[Case]()
    for model in _MODELS:
        name = model.name
        holding += [
            Case(f"{name}: {title}", model, defines, False)
            for title, defines in model.configurations.items()
        ]
        failing += [
            Case(f"{name} without {one.name}: {one.rule}", model, model.weakened(one), True)
            for one in model.variants
        ]
        failing += [
            Case(f"{name}, probe {one.number}: {one.event}", model, model.probing(one), True)
            for one in model.probes
        ]
    return [*holding, *failing]


def run(case: Case) -> Outcome:
    """One search, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="backcast-model-") as folder:
        try:
            return Outcome(case, search(case.model.file, case.defines, Path(folder)))
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
    enough = True
    for model in _MODELS:
        states = sum(
            one.found.states
            for one in outcomes
            if one.found and one.case.model is model and not one.case.must_fail
        )
        enough = enough and states >= model.states_min
        print(f"{model.name}: {states:,} states (at least {model.states_min:,} are asked for)")
    seconds = time.monotonic() - begun
    print(f"{len(outcomes)} searches, {wrong} not as expected; {seconds:.0f} s")
    return not wrong and enough


def show(model: Model, variant: Variant) -> bool:
    """Print the steps by which a variant loses or leaks; whether it does."""
    with tempfile.TemporaryDirectory(prefix="backcast-model-") as folder:
        found = search(model.file, model.weakened(variant), Path(folder))
        print(f"without {variant.name}: {variant.rule}\nscenarios {variant.scenarios}\n")
        if found.violated is None:
            print(f"holds in all {found.states:,} states")
            return False
        for number, step in enumerate(trail(model.file, model.weakened(variant), Path(folder)), 1):
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
    variants = {
        one.name if model is PROTOCOL else f"{model.name}:{one.name}": (model, one)
        for model in _MODELS
        for one in model.variants
    }
    if arguments.trail not in variants:
        print(f"no variant {arguments.trail}; there are: {' '.join(variants)}", file=sys.stderr)
        return 2
    return 0 if show(*variants[arguments.trail]) else 1


if __name__ == "__main__":
    sys.exit(main())
