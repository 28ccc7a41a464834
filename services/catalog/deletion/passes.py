"""A pass of collection as steps: bounded pieces of work that anybody may do, here or elsewhere.

A step is named by a cursor, says what it freed, and gives the cursor of the next one. A pass holds
nothing between its steps: the loop of the catalog service and `backcast gc` go through the same
ones, at the same time if need be, on any replica.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

from libs.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Freed:
    """What was done by some steps."""

    packs_condemned: int = 0
    packs_deleted: int = 0
    #: Bytes of the packs deleted.
    freed_bytes: int = 0
    manifests_deleted: int = 0
    #: Objects that the store did not delete now; tried again later.
    failures: int = 0

    def __add__(self, other: "Freed") -> "Freed":
        """Both together."""
        return Freed(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Freed)))


#: Does the next piece after a position ("" to begin): what it freed, and its end (None: all done).
Stage = Callable[[str], tuple[Freed, str | None]]


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to."""

    freed: Freed
    #: Of the next step; None: the pass is over.
    cursor: str | None


class Collection:
    """The stages of a pass, in order. Thread-safe if its stages are.

    Args:
        stages: by their names, which are part of cursors.
    """

    def __init__(self, stages: Mapping[str, Stage]) -> None:
        self._stages = dict(stages)
        self._names = list(stages)

    def steps(self) -> Iterator[Step]:
        """A whole pass. Raises as `step` does."""
        step = self.step(None)
        yield step
        while step.cursor is not None:
            step = self.step(step.cursor)
            yield step

    def step(self, cursor: str | None) -> Step:
        """Do one step.

        Args:
            cursor: where the step before ended; None to begin a pass.

        Raises:
            BadInputError: no such cursor.
            NotReconciledError: nothing may be deleted now.
            UnavailableError: catalog or store do not answer; the same step may be tried again.
        """
        name, _, position = (cursor or f"{self._names[0]}:").partition(":")
        if name not in self._stages:
            raise BadInputError(f"cursor {name[:40]!r}: expected what the step before answered")
        freed, end = self._stages[name](position)
        if end is not None:
            return Step(freed, f"{name}:{end}")
        after = self._names.index(name) + 1
        return Step(freed, f"{self._names[after]}:" if after < len(self._names) else None)
