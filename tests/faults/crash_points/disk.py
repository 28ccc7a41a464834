"""Disks of a case: files that their users write to, and the truth about them."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from libs.packs.layout import CHUNK_SIZE_BYTES

#: Chunk index → value; what is missing is zero.
Content = dict[int, int]


@dataclass
class Disk:
    """A volume's file, and the truth about it: chunk index → value; what is missing is zero."""

    path: Path
    chunk_count: int
    seed: int
    content: Content
    #: Every value that was ever written.
    past: list[int] = field(default_factory=list)

    def write(self, changes: Mapping[int, int]) -> None:
        """Set chunks to values; 0 makes a chunk zero."""
        with self.path.open("r+b") as file:
            for index, value in changes.items():
                file.seek(index * CHUNK_SIZE_BYTES)
                file.write(self.chunk(value))
                self.content[index] = value
                self.past.append(value)

    def restore(self, content: Content, past: list[int]) -> None:
        """Make it what it was; it stays the same file, to which fingerprints are tied."""
        with self.path.open("r+b") as file:
            file.truncate(0)
            file.truncate(self.chunk_count * CHUNK_SIZE_BYTES)
        self.content = {}
        self.write({index: value for index, value in content.items() if value})
        self.content, self.past = dict(content), list(past)

    def chunk(self, value: int) -> bytes:
        """The bytes of a chunk of this value: of this case only, and quickly compressed."""
        if value == 0:
            return bytes(CHUNK_SIZE_BYTES)
        return struct.pack("<QQ", self.seed + 1, value) * (CHUNK_SIZE_BYTES // 16)

    def bytes_of(self, content: Content) -> bytes:
        """The whole volume with this content."""
        return b"".join(self.chunk(content.get(index, 0)) for index in range(self.chunk_count))
