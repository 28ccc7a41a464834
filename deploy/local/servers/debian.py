"""Programs from Debian: installed when they are missing and we may, else named in one line."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from deploy.local.lock import Tell
from libs.errors import ConfigurationError, UnavailableError


def ensure_installed(package_of: Mapping[str, str], tell: Tell) -> None:
    """Have every program of ``package_of`` (program → Debian package) on PATH.

    Raises:
        ConfigurationError: some are missing, and this user cannot install packages.
        UnavailableError: apt-get failed; what it said is in the message.
    """
    packages = [package for program, package in package_of.items() if not shutil.which(program)]
    if not packages:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    as_root = _as_root()
    if as_root is None or not shutil.which("apt-get"):
        raise ConfigurationError(
            f"{', '.join(packages)} must be installed first; as root: {' '.join(install)}"
        )
    tell(f"installing {', '.join(packages)} from Debian")
    if _run([*as_root, *install]).returncode == 0:
        return
    # A fresh machine has no package lists, an old one has stale ones.
    _run([*as_root, "apt-get", "update"])
    finished = _run([*as_root, *install])
    if finished.returncode:
        raise UnavailableError(f"{' '.join(install)} failed: {finished.stdout.strip()[-2000:]}")


def _as_root() -> list[str] | None:
    """The command in front that makes one root without a question; None if there is none."""
    if os.geteuid() == 0:
        return ["env", "DEBIAN_FRONTEND=noninteractive"]
    if shutil.which("sudo") and _run(["sudo", "--non-interactive", "true"]).returncode == 0:
        return ["sudo", "--non-interactive", "env", "DEBIAN_FRONTEND=noninteractive"]
    return None


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
