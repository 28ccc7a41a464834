"""The benchmark: measure Backcast, its ceiling and its peers, and make the tables."""

import argparse
import contextlib
import dataclasses
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from bench import datasets, results
from bench.barrier import measure_barrier
from bench.catalog import measure_catalog
from bench.collection import measure_collection
from bench.filter import measure_filter
from bench.hints import measure_hints
from bench.increments import measure_increments
from bench.machine import package_versions
from bench.measure import StepFailedError
from bench.passes import STEPS
from bench.report import replace_tables, tables
from bench.run import SUBJECTS, Plan, run
from bench.served import DRIVERS
from bench.sizes import measure_sizes
from bench.starve import measure_starving
from deploy.local.cache import cache_folder
from libs.errors import BackcastError

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"
_DOCUMENT = _HERE.parent / "docs" / "benchmarks.md"
_S3_SERVERS = {name: (name,) for name in ("minio", "seaweedfs")} | {"both": ("minio", "seaweedfs")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one of the commands.

    Raises:
        SystemExit: the command line is wrong, or a server or command that is needed fails.
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    measuring = commands.add_parser("run", help="measure, write a result file, print its tables")
    _add_dataset_options(measuring, default=["real", "sparse-64g", "sparse-1t"])
    measuring.add_argument("--repeat", type=int, default=3, help="passes of each subject")
    measuring.add_argument("--s3", choices=_S3_SERVERS, default="minio")
    measuring.add_argument("--subjects", type=_names_of(SUBJECTS), default=list(SUBJECTS))
    measuring.add_argument("--steps", type=_names_of(STEPS), default=list(STEPS))
    measuring.add_argument("--json", type=Path, default=_RESULTS / "latest.json")
    measuring.set_defaults(do=_run)

    reporting = commands.add_parser("report", help=f"write the tables of {_DOCUMENT.name}")
    reporting.add_argument("files", type=Path, nargs="+", help="result files")
    reporting.add_argument("--print", action="store_true", help="print them only")
    reporting.set_defaults(do=_report)

    _add_catalog_commands(commands)
    _add_driver_commands(commands)

    making = commands.add_parser("images", help="make the images only, into the cache")
    _add_dataset_options(making, default=["real"])
    making.set_defaults(do=_datasets)

    options = parser.parse_args(arguments)
    # Asked to end, it stops its servers and deletes their folders, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        options.do(options)
    except (StepFailedError, BackcastError) as error:
        sys.exit(str(error))


def _add_catalog_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    filling = commands.add_parser("catalog", help="measure bytes of Postgres per unique chunk")
    filling.add_argument("--chunks", type=_counts, default=[1_000_000, 10_000_000])
    filling.add_argument("--json", type=Path, default=_RESULTS / "catalog.json")
    filling.set_defaults(do=_catalog)

    deleting = commands.add_parser("collection", help="measure expiry, collection and sweep")
    deleting.add_argument("--chunks", type=int, default=10_000_000)
    deleting.add_argument("--snapshots", type=int, default=1000)
    deleting.add_argument("--json", type=Path, default=_RESULTS / "collection.json")
    deleting.set_defaults(do=_collection)

    starving = commands.add_parser("starve", help="measure what one tenant costs another one")
    starving.add_argument("--requests", type=int, default=1000, help="listings for each figure")
    starving.set_defaults(do=_starve)


def _add_driver_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    hinting = commands.add_parser("hints", help="measure a snapshot by hints, on two sizes")
    hinting.add_argument("--repeat", type=int, default=5, help="captures of each size")
    hinting.set_defaults(do=_hints)

    sizing = commands.add_parser("sizes", help="measure a snapshot by a driver, on two sizes")
    sizing.add_argument("driver", choices=DRIVERS)
    sizing.add_argument("--repeat", type=int, default=5, help="captures of each size and change")
    sizing.set_defaults(do=_sizes)

    changing = commands.add_parser("increments", help="measure 1 %% that changed, against a peer")
    changing.add_argument("--drivers", type=_names_of(DRIVERS), default=list(DRIVERS))
    changing.add_argument("--size-mib", type=int, default=4096)
    changing.add_argument("--repeat", type=int, default=5, help="turns of each driver and change")
    changing.set_defaults(do=_increments)

    holding = commands.add_parser("barrier", help="measure for how long writers are held")
    holding.add_argument("--nodes", type=_counts, default=[3, 8])
    holding.add_argument("--cuts", type=int, default=100, help="snapshots of each")
    holding.set_defaults(do=_barrier)

    filtering = commands.add_parser("filter", help="measure the volume filter against qemu-nbd")
    filtering.add_argument("--repeat", type=int, default=5, help="turns of each server")
    filtering.add_argument("--requests", type=int, default=20_000, help="random ones of a turn")
    filtering.set_defaults(do=_filter)


def _add_dataset_options(parser: argparse.ArgumentParser, default: list[str]) -> None:
    names = _names_of(datasets.NAMES)
    parser.add_argument("--datasets", type=names, default=default, help=", ".join(datasets.NAMES))
    parser.add_argument("--size-mib", type=int, default=4096, help="of the real and synthetic")


def _names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in known]
        if unknown:
            message = f"unknown: {', '.join(unknown)}; known: {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
        return wanted

    return names


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def _datasets(options: argparse.Namespace) -> list[datasets.Dataset]:
    prepared = []
    for name in options.datasets:
        dataset = datasets.prepare(name, options.size_mib, cache_folder() / "bench")
        print(f"{name}: {dataset.golden.parent}", file=sys.stderr)
        prepared.append(dataset)
    return prepared


def _run(options: argparse.Namespace) -> None:
    plan = Plan(
        datasets=_datasets(options),
        s3_servers=_S3_SERVERS[options.s3],
        subjects=options.subjects,
        steps=options.steps,
        repetitions=options.repeat,
    )
    run(plan, cache_folder() / "bench", options.json)
    print(tables(options.json))


def _catalog(options: argparse.Namespace) -> None:
    folder = cache_folder() / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    costs: list[dict[str, float]] = []
    result = {**results.header(folder, package_versions()), "catalog": costs}
    with tempfile.TemporaryDirectory(dir=folder, prefix="catalog-") as work:
        for cost in measure_catalog(options.chunks, Path(work) / "home"):
            costs.append(dataclasses.asdict(cost))
            results.write(options.json, result)
            print(cost, file=sys.stderr)
    print(tables(options.json))


def _collection(options: argparse.Namespace) -> None:
    folder = cache_folder() / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="collection-") as work:
        cost = measure_collection(options.chunks, options.snapshots, Path(work))
    header = results.header(folder, package_versions())
    results.write(options.json, {**header, "collection": dataclasses.asdict(cost)})
    print(tables(options.json))


def _hints(options: argparse.Namespace) -> None:
    folder = cache_folder() / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="hints-") as work:
        found = measure_hints(options.repeat, Path(work))
    for name, one in found.items():
        print(
            f"{name}: {one.wall_seconds:.3f} s, {one.cpu_seconds:.2f} CPU s, "
            f"read {one.read_bytes} B, stored {one.stored_bytes} B"
        )


def _sizes(options: argparse.Namespace) -> None:
    with _work(f"sizes-{options.driver}") as work:
        found = measure_sizes(options.driver, options.repeat, work)
    for case, one in found.items():
        print(
            f"{options.driver}, {case}: {one.wall_seconds:.3f} s, read {one.read_bytes} B, stored "
            f"{one.stored_bytes} B"
        )


def _increments(options: argparse.Namespace) -> None:
    with _work("increments") as work:
        peer, found = measure_increments(
            options.drivers, options.size_mib << 20, options.repeat, work
        )
    print(f"{options.size_mib} MiB, against {peer}")
    for case, one in found.items():
        own = statistics.median(turn.own_seconds for turn in one.turns)
        theirs = statistics.median(turn.peer_seconds for turn in one.turns)
        print(
            f"{case}: {one.speed:.1f} times as fast ({own:.2f} s, {theirs:.2f} s), read "
            f"{one.read:.2f} of the changed chunks, stored {one.stored:.3f} of a grid of 4 MiB"
        )


def _barrier(options: argparse.Namespace) -> None:
    for nodes in options.nodes:
        with _work(f"barrier-{nodes}") as work:
            found = measure_barrier(nodes, options.cuts, work)
        for what, holds in found.items():
            print(
                f"{nodes} nodes, {options.cuts} cuts, {what}: median {holds.percentile(0.5):.0f} "
                f"ms, p99 {holds.percentile(0.99):.0f} ms, longest {holds.percentile(1):.0f} ms"
            )
            for name, count in holds.histogram():
                print(f"  {name:>9} {count:5} {'#' * round(50 * count / len(holds.milliseconds))}")


@contextlib.contextmanager
def _work(name: str) -> Iterator[Path]:
    """A folder of its own, which is gone afterwards."""
    folder = cache_folder() / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{name}-") as work:
        yield Path(work)


def _filter(options: argparse.Namespace) -> None:
    folder = cache_folder() / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="filter-") as work:
        found = measure_filter(options.repeat, options.requests, Path(work))
    for name, one in found.items():
        own, other = sorted(one.filter_seconds), sorted(one.other_seconds)
        print(
            f"{name}: {one.ratio:.0%}; filter {own[0]:.2f}-{own[-1]:.2f} s, "
            f"other {other[0]:.2f}-{other[-1]:.2f} s"
        )


def _starve(options: argparse.Namespace) -> None:
    folder = cache_folder() / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="starve-") as work:
        alone: float | None = None
        for one in measure_starving(options.requests, Path(work)):
            alone = alone or one.p99_ms
            print(
                f"{one.what}: listings {one.median_ms:.1f} ms, p99 {one.p99_ms:.1f} ms "
                f"({one.p99_ms / alone:.2f}×); /readyz p99 {one.ready_p99_ms:.1f} ms; "
                f"{one.threads} threads, peak {one.peak_mib:.0f} MiB; "
                f"{one.held} held, {one.refused} refused"
            )


def _report(options: argparse.Namespace) -> None:
    text = "\n".join(tables(file) for file in options.files)
    print(text)
    if not options.print:
        replace_tables(_DOCUMENT, text)


if __name__ == "__main__":
    main()
