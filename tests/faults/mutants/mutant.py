"""What a planted bug is."""

from dataclasses import dataclass
from pathlib import Path

SCENARIOS = "tests/faults/scenarios"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One rule taken out of the code, by replacing text that occurs exactly once."""

    name: str
    #: File of the code, from the root of the tree.
    file: str
    old: str
    new: str
    #: The rule that is gone then, as `protocol-scenarios` or the reliability page words it.
    rule: str
    #: Folder or file of the tests that must catch it, and which of them (pytest's -k).
    tests: str
    chosen: str

    def plant(self, tree: Path) -> None:
        """Take the rule out of a copy of the tree.

        Raises:
            ValueError: the text is not there exactly once: the code has moved on.
        """
        path = tree / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(
                f"mutant {self.name}: its text occurs {text.count(self.old)} times in {self.file}, "
                f"expected once; write it anew"
            )
        path.unlink()  # the copy shares its files with others
        path.write_text(text.replace(self.old, self.new))


def scenario(number: int, name: str, file: str, old: str, new: str, rule: str) -> Mutant:
    """A bug that the test of a scenario must catch."""
    return Mutant(
        name=f"{number:02d} {name}",
        file=file,
        old=old,
        new=new,
        rule=rule,
        tests=SCENARIOS,
        chosen=f"scenario_{number:02d}",
    )
