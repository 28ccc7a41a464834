"""Seeded images, the same on every machine: a mixed disk with its day 2 and clone, sparse disks.

The mixed disk is hard on purpose: duplicates lie at another alignment, and day 2 adds single 4 KiB
writes all over the disk besides clustered ones.
"""

import itertools
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
PAGE = 4096
BLOCK = 64 << 10

#: Byte shares of the mixed disk; "duplicate" copies earlier bytes to another 4 KiB-aligned place.
SHARES = {"zero": 0.35, "text": 0.25, "random": 0.20, "duplicate": 0.20}
#: Extents of the mixed disk have log-uniform sizes between these.
EXTENT_SIZE_BYTES_MIN, EXTENT_SIZE_BYTES_MAX = 64 << 10, 16 << 20


@dataclass(frozen=True)
class SparseShape:
    """A disk that is mostly holes."""

    size_bytes: int
    data_size_bytes: int
    extent_size_bytes: int


class Text:
    """Word soup with a Zipf law and record-like lines: compresses about threefold."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgkjqxz0123456789_-"
        weights = [1 / (rank + 3) for rank in range(len(letters))]
        self._words = [
            "".join(self._rng.choices(letters, weights, k=self._rng.randint(2, 10)))
            + ("\n" if index % 97 == 0 else " " if index % 5 else '": "')
            for index in range(6_000)
        ]
        self._rng.shuffle(self._words)
        self._cumulative = list(
            itertools.accumulate(rank**-1.05 for rank in range(1, len(self._words) + 1))
        )

    def make(self, size_bytes: int) -> bytes:
        """Returns the next `size_bytes` of text."""
        parts: list[bytes] = []
        missing = size_bytes
        while missing > 0:
            count = min(missing // 4 + 16, 200_000)
            words = self._rng.choices(self._words, cum_weights=self._cumulative, k=count)
            part = "".join(words).encode()[:missing]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def build_mixed(folder: Path, size_mib: int) -> None:
    """Makes golden.raw, day2.raw (1 % rewritten) and clone.raw (5 %) of `size_mib` MiB each."""
    golden = folder / "golden.raw"
    _write_mixed(golden, size_mib * MIB)
    for name, seed, share in (("day2", 2, 0.01), ("clone", 3, 0.05)):
        copy = folder / f"{name}.raw"
        subprocess.run(("cp", "--sparse=always", golden, copy), check=True)
        _scatter_writes(copy, seed, share, scattered_pages=size_mib // 8)


def build_sparse(folder: Path, shape: SparseShape) -> None:
    """Makes golden.raw with scattered extents of data, half text, half random."""
    rng, pool = random.Random(4), Text(4).make(16 * MIB)
    extent = shape.extent_size_bytes
    places = rng.sample(range(shape.size_bytes // extent), shape.data_size_bytes // extent)
    with (folder / "golden.raw").open("wb") as image:
        image.truncate(shape.size_bytes)
        for number, place in enumerate(sorted(places)):
            image.seek(place * extent)
            start = rng.randrange(len(pool) - extent)
            image.write(pool[start : start + extent] if number % 2 else rng.randbytes(extent))


def _write_mixed(path: Path, size_bytes: int) -> None:
    rng, text = random.Random(1), Text(1_001)
    left = {kind: int(share * size_bytes) // PAGE * PAGE for kind, share in SHARES.items()}
    left["zero"] += size_bytes - sum(left.values())
    written: list[tuple[int, int]] = []  # (offset, size) of text and random extents
    offset = 0
    with path.open("wb+") as image:
        image.truncate(size_bytes)
        while offset < size_bytes:
            kinds = [kind for kind in left if left[kind] and (written or kind != "duplicate")]
            kind = rng.choices(kinds, [left[kind] for kind in kinds])[0]
            size = EXTENT_SIZE_BYTES_MIN * 2 ** rng.uniform(0, 8)
            size = min(int(size) // PAGE * PAGE, EXTENT_SIZE_BYTES_MAX, left[kind])
            left[kind] -= size
            if kind == "duplicate":
                source, source_size = rng.choice(written)
                start = rng.randrange(source_size // PAGE) * PAGE
                copied = min(size, source_size - start)
                left[kind] += size - copied
                size = copied
                image.seek(source + start)
                data = image.read(size)
            elif kind != "zero":
                data = text.make(size) if kind == "text" else rng.randbytes(size)
                written.append((offset, size))
            if kind != "zero":
                image.seek(offset)
                image.write(data)
            offset += size


def _scatter_writes(path: Path, seed: int, share: float, scattered_pages: int) -> None:
    """Rewrites `share` of the blocks in runs, and single pages all over the disk."""
    rng, text = random.Random(seed), Text(2_000 + seed)
    size_bytes = path.stat().st_size
    blocks_left = int(size_bytes // BLOCK * share)
    with path.open("rb+") as image:
        while blocks_left:
            run = min(blocks_left, 1 + int(rng.expovariate(1 / 4)))
            blocks_left -= run
            size = run * BLOCK
            image.seek(rng.randrange(size_bytes // BLOCK - run) * BLOCK)
            image.write(text.make(size) if rng.random() < 0.5 else rng.randbytes(size))
        for _ in range(scattered_pages):
            image.seek(rng.randrange(size_bytes // PAGE) * PAGE)
            image.write(rng.randbytes(PAGE))
