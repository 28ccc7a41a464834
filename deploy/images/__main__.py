"""``python -m deploy.images``: build the images that `BACKCAST_TEST_SERVERS=containers` needs."""

import sys

from deploy.images.build import build_images
from deploy.local.containers import engine
from libs.errors import BackcastError


def main() -> int:
    """Build what is missing."""
    try:
        with engine() as client:
            build_images(client, lambda line: print(line, flush=True))
    except BackcastError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
