"""Builds the Debian package: our code, what it is locked to, and the units of systemd.

Everything is in /usr/lib/backcast, where nothing of the distribution is, and runs with the
distribution's Python. It is built on a machine of the same architecture, with dpkg-deb and uv.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from libs.errors import ConfigurationError
from libs.version import VERSION

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_CODE = Path("usr/lib/backcast")
#: That of Debian 12, for which the wheels are.
_PYTHON = "3.11"


def build(folder: Path) -> Path:
    """Build the package into a folder. Returns its path.

    Raises:
        ConfigurationError: a program is missing or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    architecture = _said_by("dpkg", "--print-architecture").strip()
    made = folder / f"backcast-node_{VERSION}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        shutil.copytree(_HERE / "root", tree)
        _copy_code(tree / _CODE)
        _install_dependencies(tree / _CODE / "site-packages")
        for each in tree.rglob("*"):
            each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
        _write_control(tree, architecture)
        _said_by("dpkg-deb", "-Zgzip", "--build", "--root-owner-group", str(tree), str(made))
    return made


def _copy_code(target: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("libs", "services"):
        shutil.copytree(_ROOT / name, target / name, ignore=ignored)


def _install_dependencies(target: Path) -> None:
    """What the lock file says, by hash, as in the images."""
    uv = str(Path(sys.executable).with_name("uv"))
    locked = _said_by(
        *(uv, "export", "--quiet", "--frozen", "--no-default-groups", "--no-emit-project"),
        *("--project", str(_ROOT)),
    )
    requirements = target.parent / "requirements.txt"
    requirements.write_text(locked)
    _said_by(
        *(uv, "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:"),
        *("--python-version", _PYTHON, "--target", str(target), "--requirement", str(requirements)),
    )
    requirements.unlink()
    (target / ".lock").unlink(missing_ok=True)
    shutil.rmtree(target / "bin", ignore_errors=True)  # scripts that name this machine's Python


def _write_control(tree: Path, architecture: str) -> None:
    size = sum(each.stat().st_size for each in tree.rglob("*") if each.is_file())
    control = tree / "DEBIAN"
    control.mkdir()
    text = (_HERE / "control" / "control").read_text()
    filled = text.format(version=VERSION, architecture=architecture, kib=-(-size // 1024))
    (control / "control").write_text(filled)
    for name in ("postinst", "prerm"):
        shutil.copy(_HERE / "control" / name, control / name)
        (control / name).chmod(0o755)


def _said_by(*command: str) -> str:
    """Raises ConfigurationError if the program is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as err:
        raise ConfigurationError(f"{command[0]}: {err.strerror}; is it installed?") from err
    if done.returncode:
        raise ConfigurationError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
