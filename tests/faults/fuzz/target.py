"""What a fuzz target is, and how several parts of an input are told apart."""

from collections.abc import Callable
from dataclasses import dataclass

from libs.errors import BackcastError

#: Between the parts of an input; a mutation that adds or removes one only shifts the parts.
SEPARATOR = b"\x00\xff\x00"


@dataclass(frozen=True, slots=True)
class Target:
    """A reader of bytes from outside, inputs that it accepts, and what it may answer otherwise.

    ``read`` returns for an input that it accepts and asserts there what must then hold (most often:
    written again, it gives the same bytes). It raises one of ``refusals`` otherwise, and nothing
    else: any other exception is a finding.
    """

    name: str
    read: Callable[[bytes], None]
    #: Inputs that the fuzzer starts from; the first one is accepted.
    seeds: Callable[[], list[bytes]]
    #: The errors that the reader's docstring names.
    refusals: tuple[type[BackcastError], ...]
    #: Longest input that is tried.
    size_bytes_max: int = 4096
    #: How much longer one execution takes than usual; so many times fewer are made.
    cost: int = 1

    def run(self, data: bytes) -> bool:
        """Whether the input is accepted.

        Raises:
            Exception: a finding.
        """
        try:
            self.read(data)
        except self.refusals:
            return False
        return True


def parts_of(data: bytes, count: int) -> list[bytes]:
    """The parts of an input; missing ones are empty."""
    parts = data.split(SEPARATOR, count - 1)
    return parts + [b""] * (count - len(parts))


def text_of(part: bytes) -> str:
    """A part as text; any bytes are some text."""
    return part.decode(errors="replace")
