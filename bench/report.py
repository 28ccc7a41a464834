"""The tables of a result file, as Markdown: figures, and how they compare with what is aimed at."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.passes import STEPS
from bench.results import read

BEGIN, END = "<!-- begin of generated tables -->", "<!-- end of generated tables -->"
MIB = 1 << 20

#: What Backcast aims at, per step: share of the ceiling's speed at least, times as fast as restic
#: at least, and new bytes as a share of restic's at most.
AIMS: Mapping[str, tuple[float, float, float | None]] = {
    "full": (0.80, 2.2, 1.04),
    "day2": (0.70, 4.0, 0.70),
    "clone": (0.75, 2.5, 0.80),
    "restore": (0.75, 1.0, None),
}
#: Wall seconds at most, per dataset and step.
LIMITS: Mapping[tuple[str, str], float] = {
    ("real", "unchanged"): 1.5,
    ("real", "range"): 0.15,
    ("sparse-1t", "unchanged"): 1.0,
}
SERVICE_RSS_MIB_MAX = 400
CATALOG_BYTES_PER_CHUNK_MAX = 115
COLLECTOR_RSS_MIB_MAX = 300
SERVICES = ("agent", "catalog", "chunker", "coordinator", "restore")

#: One step's measurements of one subject, over the repetitions.
Repeated = Sequence[Mapping[str, Any]]


def tables(result_file: Path) -> str:
    """Returns all tables of a result file."""
    results = read(result_file)
    parts = [_machine(results)]
    if "catalog" in results:
        parts.append(_catalog(results["catalog"]))
    if "collection" in results:
        parts += _collection(results["collection"])
    measured: list[Mapping[str, Any]] = results.get("measurements", [])
    for dataset, s3 in dict.fromkeys((one["dataset"], one["s3_server"]) for one in measured):
        group = Group([m for m in measured if (m["dataset"], m["s3_server"]) == (dataset, s3)])
        size_mib = results["datasets"][dataset]["golden"]["logical_bytes"] // MIB
        parts.append(f"### {dataset}, {size_mib} MiB, on {s3}")
        parts += [_times(group), _stored(group), _memory(group)]
        parts += filter(None, [_comparison(group), _limits(group, dataset)])
    return "\n\n".join(parts) + "\n"


def replace_tables(document: Path, text: str) -> None:
    """Puts `text` between the markers of a document."""
    before, _, rest = document.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    document.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


class Group:
    """The measurements of one dataset on one S3 server, by subject and step."""

    def __init__(self, measured: Repeated) -> None:
        self.subjects = list(dict.fromkeys(one["subject"] for one in measured))
        self.steps = [step for step in STEPS if any(one["step"] == step for one in measured)]
        self._measured = measured

    def of(self, subject: str, step: str) -> Repeated:
        """All repetitions of a step."""
        return [m for m in self._measured if (m["subject"], m["step"]) == (subject, step)]

    def median(self, subject: str, step: str, value: Callable[[Any], float]) -> float | None:
        """The median of a value over the repetitions that succeeded."""
        values = [value(one) for one in self.of(subject, step) if one["usage"]]
        return statistics.median(values) if values else None


def _machine(results: Mapping[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    return (
        f"{results['started'][:10]} · {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['file_system']} · "
        f"{machine['system']}, kernel {machine['kernel']} · "
        + ", ".join(f"{name} {said.removeprefix(name).strip()}" for name, said in versions.items())
        + f" · `{results['command']}`"
    )


def _times(group: Group) -> str:
    def cell(subject: str, step: str) -> str:
        measured = group.of(subject, step)
        if not measured:
            return "–"
        good = [one for one in measured if one["usage"]]
        if not good:
            return "failed"
        walls = [_wall(one) for one in good]
        spread = f" ({_s(min(walls))}–{_s(max(walls))})" if len(walls) > 1 else ""
        cpu = statistics.median(one["usage"]["cpu_seconds"] for one in good)
        servers = statistics.median(map(_server_cpu, good))
        wrong = " **DIFFERENT**" if any(one["identical"] is False for one in good) else ""
        failed = f" **{len(measured) - len(good)} failed**" if len(good) < len(measured) else ""
        return f"{_s(statistics.median(walls))}{spread} · {cpu:.1f} + {servers:.1f}{wrong}{failed}"

    rows = [[name, *(cell(name, step) for step in group.steps)] for name in group.subjects]
    return "Wall seconds (lowest–highest) · CPU seconds of the command + its servers\n\n" + _table(
        ["subject", *group.steps], rows
    )


def _stored(group: Group) -> str:
    steps = [step for step in group.steps if step not in ("range", "restore")]

    def cell(subject: str, step: str) -> str:
        new = group.median(subject, step, _new_bytes)
        if new is None:
            return "–"
        objects = group.median(subject, step, lambda one: one["new_objects"])
        largest = group.median(subject, step, lambda one: one["largest_new_object_bytes"])
        return f"{new / 1e6:.2f} ({objects:.0f}, {(largest or 0) / 1e6:.3f})"

    rows = [[name, *(cell(name, step) for step in steps)] for name in group.subjects]
    return "MB that the step added to the repository (objects, largest)\n\n" + _table(
        ["subject", *steps], rows
    )


def _memory(group: Group) -> str:
    def peaks(subject: str) -> Iterator[str]:
        good = [one for step in group.steps for one in group.of(subject, step) if one["usage"]]
        yield f"command {max((one['usage']['rss_bytes'] for one in good), default=0) / MIB:.0f}"
        for server in dict.fromkeys(name for one in good for name in one["servers"]):
            rss = max(
                one["servers"][server]["rss_bytes"] for one in good if server in one["servers"]
            )
            yield f"{server} {rss / MIB:.0f}"

    rows = [[name, ", ".join(peaks(name))] for name in group.subjects]
    return "Peak resident MiB of the largest process, over all steps\n\n" + _table(
        ["subject", "peaks"], rows
    )


def _comparison(group: Group) -> str | None:
    """How Backcast stands to the ceiling and to restic."""
    rows = []
    for step, (share_min, times_min, stored_max) in AIMS.items():
        ours = group.median("backcast", step, _wall)
        ceiling, restic = (group.median(name, step, _wall) for name in ("ceiling", "restic"))
        if ours is None or ceiling is None or restic is None:
            continue
        new, restic_new = (group.median(n, step, _new_bytes) or 0 for n in ("backcast", "restic"))
        stored = new / restic_new if stored_max is not None and restic_new else None
        rows.append(
            [
                step,
                _judged(f"{ceiling / ours:.0%}", f"≥ {share_min:.0%}", ceiling / ours >= share_min),
                _judged(f"{restic / ours:.1f}×", f"≥ {times_min}×", restic / ours >= times_min),
                "–"
                if stored is None or stored_max is None
                else _judged(f"{stored:.2f}", f"≤ {stored_max}", stored <= stored_max),
            ]
        )
    if not rows:
        return None
    columns = ["step", "of the ceiling's speed", "as fast as restic", "new bytes / restic's"]
    return "Backcast against the ceiling and restic, in this run\n\n" + _table(columns, rows)


def _limits(group: Group, dataset: str) -> str | None:
    """Whether Backcast keeps its limits in seconds and memory."""
    rows = []
    for (of_dataset, step), seconds_max in LIMITS.items():
        wall = group.median("backcast", step, _wall)
        if of_dataset == dataset and wall is not None:
            what = f"{step}, seconds"
            rows.append([what, _judged(f"{wall:.3f}", f"≤ {seconds_max}", wall <= seconds_max)])
    for one in group.of("backcast", "unchanged")[-1:]:
        added = (one["usage"] or {}).get("reported", {}).get("catalog_rows", {})
        listed = ", ".join(f"{table} {count}" for table, count in added.items())
        rows.append(["unchanged, rows added to the catalog", f"{sum(added.values())} ({listed})"])
    for service in SERVICES:
        peaks = [
            one["servers"][service]["rss_bytes"] / MIB
            for step in group.steps
            for one in group.of("backcast", step)
            if service in one["servers"]
        ]
        if peaks:
            met = max(peaks) <= SERVICE_RSS_MIB_MAX
            limit = f"≤ {SERVICE_RSS_MIB_MAX}"
            rows.append([f"{service}, peak MiB", _judged(f"{max(peaks):.0f}", limit, met)])
    return "Backcast's limits\n\n" + _table(["what", "measured"], rows) if rows else None


def _catalog(costs: Sequence[Mapping[str, float]]) -> str:
    rows = [
        [
            f"{cost['chunks']:,}",
            f"{cost['index_bytes_per_chunk']:.1f}",
            _judged(
                f"{cost['catalog_bytes_per_chunk']:.1f}",
                f"≤ {CATALOG_BYTES_PER_CHUNK_MAX}",
                cost["catalog_bytes_per_chunk"] <= CATALOG_BYTES_PER_CHUNK_MAX,
            ),
            f"{cost['registered_per_second']:,.0f}",
            f"{cost['looked_up_per_second']:,.0f}",
        ]
        for cost in costs
    ]
    columns = ["unique chunks", "bytes per chunk in the index", "in the whole catalog"]
    columns += ["registered per second", "looked up per second"]
    return "### The catalog\n\n" + _table(columns, rows)


def _collection(cost: Mapping[str, Any]) -> list[str]:
    expiries = [
        [
            f"{one['chunks']:,}",
            f"{one['snapshots']:,}",
            f"{one['milliseconds']:.1f}",
            f"{one['rows']:.0f}",
            f"{one['packs']:.0f}",
        ]
        for one in cost["expiries"]
    ]
    columns = ["unique chunks", "snapshots", "milliseconds", "rows touched", "packs freed"]
    rss_mib = cost["collector_rss_bytes"] / MIB
    met = rss_mib <= COLLECTOR_RSS_MIB_MAX
    packs, seconds = cost["collected_packs"], cost["collected_seconds"]
    rows = [
        [
            f"expire {cost['expired_snapshots']:,} more snapshots, seconds",
            f"{cost['expired_seconds']:.1f}",
        ],
        [f"collect {packs:,} packs, seconds", f"{seconds:.1f}"],
        ["packs collected per second", f"{packs / seconds:,.0f}"],
        ["collector, peak MiB", _judged(f"{rss_mib:.0f}", f"≤ {COLLECTOR_RSS_MIB_MAX}", met)],
        [f"sweep over {cost['swept_objects']:,} objects, seconds", f"{cost['swept_seconds']:.1f}"],
    ]
    return [
        "### Deleting",
        "Expiring one snapshot, in a catalog of two sizes\n\n" + _table(columns, expiries),
        f"Of {cost['chunks']:,} chunks and {cost['snapshots']:,} snapshots, half expire\n\n"
        + _table(["what", "measured"], rows),
    ]


def _judged(figure: str, aim: str, met: bool) -> str:
    return f"{figure} ({aim}: {'yes' if met else '**no**'})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _s(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.3f}"


def _wall(one: Mapping[str, Any]) -> float:
    return float(one["usage"]["wall_seconds"])


def _server_cpu(one: Mapping[str, Any]) -> float:
    return float(sum(server["cpu_seconds"] for server in one["servers"].values()))


def _new_bytes(one: Mapping[str, Any]) -> float:
    return float(one["new_bytes"])
