"""``backcast vm``: VMs as a whole, which are groups of volumes."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from libs.errors import BadInputError
from libs.points import RecoveryPoint
from libs.sizes import human_bytes
from services.cli.commands.protected.paths import absolute_path
from services.cli.connection import Services, connect
from services.cli.output import Column, Document, Output
from services.cli.progress import progress_bars

#: Ends the name of the volume that is a VM's definition.
_DEFINITION = "-definition"


def add_parser(
    nouns: "argparse._SubParsersAction[argparse.ArgumentParser]",
    everywhere: argparse.ArgumentParser,
) -> None:
    """Add ``vm`` and its verbs."""
    vm = nouns.add_parser(
        "vm", parents=[everywhere], help="VMs: all disks of one, and what starts it"
    )
    verbs = vm.add_subparsers(required=True, metavar="COMMAND")
    text = (
        "protect a running VM: a group with a volume for each disk, and one for its definition; "
        "repeating it is harmless"
    )
    add = verbs.add_parser("add", parents=[everywhere], help=text, description=text)
    add.add_argument("name", metavar="NAME", help="its name: that of the group")
    add.add_argument(
        "--qmp",
        metavar="SOCKET",
        required=True,
        help="path of a QMP socket of the VM that Backcast has for itself",
    )
    add.add_argument("--node", help="node that it runs on (needless if there is one node)")
    add.add_argument(
        "--tpm-state", metavar="FILE", help="file with the state of its TPM, if it has one"
    )
    add.add_argument(
        "--again", action="store_true", help="although other volumes have the same disks"
    )
    add.set_defaults(run=_add)
    text = "list the VMs that agents find in the tenant's roots, and what is not protected"
    discover = verbs.add_parser("discover", parents=[everywhere], help=text, description=text)
    discover.add_argument("--node", help="only those of this node")
    discover.set_defaults(run=_discover)
    text = (
        "give a VM back: its disks as raw images, the files of its definition, and a script that "
        "starts it"
    )
    restore = verbs.add_parser("restore", parents=[everywhere], help=text, description=text)
    restore.add_argument("point", metavar="NAME@POINT", help="the VM, and when")
    restore.add_argument(
        "--to", metavar="FOLDER", required=True, type=Path, help="folder to make; must not exist"
    )
    restore.set_defaults(run=_restore)


def _add(args: argparse.Namespace) -> int:
    services = connect(args)
    body: dict[str, object] = {"name": args.name, "qmp": absolute_path(args.qmp)}
    body |= {"node": args.node} if args.node else {}
    body |= {"tpm_state": absolute_path(args.tpm_state)} if args.tpm_state else {}
    body |= {"again": True} if args.again else {}
    added = services.coordinator.post(services.path("/vms"), body)
    Output(as_json=args.json).show(added, lambda added: "\n".join(_added(added)))
    return 0


def _added(vm: Document) -> Iterator[str]:
    yield f"{vm['name']}: a VM on node {vm['node']}, defined by volume {vm['definition']['name']}"
    for one in vm["disks"]:
        yield f"  {one['name']}: {one['path']}"


def _discover(args: argparse.Namespace) -> int:
    services, out = connect(args), Output(as_json=args.json)
    query = {"node": args.node} if args.node else None
    found = services.coordinator.get(services.path("/vms"), query)
    for node in found["silent_nodes"]:
        out.note(f"node {node}: its agent does not answer")
    out.show_all(
        found["vms"],
        [
            Column("node", lambda one: one["node"]),
            Column("QMP socket", lambda one: one["qmp"]),
            Column("volumes", lambda one: ", ".join(one["volumes"]) or "none: not protected"),
        ],
    )
    return 0


def _restore(args: argparse.Namespace) -> int:
    from libs.restoring.machine import restore_machine  # noqa: PLC0415 -- brings ciphers and codecs

    point = RecoveryPoint.parse(args.point)
    services = connect(args)
    snapshot = _snapshot(services, point)
    with progress_bars() as show_bar:
        restored = restore_machine(
            services.restore, services.tenant, snapshot, args.to, progressed=show_bar
        )
    document = {
        "folder": str(args.to),
        "script": str(restored.script),
        "disks": {one.volume: str(one.image) for one in restored.disks},
        "bytes": restored.bytes,
        "missing": list(restored.missing),
        "withheld": list(restored.withheld),
    }
    out = Output(as_json=args.json)
    for device in restored.missing:
        out.note(f"{device}: the recovery point has no bytes of this disk; the VM starts without")
    out.show(
        document,
        f"{args.to}: {len(restored.disks)} disks, {human_bytes(restored.bytes)}, every chunk "
        f"verified; {restored.script} starts the VM",
    )
    return 0


def _snapshot(services: Services, point: RecoveryPoint) -> Document:
    """The snapshot of a VM, by its name or by that of its definition."""
    name = point.name if point.name.endswith(_DEFINITION) else point.name + _DEFINITION
    found = services.get(RecoveryPoint(name, point.moment).path)
    snapshot: Document = services.get(f"/snapshots/{found['session']}")
    if not any(one["volume"] == name for one in snapshot["volumes"]):
        raise BadInputError(f"{point}: the snapshot has no volume {name}")
    return {**snapshot, "definition": name}
