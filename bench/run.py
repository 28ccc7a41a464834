"""One run: every subject over the same images, interleaved, written down as it goes.

In each repetition every subject makes one pass over all steps, on fresh servers; the order rotates.
Slow minutes of the machine then hit everybody, and ratios within the run hold.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import results
from bench.backcast import Backcast, EncryptedBackcast
from bench.ceiling_subject import CeilingSubject
from bench.datasets import Dataset
from bench.machine import package_versions, s3_server_version
from bench.passes import Measurement, Pass, PassName
from bench.peers import Borg, Kopia, NewerRestic, Restic, Rustic
from bench.subject import Subject

SUBJECTS: Mapping[str, type[Subject]] = {
    "ceiling": CeilingSubject,
    "backcast": Backcast,
    "backcast-tls": EncryptedBackcast,
    "restic": Restic,
    "restic-newer": NewerRestic,
    "borg": Borg,
    "kopia": Kopia,
    "rustic": Rustic,
}
#: The peers read every hole of a sparse image, which takes up to an hour.
SPARSE_SUBJECTS = ("ceiling", "backcast")


@dataclass(frozen=True)
class Plan:
    """What a run measures."""

    datasets: Sequence[Dataset]
    s3_servers: Sequence[str]
    subjects: Sequence[str]
    steps: Sequence[str]
    repetitions: int


def run(plan: Plan, work_parent: Path, result_file: Path) -> None:
    """Measures `plan`; the result file is complete and valid after every step.

    Args:
        plan: what to measure; subjects that are not installed are left out.
        work_parent: where sources and repositories are kept meanwhile, on the disk of the images;
            needs the space of five images.
        result_file: written anew.
    """
    versions = {name: SUBJECTS[name].version() for name in plan.subjects}
    missing = [subject for subject, version in versions.items() if version is None]
    for subject in missing:
        _tell(f"{subject}: not installed, left out")
        del versions[subject]
    servers = {kind: s3_server_version(kind) for kind in plan.s3_servers}
    measured: list[dict[str, Any]] = []
    result = {
        **results.header(work_parent, {**package_versions(), **servers, **versions}),
        "datasets": {dataset.name: dataset.manifest for dataset in plan.datasets},
        "measurements": measured,
    }
    for dataset, name in _passes(plan, list(versions)):
        with tempfile.TemporaryDirectory(dir=work_parent, prefix="run-") as work:
            one_pass = Pass(name, dataset, SUBJECTS[name.subject], Path(work))
            # Closed here, whatever happens: the servers must end before their folder goes.
            with closing(one_pass.measure(plan.steps)) as measurements:
                for measurement in measurements:
                    measured.append(dataclasses.asdict(measurement))
                    results.write(result_file, result)
                    _tell(_line(measurement))


def _passes(plan: Plan, subjects: list[str]) -> Iterator[tuple[Dataset, PassName]]:
    for dataset in plan.datasets:
        names = [name for name in subjects if not dataset.is_sparse or name in SPARSE_SUBJECTS]
        for s3_server in plan.s3_servers:
            for repetition in range(plan.repetitions):
                for place in range(len(names)):
                    subject = names[(place + repetition) % len(names)]
                    yield dataset, PassName(dataset.name, s3_server, subject, repetition)


def _line(one: Measurement) -> str:
    where = f"{one.dataset}/{one.s3_server} #{one.repetition + 1} {one.subject:12} {one.step:9}"
    if one.usage is None:
        return f"{where} FAILED: {one.error}"
    servers = sum(server.cpu_seconds for server in one.servers.values())
    return (
        f"{where} {one.usage.wall_seconds:7.2f} s"
        f"  cpu {one.usage.cpu_seconds:6.1f} + {servers:5.1f} s"
        f"  stored {one.stored_bytes / 1e6:8.1f} MB (+{one.new_bytes / 1e6:.1f})"
        + ("" if one.identical is None else "  identical" if one.identical else "  DIFFERENT")
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
