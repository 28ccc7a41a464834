import json
from pathlib import Path
from typing import Any

import pytest

from bench.report import BEGIN, END, replace_tables, tables


def measurement(subject: str, step: str, wall: float, new: int = 0, **more: Any) -> dict[str, Any]:
    usage = {"wall_seconds": wall, "cpu_seconds": 1.0, "rss_bytes": 50 << 20, "reported": {}}
    return {
        "dataset": "real",
        "s3_server": "minio",
        "subject": subject,
        "repetition": 0,
        "step": step,
        "usage": usage,
        "servers": {"chunker": {"cpu_seconds": 2.0, "rss_bytes": 300 << 20}},
        "new_bytes": new,
        "new_objects": 1,
        "largest_new_object_bytes": new,
        "identical": None,
    } | more


@pytest.fixture
def result_file(tmp_path: Path) -> Path:
    machine = {"cpu": "a CPU", "cores": 2, "memory_bytes": 1 << 34, "file_system": "ext4"}
    result = {
        "format": 1,
        "started": "2026-11-22T10:00:00+00:00",
        "command": "python -m bench run",
        "machine": machine | {"system": "Debian", "kernel": "6.1"},
        "versions": {"restic": "restic 0.14.0"},
        "datasets": {"real": {"golden": {"logical_bytes": 4 << 30}}},
        "measurements": [
            *(measurement("ceiling", "full", wall, new=700) for wall in (7.0, 8.0, 12.0)),
            *(measurement("backcast", "full", wall, new=715) for wall in (9.0, 10.0, 11.0)),
            *(measurement("restic", "full", wall, new=700) for wall in (20.0, 21.0, 30.0)),
        ],
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    return path


def add(result_file: Path, *more: dict[str, Any]) -> None:
    result = json.loads(result_file.read_text())
    result["measurements"] += more
    result_file.write_text(json.dumps(result))


def test_times_are_medians_with_the_lowest_and_highest(result_file: Path) -> None:
    assert "| ceiling | 8.00 (7.00–12.00) · 1.0 + 2.0 |" in tables(result_file)


def test_backcast_is_compared_by_medians_with_ceiling_and_restic(result_file: Path) -> None:
    row = "| full | 80% (≥ 80%: yes) | 2.1× (≥ 2.2×: **no**) | 1.02 (≤ 1.04: yes) |"
    assert row in tables(result_file)


def test_a_restore_that_differs_is_shouted(result_file: Path) -> None:
    add(result_file, measurement("restic", "restore", 9.0, identical=False))
    assert "9.00 · 1.0 + 2.0 **DIFFERENT**" in tables(result_file)


def test_failed_steps_count_in_no_median(result_file: Path) -> None:
    add(result_file, measurement("ceiling", "full", 0.0, usage=None, error="disk full"))
    assert "| ceiling | 8.00 (7.00–12.00) · 1.0 + 2.0 **1 failed** |" in tables(result_file)


def test_a_step_that_always_failed_is_called_failed(result_file: Path) -> None:
    add(result_file, measurement("ceiling", "restore", 0.0, usage=None, error="disk full"))
    assert "| ceiling | 8.00 (7.00–12.00) · 1.0 + 2.0 | failed |" in tables(result_file)


def test_memory_limit_looks_at_the_worst_step(result_file: Path) -> None:
    servers = {"chunker": {"cpu_seconds": 0.0, "rss_bytes": 401 << 20}}
    add(result_file, measurement("backcast", "clone", 2.0, servers=servers))
    assert "| chunker, peak MiB | 401 (≤ 400: **no**) |" in tables(result_file)


def test_a_file_of_another_format_is_refused(result_file: Path) -> None:
    result_file.write_text('{"format": 2}')
    with pytest.raises(SystemExit, match="expected a result file of format 1, found 2"):
        tables(result_file)


def test_only_what_is_between_the_markers_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    replace_tables(document, "new")
    replace_tables(document, "newer")
    assert document.read_text() == f"before\n{BEGIN}\n\nnewer\n{END}\nafter\n"
