"""`python -m deploy.node FOLDER`: builds the Debian package of a node, and says where it is."""

import argparse
import sys
from pathlib import Path

from deploy.node.package import build
from libs.errors import BackcastError


def main() -> int:
    """Build it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.node", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the package is written")
    folder = parser.parse_args().folder
    try:
        print(build(folder))
    except BackcastError as err:
        print(f"deploy.node: {err}", file=sys.stderr)
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
