"""``backcast dev``: real servers and our services as local processes.

Progress goes to standard error; standard output has the result only, with ``--json`` one object.
"""

import argparse
import contextlib
import dataclasses
import json
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from libs.errors import NotFoundError, UnavailableError
from services.cli.streams import tell_line, write_line

if TYPE_CHECKING:  # imported late below: most commands never need it, and start faster without
    from deploy.local.cluster import LocalCluster, ProcessStatus

#: The catalog service compares the catalog with the store as soon as it has started.
_COMPARED_SECONDS_MAX = 15.0
_POLL_SECONDS = 0.2
_S3_CHOICES = ("auto", "soonest", "minio", "seaweedfs")


def add_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    parents: Sequence[argparse.ArgumentParser] = (),
) -> None:
    """Add ``dev`` and its commands.

    Args:
        subparsers: of the program.
        parents: parsers of options that every command has, ``--json`` among them.
    """
    text = "servers and services on this machine, without Docker"
    dev = subparsers.add_parser("dev", parents=parents, help=text, description=text)
    commands = dev.add_subparsers(dest="dev_command", required=True, metavar="COMMAND")
    text = "start what does not run, and wait until it is ready"
    up = commands.add_parser("up", parents=parents, help=text, description=text)
    up.add_argument(
        "--s3",
        choices=_S3_CHOICES,
        default="auto",
        help="S3 server of a new home: auto = MinIO if it is built or can be (once, 5 to 8 min), "
        "soonest = MinIO if it is built; else SeaweedFS (default: auto)",
    )
    up.add_argument(
        "--second-store",
        action="store_true",
        help="give this home a second bucket, which gets a copy of everything",
    )
    up.add_argument(
        "--agents",
        type=int,
        default=1,
        metavar="COUNT",
        help="give this home so many agents, each of which is another node (NAME-2 and so on), to "
        "try groups across nodes; volumes are then added with --node",
    )
    up.add_argument(
        "--tls",
        action="store_true",
        help="let the services of this home speak TLS, by certificates of an authority of its own",
    )
    up.add_argument("--servers-only", action="store_true", help="PostgreSQL, Kafka and S3 only")
    for name, text in (
        ("status", "show what runs, and where; status 8 unless everything is ready"),
        ("env", "print addresses and credentials, to eval in a shell"),
        ("down", "stop everything; data stay"),
    ):
        commands.add_parser(name, parents=parents, help=text, description=text)


def run(args: argparse.Namespace) -> int:
    """Run the command that `add_parser` parsed; return the exit status.

    ``status`` ends with 8 (unavailable) unless everything is ready.

    Raises:
        BackcastError: a server cannot be got or started; what was started is stopped again.
    """
    from deploy.local.cluster import LocalCluster  # noqa: PLC0415 -- see above
    from deploy.local.home import BackcastHome  # noqa: PLC0415 -- see above
    from deploy.local.servers.s3 import S3Choice  # noqa: PLC0415 -- see above

    cluster = LocalCluster(BackcastHome.from_environment())
    as_json = bool(getattr(args, "json", False))
    if args.dev_command == "up":
        cluster.up(
            tell_line,
            s3=S3Choice(args.s3),
            servers_only=args.servers_only,
            second_store=args.second_store,
            agent_count=args.agents,
            tls=args.tls,
        )
        _show_status(cluster, cluster.status(), as_json=as_json)
        if not args.servers_only:
            with contextlib.suppress(UnavailableError):  # it was ready a moment ago
                _tell_of_catalog(cluster)
        return 0
    if args.dev_command == "down":
        cluster.down(tell_line)
        if as_json:
            write_line(json.dumps({"home": str(cluster.home.folder)}))
        return 0
    if not cluster.home.exists:
        raise NotFoundError(
            f"{cluster.home.folder}: nothing was started here; run: backcast dev up"
        )
    if args.dev_command == "env":
        _show_environment(cluster, as_json=as_json)
        return 0
    status = cluster.status()
    _show_status(cluster, status, as_json=as_json)
    return 0 if all(process.ready for process in status) else UnavailableError.exit_code


def _tell_of_catalog(cluster: "LocalCluster") -> None:
    """Say it if the catalog waits for a person: every process is ready then, and nothing works."""
    from libs.rest.client import RestClient  # noqa: PLC0415 -- as above

    home = cluster.home
    client = RestClient(home.service_url("catalog"), home.secret("token"), home.ca_file)
    until = time.monotonic() + _COMPARED_SECONDS_MAX
    while (found := client.get("/v1/catalog"))["standing"] == "unknown":
        if found["error"] or time.monotonic() > until:
            break  # `backcast status` says more
        time.sleep(_POLL_SECONDS)
    if found["standing"] in ("lost", "foreign"):
        tell_line(f"the catalog waits for a person: {found['reason']}")


def _show_environment(cluster: "LocalCluster", *, as_json: bool) -> None:
    variables = cluster.environment()
    if as_json:
        write_line(json.dumps(variables))
        return
    for name, value in variables.items():
        write_line(f"export {name}={shlex.quote(value)}")


def _show_status(
    cluster: "LocalCluster", processes: "list[ProcessStatus]", *, as_json: bool
) -> None:
    if as_json:
        listed = [dataclasses.asdict(process) for process in processes]
        home = cluster.home
        write_line(
            json.dumps({"home": str(home.folder), "s3": home.s3_server, "processes": listed})
        )
        return
    for process in processes:
        state = "stopped" if process.pid is None else "ready" if process.ready else "not ready"
        write_line(f"{process.name:<12} {state:<10} {process.pid or '-':<8} {process.address}")
