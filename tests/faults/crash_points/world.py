"""The world of one case: processes, disks, topics, and the order in which everybody gets a turn.

One thread runs at a time, and every choice comes from the seed, so the same seed gives the same
trace of effects. Time stands still; when nobody can go on, all deadlines are over.
"""

import itertools
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from libs.catalogdb.protected import Node, add_volume
from libs.events.topics import BLOCK_CHANGES
from libs.kafka.consumer import Partition
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.store.memory import MemoryStore
from services.change_capture.coordinator.tenants import ensure_tenant
from tests.faults.crash_points.disk import Content, Disk
from tests.faults.crash_points.effects import Effects, Fault, Killed, Life, Paused
from tests.faults.crash_points.inline import Topics
from tests.faults.crash_points.process import (
    Actor,
    AgentProcess,
    CatalogProcess,
    ChunkerProcess,
    CoordinatorProcess,
)
from tests.faults.crash_points.saved import Saved, objects_of
from tests.faults.crash_points.sleeper import Sleeper
from tests.support.announcing import announce
from tests.support.catalog import CatalogSite

A = TypeVar("A", bound=Actor)

TENANT = "acme"
#: Rounds in which nobody did anything, with deadlines passing in between: then it hangs for good.
_IDLE_ROUNDS_MAX = 6
#: A case takes some dozen rounds.
_ROUNDS_MAX = 1000

#: What a case does not begin without: the schema, one tenant, and the node.
_LASTING = (
    "schema_version",
    "incarnation",
    "retention_clock",
    "sweep",
    "store",
    "domain",
    "tenant",
    "node",
)
#: Claims and deadlines of the dead that are over when time passes.
_DEADLINES = """
    UPDATE session SET deadline = now() - interval '1 second',
                       cut_until = now() - interval '1 second' WHERE state = 'o';
    UPDATE lease SET deadline = now() - interval '1 second' WHERE state = 'o';
    UPDATE tombstone SET deadline = '-infinity';
    UPDATE sweep SET claimed_until = '-infinity';
    UPDATE marking SET again_at = now() - interval '1 second'"""


class World:
    """Everything that one case has; `reset` makes the next one.

    Args:
        site: the catalog.
        folder: for disks and the agent's state; on a fast file system.
    """

    def __init__(self, site: CatalogSite, folder: Path) -> None:
        self.site = site
        self.folder = folder
        self.state_folder = folder / "state"
        self.kek = KeyEncryptionKey.generate()
        self.effects = Effects()
        self.store = MemoryStore()
        #: The second store's bucket, if the case has one.
        self.second: MemoryStore | None = None
        self.tenant = ensure_tenant(site.coordinator, KeyVault(self.store, self.kek), TENANT)
        self._keys = {stat.key: self.store.get(stat.key) for stat in self.store.list("keys/")}
        self._tables = self._prepare_tables()
        self._emptying = [
            *(f"DELETE FROM {table}" for table in self._tables if table != "log_position"),
            "UPDATE log_position SET last = 0, published = 0, folded = 0",
            "UPDATE sweep SET after = '', swept_at = '-infinity', claimed_until = '-infinity'",
        ]
        self.actors: list[Actor] = []

    def reset(
        self,
        seed: int,
        chunker_count: int,
        bucket: MemoryStore,
        second: MemoryStore | None = None,
    ) -> None:
        """Forget everything but the tenant and its keys, and start all processes."""
        self._clear(seed, bucket, second)
        self.site.sql(_in_replica_mode([*self._emptying, *self._stores()]))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for key, wrapped in self._keys.items():
            self.store.put(key, wrapped)
        self.topics = Topics()
        self.disks: dict[str, Disk] = {}
        #: Session of each snapshot ever sealed → what its volumes must contain.
        self.sealed: dict[UUID, dict[str, Content]] = {}
        #: Snapshots that an operator has asked to expire.
        self.given_up: set[UUID] = set()
        self._partitions: dict[UUID, int] = {}
        self._chunker_count = chunker_count
        self._start()

    def save(self) -> Saved:
        """Keep everything that is durable now; there is one saved catalog at a time."""
        tables = [table for table in self._tables if self.site.sql(f"SELECT FROM {table} LIMIT 1")]
        self.site.sql(
            ";".join(
                f"TRUNCATE saved.{table}; INSERT INTO saved.{table} TABLE {table}"
                for table in tables
            )
        )
        return Saved(
            [f"INSERT INTO {t} OVERRIDING SYSTEM VALUE TABLE saved.{t}" for t in tables],
            objects_of(self.store),
            None if self.second is None else objects_of(self.second),
            {path: path.read_bytes() for path in self.state_folder.rglob("*") if path.is_file()},
            self.topics.copy(),
            {name: (dict(disk.content), list(disk.past)) for name, disk in self.disks.items()},
            dict(self.sealed),
            set(self.given_up),
        )

    def resume(
        self, saved: Saved, seed: int, bucket: MemoryStore, second: MemoryStore | None = None
    ) -> None:
        """Go back to what was saved, with fresh processes, and choices that begin with the seed."""
        self._clear(seed, bucket, second)
        self.site.sql(
            _in_replica_mode(
                [
                    *self._emptying,
                    "DELETE FROM log_position",
                    *self._stores(),
                    *saved.statements,
                ]
            )
        )
        for key, content in (saved.second_objects or {}).items():
            assert self.second is not None
            self.second.put(key, content)
        for key, content in saved.objects.items():
            MemoryStore.put(self.store, key, content)  # past the watch: it lay there
        shutil.rmtree(self.state_folder, ignore_errors=True)
        for path, written in saved.state.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written)
        self.topics = saved.topics.copy()
        for name, (chunks, past) in saved.disks.items():
            self.disks[name].restore(chunks, past)
        self.sealed, self.given_up = dict(saved.sealed), set(saved.given_up)
        self._start()

    def _clear(self, seed: int, bucket: MemoryStore, second: MemoryStore | None) -> None:
        for actor in self.actors:
            actor.close()
        self.store, self.second = bucket, second
        self.seed = seed
        self.rng = random.Random(seed)
        random.seed(seed)  # the chunker's sample of known chunks
        self.effects = Effects()
        #: Per client, why sessions ended without a snapshot.
        self.rejections: list[list[str]] = []
        self.rewritten = 0
        self.is_overdue = self.relaying = self.is_idle = False
        self._sleeper: Sleeper | None = None

    def _stores(self) -> list[str]:
        """Statements that make the catalog know the stores of the case, and no others."""
        forget = ["DELETE FROM sweep WHERE store_no = 2", "DELETE FROM store WHERE store_no = 2"]
        if self.second is None:
            return forget
        return [
            *forget,
            "INSERT INTO store (store_no, name) VALUES (2, 'second')",
            "INSERT INTO sweep (store_no, prefix) VALUES (2, 'packs/'), (2, 'manifests/')",
        ]

    def _start(self) -> None:
        chunkers = [ChunkerProcess(self, f"chunker-{n}") for n in range(self._chunker_count)]
        self.actors = [
            CoordinatorProcess(self, "coordinator"),
            AgentProcess(self, "agent"),
            *chunkers,
            CatalogProcess(self, "catalog"),
        ]

    # ---- who is there

    @property
    def agent(self) -> AgentProcess:
        return self.the(AgentProcess)

    @property
    def coordinator(self) -> CoordinatorProcess:
        return self.the(CoordinatorProcess)

    def the(self, kind: type[A]) -> A:
        """The one actor of a kind."""
        return next(actor for actor in self.actors if isinstance(actor, kind))

    def announce(self, boot: UUID) -> None:
        """The agent says where it is, as it does when it starts."""
        announce(self.site.coordinator, Node("node-1", "http://node-1:1", "node-1:2", boot))

    def protect(self, group: str, sizes: Mapping[str, int]) -> None:
        """A group of volumes of so many chunks each, all zero."""
        for name, chunk_count in sizes.items():
            path = self.folder / name
            path.touch()
            path.open("r+b").truncate(chunk_count * CHUNK_SIZE_BYTES)
            self.disks[name] = Disk(path, chunk_count, self.seed, {})
            volume = add_volume(self.site.coordinator, TENANT, name, group, "node-1", str(path))
            self._partitions[volume.volume] = len(self._partitions)

    def partition_of(self, volume: UUID) -> Partition:
        return Partition(BLOCK_CHANGES, self._partitions[volume])

    def partitions_of(self, chunker: str) -> list[Partition]:
        number = int(chunker.rpartition("-")[2])
        return [
            Partition(BLOCK_CHANGES, at)
            for at in range(max(1, len(self._partitions)))
            if at % self._chunker_count == number
        ]

    # ---- what happens

    def run(self, *guests: Actor) -> None:
        """Give everybody turns, in seeded order, until all guests are done and nobody is busy.

        Guests are actors for this time only: a client, a collector, a reader.
        """
        self.actors += guests
        names = {guest.name for guest in guests}
        idle = 0
        for turn in itertools.count():
            assert turn < _ROUNDS_MAX, "busy for ever"
            busy = False
            self.is_idle = idle > 0
            for actor in self.rng.sample(self.actors, len(self.actors)):
                if actor in self.actors and not actor.life.asleep:
                    busy |= self._step(actor)
            idle = 0 if busy else idle + 1
            waiting = [a for a in self.actors if not a.is_done]
            if busy or not self.is_idle:
                continue
            if not waiting:
                break
            assert idle < _IDLE_ROUNDS_MAX, f"hangs: {waiting[0].name}"
            self.let_time_pass()
        for actor in list(self.actors):
            if actor.name in names:
                self.actors.remove(actor)
                self.rejections.append(getattr(actor, "rejections", []))
        self.note_sealed()

    def arm(self, faults: list[Fault]) -> None:
        """From here on, effects count and faults strike."""
        self.effects.arm(faults)
        self._pausing = any(isinstance(fault, Paused) for fault in faults)

    def disarm(self) -> None:
        """No more faults; what sleeps wakes up, and what is under way lands."""
        self.effects.armed = False
        if self._sleeper:
            sleeper, self._sleeper = self._sleeper, None
            sleeper.wake(self.effects)
        self.effects.land_late()
        self._pausing = False

    def wake_agent(self) -> None:
        """If the agent sleeps, whom nobody can replace, it goes on."""
        if self._sleeper and self.agent.life.asleep:
            sleeper, self._sleeper = self._sleeper, None
            sleeper.wake(self.effects)

    def replace(self, actor: Actor) -> None:
        """Another process takes over the role of one that is dead or asleep."""
        self.actors[self.actors.index(actor)] = actor.successor()

    def note_sealed(self) -> None:
        """Whatever was sealed since the last time has the content that the disks have now."""
        for session, names in self.site.sql(
            """SELECT s.session, array_agg(v.name) FROM snapshot s
               JOIN snapshot_volume USING (session) JOIN volume v USING (volume_no) GROUP BY 1"""
        ):
            if session not in self.sealed:
                self.sealed[session] = {name: dict(self.disks[name].content) for name in names}

    def older_snapshots(self, group: str) -> list[UUID]:
        """Live snapshots of a group but for the newest, oldest first."""
        return [
            row[0]
            for row in self.site.sql(
                """SELECT session FROM snapshot s JOIN volume_group g USING (group_no)
                   WHERE g.name = %s AND state = 'l' AND sequence < head_sequence
                   ORDER BY sequence""",
                group,
            )
        ]

    def expected(self, session: UUID, volume: str) -> bytes:
        """What a volume of a snapshot must give back."""
        return self.disks[volume].bytes_of(self.sealed[session][volume])

    def session_end(self, session: UUID) -> tuple[str, str] | None:
        """State and reason of a session that has ended."""
        found = self.site.sql(
            """SELECT state::text, reject_code || ': ' || reject_message FROM session
               WHERE session = %s AND state <> 'o'""",
            session,
        )
        return (found[0][0], found[0][1]) if found else None

    def let_time_pass(self) -> None:
        """All deadlines are over."""
        self.site.sql(_DEADLINES)
        self.is_overdue = True
        self.wake_agent()

    def _prepare_tables(self) -> list[str]:
        """Tables that a case changes; each has a twin that `save` copies it to."""
        tables = [
            row[0]
            for row in self.site.sql(
                """SELECT tablename FROM pg_tables
                   WHERE schemaname = 'public' AND tablename <> ALL(%s)""",
                list(_LASTING),
            )
        ]
        self.site.sql("CREATE SCHEMA saved")
        for table in tables:
            self.site.sql(f"CREATE TABLE saved.{table} (LIKE {table})")
        # Two prefixes instead of 17: the sweep goes over the same objects in fewer steps.
        self.site.sql(
            """DELETE FROM sweep WHERE prefix LIKE 'packs%';
               INSERT INTO sweep (store_no, prefix) VALUES (1, 'packs/')"""
        )
        return tables

    def _step(self, actor: Actor) -> bool:
        try:
            if self._pausing and self._sleeper is None:
                return self._step_on_thread(actor)
            return actor.step()
        except Killed as killed:
            self._bury(killed.life)
            return True

    def _bury(self, life: Life) -> None:
        for actor in self.actors:
            if actor.life is life:
                self.replace(actor)

    def _step_on_thread(self, actor: Actor) -> bool:
        sleeper = Sleeper(actor, self.effects)
        if sleeper.finished:
            return sleeper.result()
        # It sleeps in the middle of its step, maybe inside a call to another process.
        self._sleeper = sleeper
        pause = self.effects.pause
        assert pause is not None
        if actor.life is not pause.life and not actor.replaceable:
            actor.life.asleep = True
        for one in list(self.actors):
            if one.replaceable and (one is actor or one.life is pause.life):
                self.replace(one)
        return True

    _pausing = False


def _in_replica_mode(statements: list[str]) -> str:
    """Without triggers, so that the order of tables does not matter."""
    before = "SET session_replication_role = replica"
    return ";".join([before, *statements, "SET session_replication_role = origin"])
