"""The images that a run measures, made once and kept in a cache folder.

A dataset is a golden image and, where it has them, its day 2 and a clone of it. `manifest.json`
beside the images records what they are; a folder without it is unfinished and made again.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import ext4, synthetic

#: Datasets that come in the size asked for, by name.
SIZED: Mapping[str, Callable[[Path, int], None]] = {
    "real": ext4.build,
    "synthetic": synthetic.build_mixed,
}
#: Datasets that are mostly holes, by name: size, data in it, size of an extent of data.
SPARSE: Mapping[str, synthetic.SparseShape] = {
    "sparse-64g": synthetic.SparseShape(64 << 30, 2 << 30, 128 << 10),
    "sparse-1t": synthetic.SparseShape(1 << 40, 1 << 30, 1 << 20),
}
NAMES = (*SIZED, *SPARSE)
#: Larger images are seeded and sparse: hashing 1 TiB of holes would say nothing in half an hour.
HASHED_SIZE_BYTES_MAX = 16 << 30


@dataclass(frozen=True)
class Dataset:
    """Images of equal logical size; `manifest` says their SHA-256, logical and allocated bytes."""

    name: str
    golden: Path
    day2: Path | None
    clone: Path | None
    manifest: dict[str, dict[str, int | str]]

    @property
    def is_sparse(self) -> bool:
        """Whether it is mostly holes."""
        return self.name in SPARSE


def prepare(name: str, size_mib: int, cache: Path) -> Dataset:
    """Returns the dataset, making its images first if they are not in the folder `cache`.

    Raises:
        SystemExit: real images are asked for, are not in the cache, and cannot be made here.
    """
    folder = cache / (name if name in SPARSE else f"{name}-{size_mib}")
    if not (folder / "manifest.json").exists():
        _build(name, size_mib, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    images = {image: folder / f"{image}.raw" for image in manifest}
    return Dataset(name, images["golden"], images.get("day2"), images.get("clone"), manifest)


def data_extents(path: Path) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of the parts of a file that are not holes, ascending."""
    with path.open("rb", buffering=0) as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield start, end


def identical(first: Path, second: Path) -> bool:
    """Whether two files have the same bytes; reads only where either has data."""
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open("rb", buffering=0) as a, second.open("rb", buffering=0) as b:
        for path in (first, second):
            for start, end in data_extents(path):
                for offset in range(start, end, 8 << 20):
                    count = min(8 << 20, end - offset)
                    if os.pread(a.fileno(), count, offset) != os.pread(b.fileno(), count, offset):
                        return False
    return True


def range_offset(image: Path, size_bytes: int) -> int:
    """Where a range of `size_bytes` lies wholly in data, as near after three quarters as can be."""
    aim = image.stat().st_size * 3 // 4
    starts = [
        max(start, min(aim, end - size_bytes))
        for start, end in data_extents(image)
        if end - start >= size_bytes
    ]
    if not starts:
        message = f"{image}: no {size_bytes} bytes of data in one piece"
        raise ValueError(message)
    return min(starts, key=lambda start: (start < aim, abs(start - aim)))


def _build(name: str, size_mib: int, folder: Path) -> None:
    if name == "real" and not ext4.can_build():
        message = (
            "The real ext4 images need root and loop devices to be made, once: run\n"
            f"    sudo XDG_CACHE_HOME={folder.parents[2]} {sys.executable}"
            f" -m bench images --size-mib {size_mib}\n"
            "or measure the seeded images instead: --datasets synthetic"
        )
        raise SystemExit(message)
    # The images hold copies of this machine's files, also private ones: nobody else may read them.
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        if name in SPARSE:
            synthetic.build_sparse(making, SPARSE[name])
        else:
            SIZED[name](making, size_mib)
        manifest = {image.stem: _describe(image) for image in sorted(making.glob("*.raw"))}
        (making / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _describe(image: Path) -> dict[str, int | str]:
    stat = image.stat()
    sizes: dict[str, int | str] = {
        "logical_bytes": stat.st_size,
        "allocated_bytes": stat.st_blocks * 512,
    }
    if stat.st_size > HASHED_SIZE_BYTES_MAX:
        return sizes
    with image.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), **sizes}
