"""What is going on when the fault strikes: steps before faults are armed, and under them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from libs.catalogdb.deletion.brake import accept, read_halts
from libs.catalogdb.sessions.session import open_session, reject_session
from libs.events.topics import BLOCK_CHANGES
from libs.ids import uuid7
from libs.store.layout import pack_object
from libs.store.memory import MemoryStore
from tests.faults.crash_points import guests
from tests.faults.crash_points.process import DEADLINE_SECONDS
from tests.faults.crash_points.world import TENANT, World


class Step(Protocol):
    """One thing that happens in a scenario."""

    def do(self, world: World) -> None:
        """Let it happen, faults included; return when it is through."""
        ...


@dataclass(frozen=True)
class Write:
    """The volume's users write to some of its chunks."""

    volume: str
    count: int
    #: Of these, how many become zero.
    zeros: int = 0
    #: Values come from this many: where they are few, chunks occur twice, also in other volumes.
    values: int = 1 << 40
    #: They come from what the volume has ever contained: chunks come back.
    again: bool = False

    def do(self, world: World) -> None:
        rng, disk = world.rng, world.disks[self.volume]
        indexes = rng.sample(range(disk.chunk_count), self.count)
        changes = {}
        for at, index in enumerate(indexes):
            value = rng.choice(disk.past) if self.again else rng.randint(1, self.values)
            changes[index] = 0 if at < self.zeros else value
        disk.write(changes)


@dataclass(frozen=True)
class Take:
    """Snapshots of groups are wanted, at the same time if there are several."""

    groups: tuple[str, ...] = ("g",)
    full: bool = False

    def do(self, world: World) -> None:
        world.run(
            *(
                guests.Client(world, f"client of {group}", group, full=self.full)
                for group in self.groups
            )
        )


@dataclass(frozen=True)
class Together:
    """Some guests at the same time, and maybe a snapshot with them."""

    #: "name kind arguments": the guest's class, and what it is told.
    guests: tuple[str, ...]
    groups: tuple[str, ...] = ()
    #: Whether the relay publishes meanwhile.
    relaying: bool = False

    def do(self, world: World) -> None:
        clients = [guests.Client(world, f"client of {group}", group) for group in self.groups]
        workers = []
        for number, line in enumerate(self.guests):
            kind, *arguments = line.split()
            worker: type[guests.Worker] = getattr(guests, kind)
            workers.append(worker(world, f"{kind.lower()}-{number}", *arguments))
        world.relaying = self.relaying
        world.run(*clients, *workers)
        world.relaying = False


@dataclass(frozen=True)
class Relay:
    """The relay publishes what the log has."""

    def do(self, world: World) -> None:
        world.relaying = True
        world.run()
        world.relaying = False


@dataclass(frozen=True)
class Strays:
    """Objects lie in the bucket that no row of the catalog names."""

    count: int

    def do(self, world: World) -> None:
        for _ in range(self.count):
            generation = UUID(int=world.rng.getrandbits(128))
            # Past the watch: no process of ours would have written it.
            MemoryStore.put(world.store, pack_object(generation), b"of nobody")


@dataclass(frozen=True)
class Overlooked:
    """Packs that nothing needs were on no list, and were found by looking at all packs."""

    def do(self, world: World) -> None:
        world.site.sql("UPDATE candidate SET unclaimed = true")


@dataclass(frozen=True)
class Accepted:
    """A person has looked at what is held back, and lets it go."""

    def do(self, world: World) -> None:
        halts = read_halts(world.site.catalog)
        assert halts, "nothing is held back"
        for halt in halts:
            accept(world.site.catalog, halt.name, "a person")


@dataclass(frozen=True)
class Rejected:
    """A snapshot of a group was begun, and rejected before anything was read."""

    group: str

    def do(self, world: World) -> None:
        catalog, session = world.site.coordinator, uuid7()
        open_session(catalog, TENANT, self.group, session, DEADLINE_SECONDS)
        reject_session(catalog, "coordinator", session, "agent-gone", "nobody answers")


@dataclass(frozen=True)
class Aged:
    """Everything happened 40 days before."""

    def do(self, world: World) -> None:
        world.site.sql(
            ";".join(
                f"UPDATE {table} SET {column} = {column} - interval '40 days'"
                for table, column in (
                    ("pack", "created_at"),
                    ("session", "ended_at"),
                    ("snapshot", "expired_at"),
                    ("event_log", "occurred_at"),
                )
            )
        )


@dataclass(frozen=True)
class Redelivered:
    """Kafka delivers once more what agents have published so far."""

    def do(self, world: World) -> None:
        world.topics.redeliver(BLOCK_CHANGES)


@dataclass(frozen=True)
class Scenario:
    """A situation to crash in.

    Args:
        name: for reports and replays.
        groups: group → its volumes and their sizes in chunks.
        before: what has happened already.
        under_fault: what is going on.
        chunkers: how many.
        second: whether there is a second store, which gets a copy of everything.
    """

    name: str
    groups: dict[str, dict[str, int]]
    before: Sequence[Step]
    under_fault: Sequence[Step]
    chunkers: int = 1
    second: bool = False


ONE = {"g": {"v": 40}}
TWO_VOLUMES = {"g": {"v": 24, "w": 24}}
TWO_GROUPS = {"g": {"v": 24}, "h": {"w": 24}}

#: Two snapshots; the newer one has overwritten nearly all of the older one.
HISTORY = (Write("v", 38), Take(), Write("v", 35), Take())
#: Two snapshots that share nothing: the packs of the older one die with it.
OVERWRITTEN = (Write("v", 38), Take(), Write("v", 40), Take())
EXPIRED = Together(("Expirer g",))
#: An expired snapshot whose manifest is deleted and a rejected session, all of them long ago; what
#: was told of them was relayed.
ENDED = (
    *OVERWRITTEN[:2],
    Rejected("g"),
    *OVERWRITTEN[2:],
    EXPIRED,
    Together(("Collector",)),
    Relay(),
    Aged(),
)
#: Snapshots that changed little, each with a pack of its own, a day ago and longer; some expired.
SMALL = (
    Write("v", 12),
    Take(),
    Write("v", 3),
    Take(),
    EXPIRED,
    Write("v", 4),
    Take(),
    Write("v", 2),
    Take(),
    Aged(),
)

SCENARIOS = (
    Scenario("first backup", ONE, [Write("v", 34)], [Take()]),
    Scenario(
        "incremental",
        ONE,
        [Write("v", 30), Take(), Write("v", 12, zeros=3)],
        [Take()],
    ),
    Scenario("unchanged", ONE, [Write("v", 12), Take()], [Take()]),
    Scenario(
        "without a base",
        ONE,
        [Write("v", 12), Take(), Write("v", 6)],
        [Take(full=True)],
    ),
    Scenario(
        "group of two volumes on two chunkers",
        TWO_VOLUMES,
        [Write("v", 10), Write("w", 10), Take(), Write("v", 5), Write("w", 5)],
        [Take()],
        chunkers=2,
    ),
    Scenario(
        "group of two volumes on one chunker",
        TWO_VOLUMES,
        [Write("v", 10, values=8), Write("w", 10, values=8), Take(), Write("v", 5), Write("w", 5)],
        [Take()],
    ),
    Scenario(
        "two sessions store the same chunks",
        TWO_GROUPS,
        [Write("v", 16, values=10), Write("w", 16, values=10)],
        [Take(("g", "h"))],
        chunkers=2,
    ),
    Scenario(
        "two sessions on one chunker",
        TWO_GROUPS,
        [Write("v", 16, values=10), Write("w", 16, values=10)],
        [Take(("g", "h"))],
    ),
    Scenario("expire", ONE, OVERWRITTEN, [Together(("Expirer g",))]),
    Scenario("collect", ONE, [*OVERWRITTEN, EXPIRED], [Together(("Collector",))]),
    Scenario(
        "two collectors, and a snapshot of chunks that come back",
        ONE,
        [*OVERWRITTEN, EXPIRED, Write("v", 20, again=True)],
        [Together(("Collector", "Collector"), ("g",))],
    ),
    Scenario(
        "expire, collect and sweep while a snapshot is taken",
        ONE,
        [*OVERWRITTEN, Write("v", 8, again=True)],
        [Together(("Expirer g", "Collector", "Sweep"), ("g",)), Together(("Collector",))],
    ),
    Scenario(
        "rewrite",
        ONE,
        [*HISTORY, EXPIRED, Together(("Collector",))],
        [Together(("Rewrite",)), Together(("Collector",))],
    ),
    Scenario(
        "rewrite while dead chunks come back",
        ONE,
        [*HISTORY, EXPIRED, Together(("Collector",)), Write("v", 20, again=True)],
        [Together(("Rewrite", "Collector"), ("g",))],
    ),
    Scenario(
        "restore while its packs are rewritten",
        ONE,
        [*HISTORY, EXPIRED],
        [Together(("Restore v", "Rewrite", "Collector"))],
    ),
    Scenario(
        "sweep what no row names while a snapshot is taken",
        ONE,
        [Write("v", 12), Take(), Write("v", 6), Strays(3)],
        [Together(("Sweep", "Sweep"), ("g",))],
    ),
    Scenario(
        "sweep what was held back and accepted",
        ONE,
        [Write("v", 12), Take(), Strays(8), Together(("Sweep",)), Accepted()],
        [Together(("Sweep",))],
    ),
    Scenario(
        "collect what nobody gave up",
        ONE,
        [*OVERWRITTEN, EXPIRED, Overlooked()],
        [Together(("Collector", "Collector"))],
    ),
    Scenario(
        "copy to a second store",
        ONE,
        [Write("v", 34), Take(), Write("v", 12), Take()],
        [Together(("Replicate",))],
        second=True,
    ),
    Scenario(
        "copy to a second store while snapshots expire and one is taken",
        ONE,
        [*OVERWRITTEN, Write("v", 8, again=True)],
        [
            Together(("Replicate", "Expirer g", "Collector", "Sweep"), ("g",)),
            Together(("Collector", "Replicate")),
        ],
        second=True,
    ),
    Scenario(
        "delete both copies",
        ONE,
        [*OVERWRITTEN, Together(("Replicate",)), EXPIRED],
        [Together(("Collector", "Collector"))],
        second=True,
    ),
    Scenario(
        "fold what ended while a snapshot is taken",
        ONE,
        ENDED,
        [
            Write("v", 6),
            Redelivered(),
            Together(("Fold", "Fold"), ("g",)),
            Redelivered(),
            Take(),
        ],
    ),
    Scenario(
        "fold while the log is relayed and copied",
        ONE,
        [*ENDED, Write("v", 6), Take(), Aged()],
        [Together(("Fold", "Replicate", "Collector"), relaying=True), Together(("Fold",))],
        second=True,
    ),
    Scenario(
        "merge small packs while dead chunks come back",
        ONE,
        [*SMALL, Write("v", 12, again=True)],
        [Together(("Merge", "Merge", "Collector"), ("g",)), Together(("Collector",))],
    ),
    Scenario(
        "merge small packs while they are copied and restored",
        ONE,
        [*SMALL, Together(("Replicate",))],
        [Together(("Merge", "Replicate", "Restore v")), Together(("Collector", "Replicate"))],
        second=True,
    ),
    Scenario("verify", ONE, [Write("v", 20), Take()], [Together(("Verify v",))]),
    Scenario("relay", ONE, [Write("v", 4), Take()], [Relay()]),
)
