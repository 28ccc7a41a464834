"""`python -m docs.reliability FULL PEERS…`: write what the faults came to into reliability.md.

FULL is `build/faults/full.json` of `make test-faults`, PEERS are `build/faults/peers-*.json`. The
files are kept beside this script as `reliability-*.json`, so that the page can be compared.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.report import replace_tables
from docs.markdown import table

_FOLDER = Path(__file__).parent


def main() -> None:
    """Write the tables."""
    full, *peers = [Path(name) for name in sys.argv[1:]]
    texts = [_faults(_kept(full)), *(_peers(_kept(path)) for path in peers)]
    replace_tables(_FOLDER / "reliability.md", "\n\n".join(texts))


def _kept(path: Path) -> dict[str, Any]:
    kept = _FOLDER / f"reliability-{path.name}"
    kept.write_text(path.read_text())
    return dict(json.loads(path.read_text()))


def _faults(results: Mapping[str, Any]) -> str:
    rows = [(kind, _counts(counts)) for kind, counts in results["kinds"].items()]
    return table(("what was tried", "how often, and what came of it"), rows)


def _peers(results: Mapping[str, Any]) -> str:
    rows = [
        (name, str(result.get("version", "")), _counts(_flat(result)))
        for name, result in results.items()
    ]
    return table(("program", "version", "what came of it"), rows)


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a program; of lists, how many entries they have."""

    def pairs() -> Iterator[tuple[str, Any]]:
        for name, value in result.items():
            if isinstance(value, Mapping):
                yield from value.items()
            elif name != "version":
                yield name, len(value) if isinstance(value, list) else value

    return dict(pairs())


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in counts.items())


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
