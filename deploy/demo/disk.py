"""A disk to lose: an ext4 image of this machine's own files, and one day of its life.

Made without root and without mounting: `mke2fs -d` fills the image, `debugfs` changes it.
"""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from libs.errors import ConfigurationError, SourceError

_MIB = 1 << 20
SIZE_BYTES = 1536 * _MIB
#: What is looked for content, in this order. The last one is there on every machine that runs this.
_TREES = ("/usr/bin", "/usr/lib", "/usr/share", sys.prefix)
#: Share of each tree on day 1, and how much of each comes anew on day 2.
_TREE_BYTES = 150 * _MIB
_NEW_BYTES = 12 * _MIB
_FILE_BYTES_MAX = 32 * _MIB
_BLOCK_BYTES = 4096
#: Of so many files one is removed, one is upgraded, one is written in place.
_STEP = 100
#: What debugfs' command language could misread.
_AMBIGUOUS = frozenset(" \t\n\"'\\<>")


class DemoDisk:
    """The image ``path``, filled by `build`, then changed by `live_a_day`.

    Args:
        path: the image.
        scratch: a folder for what is needed while building; left empty.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        self.path = path
        self._scratch = scratch
        #: What the image holds, as paths of this machine; inside, the same path.
        self._files: list[Path] = []
        self._new_files: list[Path] = []

    def build(self) -> str:
        """Make the image; say in a sentence what is in it.

        Raises:
            ConfigurationError: e2fsprogs is not installed.
            SourceError: the image could not be made.
        """
        for tree in _TREES:
            files = _regular_files(Path(tree))
            self._files += _up_to(files, _TREE_BYTES)
            self._new_files += _up_to(files, _NEW_BYTES)
        root = self._scratch / "root"
        for file in self._files:
            copy = root / file.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        blocks = str(SIZE_BYTES // _BLOCK_BYTES)
        layout = ("-t", "ext4", "-b", str(_BLOCK_BYTES), "-m", "0", "-L", "backcast-demo")
        _run("mke2fs", "-q", "-F", *layout, "-d", str(root), str(self.path), blocks)
        shutil.rmtree(root)
        return f"{len(self._files)} files of this machine"

    def live_a_day(self) -> str:
        """Add, remove, upgrade and write files; say in a sentence what changed.

        Raises:
            SourceError: the file system is not clean afterwards.
        """
        removed, upgraded, written = (self._files[first::_STEP] for first in range(3))
        written = [file for file in written if _blocks_of(file)]
        script = [
            *(f"rm {file}" for file in removed),
            *self._upgrades(upgraded),
            "cd /",  # where `mkdir` makes it
            "mkdir tomorrow",
            "cd tomorrow",
            *(f"write {file} {number}" for number, file in enumerate(self._new_files)),
            *(f"zap_block -f {file} -p 0x42 {_some_block(file)}" for file in written),
        ]
        commands = self._scratch / "day2.debugfs"
        commands.write_text("\n".join(script) + "\n")
        # debugfs ends with 0 whatever happens; besides its version it says only what went wrong.
        image = str(self.path.absolute())
        _, *complaints = _run("debugfs", "-w", "-f", commands.name, image, folder=self._scratch)
        if complaints:
            raise SourceError(f"debugfs: {'; '.join(complaints[:5])}")
        _run("e2fsck", "-f", "-n", str(self.path))
        shutil.rmtree(self._scratch)
        return (
            f"{len(self._new_files)} files came, {len(removed)} went, {len(upgraded)} were "
            f"upgraded, {len(written)} were written in place"
        )

    def _upgrades(self, files: Sequence[Path]) -> Iterator[str]:
        """As package managers do it: another file takes the name, so its data move too.

        Successors are named as they are found from the scratch folder, because the language has no
        quotes, and the folder may be anywhere.
        """
        folder = self._scratch / "upgraded"
        folder.mkdir()
        for number, file in enumerate(files):
            successor = folder / str(number)
            successor.write_bytes(b"a newer version\n" + file.read_bytes())
            yield f"rm {file}"
            yield f"cd {file.parent}"
            yield f"write {folder.name}/{number} {file.name}"


def _regular_files(tree: Path) -> Iterator[Path]:
    """Files that can be read, in an order that is the same tomorrow."""
    for folder, subfolders, names in os.walk(tree):
        subfolders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            usable = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
            if usable and not _AMBIGUOUS.intersection(str(path)):
                yield path


def _up_to(files: Iterator[Path], bytes_max: int) -> list[Path]:
    """The next files, together at least ``bytes_max`` large if there are so many."""
    taken, total = [], 0
    for file in files:
        size = file.stat().st_size
        if 0 < size <= _FILE_BYTES_MAX:
            taken.append(file)
            total += size
        if total >= bytes_max:
            break
    return taken


def _blocks_of(file: Path) -> int:
    return file.stat().st_size // _BLOCK_BYTES


def _some_block(file: Path) -> int:
    return random.Random(str(file)).randrange(_blocks_of(file))  # noqa: S311 -- repeatable


def _run(tool: str, *arguments: str, folder: Path | None = None) -> list[str]:
    """Run a tool of e2fsprogs in a folder; the lines that it wrote to standard error."""
    path = shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        raise ConfigurationError(f"{tool} is missing: apt-get install e2fsprogs")
    finished = subprocess.run(
        [path, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        said = (finished.stdout + finished.stderr).strip()
        raise SourceError(f"{tool} failed with status {finished.returncode}: {said[-2000:]}")
    return finished.stderr.splitlines()
