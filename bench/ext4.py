"""Real ext4 images made from this machine's own files: a golden disk, its day 2, and a clone.

Real files, real allocation: day 2 adds packages, removes some, upgrades files the way package
managers do (write beside, rename over), and writes into a database and a log. Needs root, because
the images are changed through a loop mount, as a guest would change its disk.
"""

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20

#: The size for which the recipe's amounts are given; other sizes scale them.
NOMINAL_SIZE_MIB = 4096
#: Share of the golden image that files may fill, so that day 2 and the clone find room.
FILL_SHARE_MAX = 0.75
#: Trees of the golden image, in this order; one that no longer fits is left out.
GOLDEN_TREES = (
    "/usr/bin",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/python3",
    "/usr/lib/python3.11",
    "/usr/lib/gcc",
    "/usr/lib/git-core",
    "/usr/lib/systemd",
    "/usr/share",
    "/usr/include",
    "/etc",
)
#: Trees that day 2 installs under /opt; one above the limit is left out.
DAY2_TREES = (
    "/usr/lib/postgresql",
    "/usr/lib/node_modules",
    "/usr/lib/jvm",
    "/usr/lib/llvm-14",
    "/usr/local/go/pkg",
)
DAY2_TREE_SIZE_MIB_MAX = 250
#: Trees that the clone installs under /opt.
CLONE_TREES = ("/usr/lib/debug", "/usr/share/java")

_WORDS = ["alpha", "beta", "gamma", "order", "invoice", "customer", "pending", "shipped"]
_WORDS += ["error", "ok", "timeout", "retry"]
_REQUESTS = (
    "GET /api/v1/items/{} HTTP/1.1 {} {}",
    "user {} logged in from 10.0.{}.{}",
    "job {} finished in {} ms rc={}",
    "slow query id={} rows={} ms={}",
)


def can_build() -> bool:
    """Whether this process may loop-mount (root, and a kernel with loop devices)."""
    return os.geteuid() == 0 and Path("/dev/loop-control").exists()


def build(folder: Path, size_mib: int) -> None:
    """Makes golden.raw, day2.raw and clone.raw of `size_mib` MiB each in `folder`."""
    golden, day2, clone = (folder / f"{name}.raw" for name in ("golden", "day2", "clone"))
    scale = size_mib / NOMINAL_SIZE_MIB
    with golden.open("wb") as image:
        image.truncate(size_mib * MIB)
    _run("mkfs.ext4", "-q", "-F", "-m", "1", "-L", "golden",
         "-E", "lazy_itable_init=0,lazy_journal_init=0",
         "-U", "11111111-2222-3333-4444-555555555555", golden)  # fmt: skip
    _change(golden, lambda root: _install_golden(root, size_mib, scale))
    for copy, change in ((day2, _live_a_day), (clone, _become_another)):
        _run("cp", "--sparse=always", golden, copy)
        _change(copy, lambda root, change=change: change(root, scale))  # type: ignore[misc] # bound
    for image_path in (golden, day2, clone):
        _run("fallocate", "--dig-holes", image_path)


def _install_golden(root: Path, size_mib: int, scale: float) -> None:
    budget_mib = size_mib * FILL_SHARE_MAX - 150 * scale  # the database and the log come after
    for tree in GOLDEN_TREES:
        tree_mib = _size_mib(tree)
        if Path(tree).is_dir() and tree_mib <= budget_mib:
            budget_mib -= tree_mib
            _copy_tree(tree, root / tree.lstrip("/"))
    _create_database(root / "var/lib/db/app.sqlite", rows=int(160_000 * scale))
    _append_access_log(root / "var/log/app.log", size_bytes=int(60 * scale * MIB))


def _live_a_day(root: Path, scale: float) -> None:
    """Day 2: packages in and out, upgrades by rename, database and log written."""
    for tree in DAY2_TREES:
        if Path(tree).is_dir() and _size_mib(tree) < DAY2_TREE_SIZE_MIB_MAX * scale:
            _copy_tree(tree, root / "opt" / Path(tree).name)
    for tree in ("usr/share/man", "usr/share/vim"):
        shutil.rmtree(root / tree, ignore_errors=True)
    modules = sorted(path for path in root.glob("usr/lib/python3*/**/*.py") if _is_file(path))
    for path in modules[19::20]:
        _upgrade(path, lambda data: data.replace(b"\nimport ", b"\nimport  "))
    programs = (path for path in sorted(root.glob("usr/bin/*")) if _is_file(path))
    for path in [path for path in programs if path.stat().st_size > 200 << 10][24::25]:
        mark = b"patched " + str(path.relative_to(root)).encode()
        _upgrade(path, lambda data, mark=mark: data[:4096] + mark + data[4096 + len(mark) :])  # type: ignore[misc] # bound
    _update_database(root / "var/lib/db/app.sqlite", int(160_000 * scale), int(1_500 * scale))
    _append_request_log(root / "var/log/app.log", int(12 * scale * MIB), program="app", seed=2)


def _become_another(root: Path, scale: float) -> None:
    """The clone: the same golden disk with another identity and other packages."""
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/hostname").write_text("clone-vm\n")
    (root / "etc/machine-id").write_text("7" * 33)
    other_pythons = sorted(map(str, Path.home().glob(".pyenv/versions/3.8.*/lib/python3.8")))
    for tree in (*CLONE_TREES, *other_pythons[-1:]):
        free_mib = shutil.disk_usage(root).free / MIB
        if Path(tree).is_dir() and _size_mib(tree) < free_mib - 50 * scale:
            _copy_tree(tree, root / "opt" / Path(tree).name)
    for path in root.glob("usr/share/doc/[a-k]*"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    log = root / "var/log/app.log"
    log.unlink()
    _append_request_log(log, int(30 * scale * MIB), program="web", seed=3)


def _change(image: Path, change: Callable[[Path], None]) -> None:
    with _mounted(image) as root:
        change(root)


@contextmanager
def _mounted(image: Path) -> Iterator[Path]:
    root = image.with_suffix(".mnt")
    root.mkdir()
    _run("mount", "-o", "loop,noatime", image, root)
    try:
        yield root
    finally:
        os.sync()
        _run("umount", root)
        root.rmdir()


def _copy_tree(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _run("cp", "--archive", "--no-target-directory", source, target)


def _size_mib(tree: str) -> float:
    du = subprocess.run(("du", "-sk", tree), capture_output=True, text=True, check=False)
    return int(du.stdout.split()[0]) / 1024 if du.stdout else 0.0


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _upgrade(path: Path, edit: Callable[[bytes], bytes]) -> None:
    """Replaces a file as package managers do: the new one is written beside, then renamed over."""
    new = path.with_name(path.name + ".new")
    shutil.copy2(path, new)
    new.write_bytes(edit(path.read_bytes()))
    new.rename(path)


def _create_database(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    database = sqlite3.connect(path)
    database.execute("pragma page_size=4096")
    database.execute("pragma journal_mode=off")
    database.execute("create table t(id integer primary key, k text, v blob, note text)")
    database.executemany(
        "insert into t values(?,?,?,?)",
        (
            (
                row,
                f"{rng.getrandbits(128):032x}",
                rng.randbytes(rng.randint(100, 500)),
                " ".join(rng.choices(_WORDS, k=rng.randint(5, 40))),
            )
            for row in range(rows)
        ),
    )
    database.execute("create index ki on t(k)")
    database.commit()
    database.close()


def _update_database(path: Path, rows: int, updates: int) -> None:
    rng = random.Random(8)
    database = sqlite3.connect(path)
    for _ in range(updates):
        database.execute("update t set v=? where id=?", (rng.randbytes(200), rng.randrange(rows)))
    for row in range(rows, rows + 2 * updates):
        key = f"{rng.getrandbits(128):032x}"
        database.execute("insert into t values(?,?,?,'new')", (row, key, rng.randbytes(300)))
    database.commit()
    database.close()


def _append_access_log(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, written, now = random.Random(1), 0, 1_700_000_000.0
    with path.open("a") as log:
        while written < size_bytes:
            now += rng.random()
            request = rng.choice(_REQUESTS).format(
                rng.randint(1, 99_999), rng.randint(1, 255), rng.randint(1, 5_000)
            )
            host, process = rng.randint(1, 9), rng.randint(1_000, 9_999)
            written += log.write(f"{now:.3f} host{host} app[{process}]: {request}\n")


def _append_request_log(path: Path, size_bytes: int, program: str, seed: int) -> None:
    rng, written = random.Random(seed), 0
    with path.open("a") as log:
        while written < size_bytes:
            process, request = rng.randint(1_000, 9_999), rng.getrandbits(40)
            took = f"request {request} took {rng.randint(1, 5_000)} ms"
            now = 1_700_090_000 + size_bytes - written
            written += log.write(f"{now} {program}[{process}]: {took}\n")


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True)
