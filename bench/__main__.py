"""The benchmark: measure Backcast, its ceiling and its peers, and make the tables."""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from bench import datasets
from bench.passes import STEPS
from bench.report import replace_tables, tables
from bench.run import SUBJECTS, Plan, run
from deploy.local.cache import cache_folder

_HERE = Path(__file__).parent
_DOCUMENT = _HERE.parent / "docs" / "benchmarks.md"
_S3_SERVERS = {name: (name,) for name in ("minio", "seaweedfs")} | {"both": ("minio", "seaweedfs")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one of the commands `run`, `report` and `images`."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    measuring = commands.add_parser("run", help="measure, write a result file, print its tables")
    _add_dataset_options(measuring, default=["real", "sparse-64g", "sparse-1t"])
    measuring.add_argument("--repeat", type=int, default=3, help="passes of each subject")
    measuring.add_argument("--s3", choices=_S3_SERVERS, default="minio")
    measuring.add_argument("--subjects", type=_names_of(SUBJECTS), default=list(SUBJECTS))
    measuring.add_argument("--steps", type=_names_of(STEPS), default=list(STEPS))
    latest = _HERE / "results" / "latest.json"
    measuring.add_argument("--json", type=Path, default=latest, help="the result file")
    measuring.set_defaults(do=_run)

    reporting = commands.add_parser("report", help=f"write the tables of {_DOCUMENT.name}")
    reporting.add_argument("file", type=Path, help="a result file")
    reporting.add_argument("--print", action="store_true", help="print them only")
    reporting.set_defaults(do=_report)

    making = commands.add_parser("images", help="make the images only, into the cache")
    _add_dataset_options(making, default=["real"])
    making.set_defaults(do=_datasets)

    options = parser.parse_args(arguments)
    options.do(options)


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
    options.json.parent.mkdir(parents=True, exist_ok=True)
    run(plan, cache_folder() / "bench", options.json)
    print(tables(options.json))


def _report(options: argparse.Namespace) -> None:
    text = tables(options.file)
    print(text)
    if not options.print:
        replace_tables(_DOCUMENT, text)


if __name__ == "__main__":
    main()
