"""Today's programs: Debian's restic and borg, and newer restic, kopia and rustic where on PATH.

Each with its own defaults, except where a comment says why not.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

from bench.measure import StepFailedError, Usage, run_command
from bench.s3 import FreshS3
from bench.subject import NotOfferedError, Subject, command_environment

_PASSWORD = "bench"
_MOUNT_SECONDS_MAX = 60


class Peer(Subject):
    """A program that is run by commands. Its environment is set when it is opened."""

    environment: Mapping[str, str]

    def run(self, *argv: str | Path, cwd: Path | None = None) -> Usage:
        """Runs and measures a command in the program's environment."""
        return run_command(argv, self.environment, cwd or self.folder, self.log)

    def read_mounted(
        self, image: str, offset: int, size_bytes: int, target: Path, *argv: str
    ) -> Usage:
        """Reads a range of `image` in the file system that `argv` mounts on the folder `mount`.

        The wall time ends with the last byte; CPU seconds are all that the mount used.
        """
        mount = self.folder / "mount"
        mount.mkdir(exist_ok=True)
        with self.log.open("a") as log:
            start = time.perf_counter()
            process = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log)
            while not (mount / image).exists():
                late = time.perf_counter() - start > _MOUNT_SECONDS_MAX
                if late or process.poll() is not None:
                    process.kill()
                    raise StepFailedError(f"{Path(argv[0]).name} mount: {image} did not appear")
                time.sleep(0.01)
            with (mount / image).open("rb", buffering=0) as file:
                target.write_bytes(_read_fully(file.fileno(), size_bytes, offset))
            wall = time.perf_counter() - start
            subprocess.run(("fusermount", "-u", mount), check=True)
            _, _, used = os.wait4(process.pid, 0)
            process.returncode = 0
        return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


class S3Peer(Peer):
    """A program that stores on an S3 server of its own."""

    def __init__(self, folder: Path, s3_server: str) -> None:
        super().__init__(folder, s3_server)
        self.s3 = FreshS3(folder / "s3", s3_server)

    @override
    def close(self) -> None:
        self.s3.stop()

    @override
    def servers(self) -> Mapping[str, int]:
        return self.s3.pids()

    @override
    def stored(self) -> Mapping[str, int]:
        return self.s3.objects()


class Restic(S3Peer):
    """Debian's restic."""

    program = "/usr/bin/restic"

    @override
    @classmethod
    def version(cls) -> str | None:
        return _version_line(cls.program, "version")

    @override
    def open(self) -> None:
        self.s3.start()
        settings = {
            "RESTIC_REPOSITORY": f"s3:{self.s3.endpoint}/{self.s3.bucket}",
            "RESTIC_PASSWORD": _PASSWORD,
            "RESTIC_CACHE_DIR": str(self.folder / "cache"),
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
        }
        self.environment = command_environment(self.folder, settings)
        # Version 2 compresses; Debian's restic still makes version 1 unless told.
        self.run(self.program, "init", "--repository-version", "2")

    @override
    def backup(self, volume: str, image: Path) -> Usage:
        return self.run(self.program, "backup", "--tag", volume, image.name, cwd=image.parent)

    @override
    def restore(self, volume: str, target: Path) -> Usage:
        options = ("--tag", volume, "--target", target.parent)
        usage = self.run(self.program, "restore", "latest", *options)
        (target.parent / f"{volume}.raw").rename(target)
        return usage

    @override
    def read_range(self, volume: str, offset: int, size_bytes: int, target: Path) -> Usage:
        image = f"tags/{volume}/latest/{volume}.raw"
        mount = str(self.folder / "mount")
        return self.read_mounted(image, offset, size_bytes, target, self.program, "mount", mount)


class NewerRestic(Restic):
    """Another restic that comes before Debian's on PATH."""

    program = shutil.which("restic") or ""

    @override
    @classmethod
    def version(cls) -> str | None:
        return None if cls.program in ("", Restic.program) else super().version()


class Borg(Peer):
    """Debian's borg, in a folder: borg 1 has no S3."""

    program = "/usr/bin/borg"

    def __init__(self, folder: Path, s3_server: str) -> None:
        super().__init__(folder, s3_server)
        self.repository = folder / "repository"
        self._archives: dict[str, str] = {}  # the last archive of each volume

    @override
    @classmethod
    def version(cls) -> str | None:
        return _version_line(cls.program, "--version")

    @override
    def open(self) -> None:
        settings = {"BORG_PASSPHRASE": _PASSWORD, "BORG_BASE_DIR": str(self.folder / "base")}
        self.environment = command_environment(self.folder, settings)
        self.run(self.program, "init", "--encryption", "repokey-blake2", self.repository)

    @override
    def close(self) -> None:
        """Nothing runs between commands."""

    @override
    def servers(self) -> Mapping[str, int]:
        return {}

    @override
    def backup(self, volume: str, image: Path) -> Usage:
        archive = f"{self.repository}::{volume}-{time.monotonic_ns()}"
        # The default, lz4, stores a third more than the others do.
        options = ("--compression", "zstd,1")
        usage = self.run(self.program, "create", *options, archive, image.name, cwd=image.parent)
        self._archives[volume] = archive
        return usage

    @override
    def restore(self, volume: str, target: Path) -> Usage:
        archive = self._archives[volume]
        usage = self.run(self.program, "extract", "--sparse", archive, cwd=target.parent)
        (target.parent / f"{volume}.raw").rename(target)
        return usage

    @override
    def read_range(self, volume: str, offset: int, size_bytes: int, target: Path) -> Usage:
        mount = str(self.folder / "mount")
        argv = (self.program, "mount", "--foreground", self._archives[volume], mount)
        return self.read_mounted(f"{volume}.raw", offset, size_bytes, target, *argv)

    @override
    def stored(self) -> Mapping[str, int]:
        files = (path for path in self.repository.rglob("*") if path.is_file())
        return {str(path): path.stat().st_size for path in files}


class Kopia(S3Peer):
    """Kopia with zstd-fastest: without a policy it does not compress."""

    program = shutil.which("kopia") or ""

    def __init__(self, folder: Path, s3_server: str) -> None:
        super().__init__(folder, s3_server)
        self._images: dict[str, Path] = {}
        config, logs = f"--config-file={folder}/kopia.json", f"--log-dir={folder}/logs"
        self._kopia = (self.program, config, logs)

    @override
    @classmethod
    def version(cls) -> str | None:
        return _version_line(cls.program, "--version")

    @override
    def open(self) -> None:
        self.s3.start()
        settings = {
            "KOPIA_PASSWORD": _PASSWORD,
            "KOPIA_CACHE_DIRECTORY": str(self.folder / "cache"),
            "KOPIA_CHECK_FOR_UPDATES": "false",
            "AWS_ACCESS_KEY_ID": self.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": self.s3.secret_key,
        }
        self.environment = command_environment(self.folder, settings)
        address = self.s3.endpoint.removeprefix("http://")
        s3 = ("s3", "--bucket", self.s3.bucket, "--endpoint", address, "--disable-tls")
        self.run(*self._kopia, "repository", "create", *s3)
        self.run(*self._kopia, "policy", "set", "--global", "--compression", "zstd-fastest")

    @override
    def backup(self, volume: str, image: Path) -> Usage:
        self._images[volume] = image
        return self.run(*self._kopia, "snapshot", "create", image)

    @override
    def restore(self, volume: str, target: Path) -> Usage:
        options = ("--write-sparse-files", "--skip-owners")
        return self.run(*self._kopia, "restore", *options, self._root(volume), target)

    @override
    def read_range(self, volume: str, offset: int, size_bytes: int, target: Path) -> Usage:
        show = (*self._kopia, "show", self._root(volume))
        cut = f"tail --bytes=+{offset + 1} | head --bytes={size_bytes}"
        return self.run("sh", "-c", f'"$@" | {cut} > {target}', "show", *show)

    def _root(self, volume: str) -> str:
        listed = self.run(*self._kopia, "snapshot", "list", "--json", self._images[volume]).output
        return str(json.loads(listed)[-1]["rootEntry"]["obj"])


class Rustic(S3Peer):
    """Rustic, which shares restic's repository format."""

    program = shutil.which("rustic") or ""

    @override
    @classmethod
    def version(cls) -> str | None:
        return _version_line(cls.program, "--version")

    @override
    def open(self) -> None:
        self.s3.start()
        settings = {
            "RUSTIC_REPOSITORY": "opendal:s3",
            "RUSTIC_PASSWORD": _PASSWORD,
            "RUSTIC_CACHE_DIR": str(self.folder / "cache"),
            "RUSTIC_NO_PROGRESS": "true",
            "OPENDAL_BUCKET": self.s3.bucket,
            "OPENDAL_ENDPOINT": self.s3.endpoint,
            "OPENDAL_REGION": "us-east-1",
            "OPENDAL_ACCESS_KEY_ID": self.s3.access_key,
            "OPENDAL_SECRET_ACCESS_KEY": self.s3.secret_key,
        }
        self.environment = command_environment(self.folder, settings)
        self.run(self.program, "init")

    @override
    def backup(self, volume: str, image: Path) -> Usage:
        return self.run(self.program, "backup", "--tag", volume, image.name, cwd=image.parent)

    @override
    def restore(self, volume: str, target: Path) -> Usage:
        source = f"latest:{volume}.raw"
        return self.run(self.program, "restore", source, target, "--filter-tags", volume)

    @override
    def read_range(self, volume: str, offset: int, size_bytes: int, target: Path) -> Usage:
        raise NotOfferedError("rustic restores whole files")


def _version_line(program: str, *arguments: str) -> str | None:
    if not program or not Path(program).exists():
        return None
    said = subprocess.run((program, *arguments), capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0].strip()


def _read_fully(file: int, size_bytes: int, offset: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        part = os.pread(file, size_bytes - len(data), offset + len(data))
        if not part:
            break
        data += part
    return data
