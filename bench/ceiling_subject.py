"""The ceiling as a subject: its process lives through the pass, as its dedup index does."""

import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from typing_extensions import override

from bench.measure import ServerWatch, StepFailedError, Usage
from bench.peers import S3Peer
from bench.subject import command_environment

#: Keeps glibc from returning and faulting in large buffers again: 28,000 instead of 541,000 page
#: faults per GiB. Must be set before the process starts.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class CeilingSubject(S3Peer):
    """`bench.ceiling` behind a pipe: a request is a line, and so is the answer."""

    _process: subprocess.Popen[str] | None = None

    @override
    @classmethod
    def version(cls) -> str | None:
        try:
            return f"obstore {metadata.version('obstore')}"
        except metadata.PackageNotFoundError:
            return None

    @override
    def open(self) -> None:
        self.s3.start()
        settings = {
            "CEILING_S3_ENDPOINT": self.s3.endpoint,
            "CEILING_S3_BUCKET": self.s3.bucket,
            "CEILING_S3_ACCESS_KEY": self.s3.access_key,
            "CEILING_S3_SECRET_KEY": self.s3.secret_key,
        }
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "bench.ceiling"),
                env=command_environment(self.folder, MALLOC | settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )
        self._ask(do="ready")

    @override
    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()  # the end of its input ends it
        super().close()

    @override
    def backup(self, volume: str, image: Path) -> Usage:
        return self._ask(do="backup", volume=volume, path=str(image))

    @override
    def restore(self, volume: str, target: Path) -> Usage:
        return self._ask(do="restore", volume=volume, path=str(target))

    @override
    def read_range(self, volume: str, offset: int, size_bytes: int, target: Path) -> Usage:
        place = {"offset": offset, "size_bytes": size_bytes}
        return self._ask(do="read", volume=volume, path=str(target), **place)

    def _ask(self, **request: str | int) -> Usage:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        watch = ServerWatch({"ceiling": process.pid})
        start = time.perf_counter()
        process.stdin.write(json.dumps(request) + "\n")
        answer = process.stdout.readline()
        wall = time.perf_counter() - start
        if answer != "done\n":
            raise StepFailedError(f"the ceiling failed at {request}; {self.log} says why")
        used = watch.stop().servers["ceiling"]
        return Usage(wall, used.cpu_seconds, used.rss_bytes)
