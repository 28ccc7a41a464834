"""One subject's pass over the steps: fresh repository, same sources, every result compared."""

import dataclasses
import shutil
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.datasets import Dataset, identical, range_offset
from bench.measure import ServerUsage, ServerWatch, StepFailedError, Usage, warm
from bench.subject import NotOfferedError, Subject

#: In this order. The range comes before the restore, which could warm a service's caches.
STEPS = ("full", "unchanged", "day2", "clone", "range", "restore")
RANGE_SIZE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One step of one pass; `usage` is None when it failed, and then `error` says why."""

    dataset: str
    s3_server: str
    subject: str
    repetition: int
    step: str
    usage: Usage | None = None
    servers: Mapping[str, ServerUsage]
    #: CPU of the whole machine: what exceeds the subject's and its servers' was somebody else's.
    machine_cpu_seconds: float
    stolen_cpu_seconds: float
    #: All that the repository holds after the step, and what the step added.
    stored_bytes: int
    new_bytes: int
    new_objects: int
    largest_new_object_bytes: int
    #: Whether what came back is what went in; None for steps that bring nothing back.
    identical: bool | None = None
    error: str | None = None


@dataclass(frozen=True)
class PassName:
    """Which pass it is."""

    dataset: str
    s3_server: str
    subject: str
    repetition: int


class Pass:
    """Opens a subject in a folder, measures the steps one by one, closes it.

    Args:
        name: for the measurements.
        dataset: the images; steps whose image it lacks are left out.
        kind: the subject's class.
        folder: an empty folder; the caller deletes it.
    """

    def __init__(self, name: PassName, dataset: Dataset, kind: type[Subject], folder: Path) -> None:
        self._name = name
        self._dataset = dataset
        self._folder = folder
        #: The image whose bytes the volume `vm` has now.
        self._current = dataset.golden
        repository = folder / "repository"
        repository.mkdir()
        self._subject = kind(repository, name.s3_server)

    def measure(self, steps: Sequence[str]) -> Generator[Measurement]:
        """Yields a measurement per step that subject and dataset have; ends if `full` fails."""
        try:
            self._subject.open()
            for step in [step for step in STEPS if step in steps and self._has_image_of(step)]:
                with suppress(NotOfferedError):
                    measurement = self._measure(step)
                    yield measurement
                    if measurement.error and step == "full":
                        return
        finally:
            self._subject.close()

    def _has_image_of(self, step: str) -> bool:
        images = {"day2": self._dataset.day2, "clone": self._dataset.clone}
        return step not in images or images[step] is not None

    def _measure(self, step: str) -> Measurement:
        image, target = self._prepare(step), self._folder / "target" / "out"
        before = self._subject.stored()
        warm(image)
        watch = ServerWatch(self._subject.servers())
        usage, error = None, None
        try:
            usage = dataclasses.replace(self._run(step, image, target), output="")
        except StepFailedError as failure:
            error = str(failure)
        meanwhile = watch.stop()
        after = self._subject.stored()
        new = [size for key, size in after.items() if before.get(key) != size]
        return Measurement(
            **vars(self._name),
            step=step,
            usage=usage,
            **vars(meanwhile),
            stored_bytes=sum(after.values()),
            new_bytes=sum(after.values()) - sum(before.values()),
            new_objects=len(new),
            largest_new_object_bytes=max(new, default=0),
            identical=None if error else self._is_identical(step, target),
            error=error,
        )

    def _prepare(self, step: str) -> Path:
        """Puts the step's image where the subject finds it; returns its path there."""
        target = self._folder / "target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        volume, image = self._folder / "source" / "vm.raw", None
        volume.parent.mkdir(exist_ok=True)
        if step == "full":
            image = self._dataset.golden
        elif step == "day2":
            image = self._current = self._dataset.day2 or self._dataset.golden
        elif step == "clone":
            volume, image = volume.with_name("clone.raw"), self._dataset.clone
        if image is not None:
            # Over the file that is there, as a machine changes its disk: the inode stays.
            subprocess.run(("cp", "--sparse=always", image, volume), check=True)
        return volume

    def _run(self, step: str, image: Path, target: Path) -> Usage:
        if step == "range":
            offset = range_offset(self._current, RANGE_SIZE_BYTES)
            return self._subject.read_range(image.stem, offset, RANGE_SIZE_BYTES, target)
        if step == "restore":
            return self._subject.restore(image.stem, target)
        return self._subject.backup(image.stem, image)

    def _is_identical(self, step: str, target: Path) -> bool | None:
        if step == "range":
            with self._current.open("rb") as file:
                file.seek(range_offset(self._current, RANGE_SIZE_BYTES))
                return file.read(RANGE_SIZE_BYTES) == target.read_bytes()
        return identical(self._current, target) if step == "restore" else None
