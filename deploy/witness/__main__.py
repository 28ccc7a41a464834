"""``python -m deploy.witness``: prepare a shared disk, write it as one node, judge a snapshot.

Several disks are one: its chunks lie on them in turn.

Whenever a writer reads a line from its standard input, it prints the number of its newest
acknowledged record, and the seconds of its longest step since the line before. It ends when its
input ends.
"""

import argparse
import contextlib
import select
import sys
import time
from pathlib import Path

from deploy.witness.disks import DirectFile, NbdDisk, StripedDisk
from deploy.witness.records import Layout
from deploy.witness.verdict import judge
from deploy.witness.writer import Writer, prepare
from libs.nbd.connection.dialling import NbdAddress


def main() -> int:
    """Do what the arguments say; 1 if a snapshot contradicts itself."""
    parser = argparse.ArgumentParser(prog="python -m deploy.witness", description=__doc__)
    parser.add_argument("what", choices=("prepare", "write", "judge"))
    parser.add_argument(
        "disks",
        nargs="+",
        metavar="DISK",
        help="path of a file or device, or unix:SOCKET of an NBD server",
    )
    parser.add_argument("--export", default="", help="name of the NBD server's export")
    parser.add_argument("--trial", type=int, default=1, help="number of this trial (default: 1)")
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes write (default: 3)")
    parser.add_argument("--contended", type=int, default=16, help="chunks that all nodes overwrite")
    parser.add_argument("--slots", type=int, default=256, help="records of a node, then anew")
    parser.add_argument("--node", type=int, default=0, help="which node writes, from 0")
    parser.add_argument("--pause", type=float, default=0, help="seconds between a writer's steps")
    parser.add_argument("--acknowledged", type=int, nargs="*", help="records that must be there")
    args = parser.parse_args()
    layout = Layout(args.trial, args.nodes, args.contended, args.slots)
    with contextlib.ExitStack() as opened:
        disks = [_open(one, args.export) for one in args.disks]
        for one in disks:
            opened.enter_context(one)
        disk = StripedDisk(disks)
        match args.what:
            case "prepare":
                prepare(layout, disk)
            case "write":
                seed = args.trial * args.nodes + args.node
                _write(Writer(layout, args.node, disk, seed), args.pause)
            case "judge":
                verdict = judge(layout, disk.read, args.acknowledged)
                print(f"{verdict.records} records, {verdict.citations} causes looked for")
                print("\n".join(verdict.contradictions) or "no contradiction: this was one instant")
                return 1 if verdict.contradictions else 0
    return 0


def _open(disk: str, export: str) -> DirectFile | NbdDisk:
    if disk.startswith("unix:"):
        return NbdDisk(NbdAddress(disk), export)
    return DirectFile(Path(disk))


def _write(writer: Writer, pause_seconds: float) -> None:
    writer.resume()
    longest_seconds = 0.0
    while True:
        begun = time.monotonic()
        writer.step()
        longest_seconds = max(longest_seconds, time.monotonic() - begun)
        if select.select([sys.stdin], [], [], pause_seconds)[0]:
            if not sys.stdin.readline():
                return
            print(writer.acknowledged, f"{longest_seconds:.6f}", flush=True)
            longest_seconds = 0.0


if __name__ == "__main__":
    sys.exit(main())
