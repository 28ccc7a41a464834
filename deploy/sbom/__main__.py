"""``python -m deploy.sbom FILE``: write the list, from the lock and the installed packages.

uv knows names, versions, sources and digests, and this adds the licences. The list has what images
install, so it leaves out what only workstations and tests need.
"""

import argparse
import json
import subprocess
import sysconfig
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from deploy.sbom.licences import licence_of, name_of

_SOURCE = Path(__file__).parents[2]


def main() -> None:
    """Write the list to the file that is named."""
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom", description=__doc__)
    parser.add_argument("file", type=Path, help="where to write; its folder is made")
    file: Path = parser.parse_args().file
    bill = with_licences(_exported())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(bill, indent=2) + "\n")
    print(f"{file}: {len(bill['components'])} packages")


def with_licences(bill: dict[str, Any]) -> dict[str, Any]:
    """``bill`` with the licence of each component that is installed here."""
    licences = {name_of(one): licence_of(one) for one in distributions()}
    components = [
        one | ({"licenses": [{"expression": licence}]} if licence else {})
        for one in bill["components"]
        for licence in [licences.get(one["name"])]
    ]
    return bill | {"components": components}


def _exported() -> dict[str, Any]:
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    argv = [str(uv), "export", "--quiet", "--offline", "--frozen", "--no-default-groups"]
    argv += ["--format", "cyclonedx1.5", "--preview-features", "sbom-export"]
    said = subprocess.run(argv, cwd=_SOURCE, check=True, stdout=subprocess.PIPE).stdout
    bill: dict[str, Any] = json.loads(said)
    return bill


if __name__ == "__main__":
    main()
