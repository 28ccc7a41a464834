"""The result file: what was measured, on which machine, with which versions; JSON, format 1."""

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import describe_machine

FORMAT = 1


def header(folder: Path, versions: Mapping[str, str | None]) -> dict[str, Any]:
    """What every result begins with; `folder` is where the measured data are kept."""
    return {
        "format": FORMAT,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": describe_machine(folder),
        "versions": dict(versions),
    }


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Replaces the file; whoever reads it finds the old or the new one, complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(results, indent=1) + "\n")
    unfinished.rename(path)


def read(path: Path) -> dict[str, Any]:
    """Returns the results of a file.

    Raises:
        SystemExit: the file is of another format.
    """
    results: dict[str, Any] = json.loads(path.read_text())
    if results.get("format") != FORMAT:
        found = results.get("format")
        raise SystemExit(f"{path}: expected a result file of format {FORMAT}, found {found}")
    return results
