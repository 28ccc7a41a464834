"""Ways in which stored objects go wrong. Each takes a bucket's content and changes it in place."""

import random
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

Objects = MutableMapping[str, bytes]


def flip_bit(objects: Objects, key: str, chance: random.Random) -> None:
    """A bit rots on a disk, in a controller or in memory that has no error correction."""
    bit = chance.randrange(8 * len(objects[key]))
    flip(objects, key, bit)


def flip(objects: Objects, key: str, bit: int) -> None:
    """Flip one bit of one object."""
    content = bytearray(objects[key])
    content[bit // 8] ^= 1 << bit % 8
    objects[key] = bytes(content)


def flip_near_an_end(objects: Objects, key: str, chance: random.Random) -> None:
    """The same where headers, trailers, footers and MACs lie: lengths are believed there or not."""
    size = len(objects[key])
    at = chance.randrange(min(512, size))
    flip(objects, key, 8 * (at if chance.random() < 0.4 else size - 1 - at) + chance.randrange(8))


def overwrite(objects: Objects, key: str, chance: random.Random) -> None:
    """A sector of another file, or of zeros, is written in the middle of an object."""
    content = bytearray(objects[key])
    start = chance.randrange(len(content))
    length = min(chance.choice((1, 16, 512, 4096)), len(content) - start)
    source = objects[chance.choice(sorted(objects))]
    at = chance.randrange(max(1, len(source) - length))
    piece = source[at : at + length] if chance.random() < 0.7 else bytes(length)
    content[start : start + len(piece)] = piece
    objects[key] = bytes(content)


def cut_off(objects: Objects, key: str, chance: random.Random) -> None:
    """A server crashed while it wrote, and serves what there is."""
    objects[key] = objects[key][: chance.randrange(len(objects[key]))]


def empty(objects: Objects, key: str, chance: random.Random) -> None:
    """A file system lost the content of a file and kept its name."""
    objects[key] = b""


def lengthen(objects: Objects, key: str, chance: random.Random) -> None:
    """A file is served with what lay behind it on the disk."""
    objects[key] += chance.randbytes(chance.choice((1, 16, 4096)))


def lose(objects: Objects, key: str, chance: random.Random) -> None:
    """Somebody deletes an object."""
    del objects[key]


def exchange(objects: Objects, key: str, chance: random.Random) -> None:
    """A restored directory, or an index of a server, mixes up two objects."""
    other = chance.choice(sorted(objects))
    objects[key], objects[other] = objects[other], objects[key]


def serve_another(objects: Objects, key: str, chance: random.Random) -> None:
    """An older version, or another object of the same kind, is served under this name."""
    kind = key.partition("/")[0]
    objects[key] = objects[chance.choice([one for one in sorted(objects) if one.startswith(kind)])]


@dataclass(frozen=True, slots=True)
class Harm:
    """A way to go wrong, and how often it is tried among the others."""

    inflict: Callable[[Objects, str, random.Random], None]
    weight: int


HARMS = (
    Harm(flip_bit, 40),
    Harm(flip_near_an_end, 20),
    Harm(overwrite, 10),
    Harm(cut_off, 8),
    Harm(empty, 2),
    Harm(lengthen, 5),
    Harm(lose, 3),
    Harm(exchange, 6),
    Harm(serve_another, 6),
)
