"""Get the tools of the local servers beforehand: ``python -m deploy.local get|lock-jars``."""

import argparse
import sys

from deploy.local.servers.kafka_jars import ensure_java, kafka_jars, write_lock
from deploy.local.servers.minio_build import minio_program
from libs.errors import BackcastError


def main() -> int:
    """Run one of the two commands; the exit status is that of the error tree."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument(
        "command",
        choices=("get", "lock-jars"),
        help="get: Java, Kafka's jars, MinIO; lock-jars: write jars.sha256 anew",
    )
    command = parser.parse_args().command
    try:
        if command == "lock-jars":
            write_lock(_tell)
        else:
            ensure_java(_tell)
            kafka_jars(_tell)
            minio_program(_tell)
    except BackcastError as error:
        _tell(str(error))
        return error.exit_code
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
