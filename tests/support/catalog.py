"""A catalog for tests: logins of the services, a superuser who meddles, chunkers that store packs.

Everything goes through the transactions of libs/catalogdb, in the login of the service that calls
them in earnest. Rewriting packs is plain SQL here, as the design describes it.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import ParamSpec, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg import Connection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from libs.catalogdb.deletion.condemning import condemn_unused
from libs.catalogdb.migrate import SERVICE_ROLES, create_login
from libs.catalogdb.nodes.announcing import announce_node
from libs.catalogdb.packs.index import lookup_and_pin
from libs.catalogdb.packs.registering import PackRecord, Registered, begin_pack, register
from libs.catalogdb.pool import PATIENCE_SECONDS, Catalog
from libs.catalogdb.protected import Node, Tenant, add_volume, create_tenant
from libs.catalogdb.sessions.attempts import (
    CaptureBegun,
    FinishedPart,
    PackUse,
    PartInWork,
    PartProgress,
    Stale,
    Taken,
    finish_parts,
    renew,
    take_part,
)
from libs.catalogdb.sessions.barrier import BarrierEvidence, record_cut
from libs.catalogdb.sessions.sealing import Refused, Sealed, seal
from libs.catalogdb.sessions.session import SessionView, open_session
from libs.ids import new_generation, uuid7

P = ParamSpec("P")
T = TypeVar("T")

TENANT = "acme"
#: The agent process that captures, unless a test says otherwise.
BOOT = UUID(int=7)
NODE = Node("node-1", "http://node-1:1", "node-1:2", BOOT)
_PASSWORD = "test"
#: Far more than any step here takes; a test that waits so long has found a deadlock.
SECONDS_MAX = 20

#: Without its triggers, so that the order of tables does not matter.
_EMPTY = """
    DO $$
    DECLARE name text;
    BEGIN
        SET LOCAL session_replication_role = replica;
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            IF name ~ '^chunk_[0-9]+$' THEN
                EXECUTE format('DROP TABLE %I', name);
            ELSIF name NOT IN ('schema_version', 'log_position', 'incarnation', 'sweep', 'store',
                               'retention_clock', 'token_change', 'audit_position') THEN
                EXECUTE format('DELETE FROM %I', name);
            END IF;
        END LOOP;
        DELETE FROM sweep WHERE store_no > 1;
        DELETE FROM store WHERE store_no > 1;
        UPDATE log_position SET last = 0, published = 0, folded = 0;
        UPDATE audit_position SET number = 0;
        UPDATE retention_clock SET trusted_at = now(), halted_since = NULL;
    END $$"""


class CatalogSite:
    """A migrated database, a pool for each service, and a superuser.

    Args:
        dsn: connection string of the superuser.
    """

    def __init__(self, dsn: str) -> None:
        # A hanging statement fails its test instead of the whole run.
        self.dsn = make_conninfo(dsn, options=f"-c statement_timeout={SECONDS_MAX}s")
        self._admin = psycopg.connect(self.dsn, autocommit=True)
        self._threads = ThreadPoolExecutor(8)
        self._pools: list[Catalog] = []

    @functools.cached_property
    def coordinator(self) -> Catalog:
        """The catalog as coordinators reach it."""
        return self.open_pool(self.dsn_of("coordinator"))

    @functools.cached_property
    def chunker(self) -> Catalog:
        """The catalog as chunkers reach it."""
        return self.open_pool(self.dsn_of("chunker"), PATIENCE_SECONDS)

    @functools.cached_property
    def catalog(self) -> Catalog:
        """The catalog as its own loops reach it."""
        return self.open_pool(self.dsn_of("catalog"), PATIENCE_SECONDS)

    @functools.cached_property
    def restore(self) -> Catalog:
        """The catalog as restore services reach it."""
        return self.open_pool(self.dsn_of("restore"))

    def dsn_of(self, service: str) -> str:
        """Connection string of a service's login."""
        return make_conninfo(self.dsn, user=login_of(service), password=_PASSWORD)

    def open_pool(self, dsn: str, patience_seconds: float = 0.0) -> Catalog:
        """A pool that `close` closes."""
        pool = Catalog(dsn, patience_seconds=patience_seconds)
        pool.open()
        self._pools.append(pool)
        return pool

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Whoever finds the catalog unavailable says so at once, instead of trying for a minute."""
        pools = (self.chunker, self.catalog)
        for pool in pools:
            pool.patience_seconds = 0
        try:
            yield
        finally:
            for pool in pools:
                pool.patience_seconds = PATIENCE_SECONDS

    def close(self) -> None:
        """End all connections."""
        self._threads.shutdown()
        for pool in self._pools:
            pool.close()
        self._admin.close()

    def empty(self) -> None:
        """Forget everything but the schema."""
        self._admin.execute(_EMPTY)

    def sql(self, query: str, *arguments: object) -> list[TupleRow]:
        """Rows of a statement that the superuser runs and commits."""
        cursor = self._admin.execute(query.encode(), arguments or None)
        # A statement without columns has an empty description, and rows nevertheless.
        return cursor.fetchall() if cursor.description is not None else []

    def run(self, query: str, values: Mapping[str, object]) -> None:
        """A statement with named values that the superuser runs and commits, however long."""
        self._admin.execute("SET statement_timeout = 0")
        self._admin.execute(query.encode(), values)
        self._admin.execute(f"SET statement_timeout = '{SECONDS_MAX}s'".encode())

    @contextmanager
    def holding(self, query: str, *arguments: object) -> Iterator[Connection[TupleRow]]:
        """Someone's open transaction, with the locks of a statement until the block ends."""
        with psycopg.connect(self.dsn) as someone:
            someone.execute(query.encode(), arguments)
            yield someone

    def holding_log(self, topic: str) -> AbstractContextManager[Connection[TupleRow]]:
        """Keeps whoever appends to a topic from committing: the log is what they lock last."""
        return self.holding("SELECT FROM log_position WHERE topic = %s FOR UPDATE", topic)

    def start(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a call in a thread of its own."""
        return self._threads.submit(call, *args, **kwargs)

    def wait_until_waiting(self, count: int) -> None:
        """Return when exactly so many transactions wait for locks of others."""
        deadline = time.monotonic() + SECONDS_MAX
        while (waiting := self._waiting()) != count:
            assert time.monotonic() < deadline, f"{waiting} transactions wait, expected {count}"

    def _waiting(self) -> int:
        ((waiting,),) = self.sql(
            """SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"""
        )
        return int(waiting)


def login_of(service: str) -> str:
    """Name of the login that tests give a service."""
    return f"test_{service}"


def create_logins(dsn: str) -> None:
    """Make a login for each service; they belong to the server, not to one database."""
    for service in SERVICE_ROLES:
        create_login(dsn, service, login_of(service), _PASSWORD)


def item(number: int) -> bytes:
    """The id of a chunk or map node."""
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


def protect(site: CatalogSite, group: str, *volumes: str, tenant: str = TENANT) -> Tenant:
    """A tenant with a group of volumes; a volume named like the group if none is named."""
    made = create_tenant(site.coordinator, tenant, uuid4(), uuid4())
    announce_node(site.coordinator, NODE)
    for name in volumes or (group,):
        add_volume(site.coordinator, tenant, name, group, NODE.name, f"/dev/{name}")
    return made


def open_on(
    site: CatalogSite,
    group: str,
    *,
    full: bool = False,
    deadline_seconds: float = 60,
    tenant: str = TENANT,
) -> SessionView:
    """A fresh session on a group's head."""
    view = open_session(site.coordinator, tenant, group, uuid7(), deadline_seconds, full=full)
    assert isinstance(view, SessionView)
    cut(site, view)
    return view


def cut(site: CatalogSite, view: SessionView) -> None:
    """Record that the barrier of a session was reached, if it needs one."""
    if not view.cut_attempt:
        return
    now = datetime.now(UTC)
    evidence = [
        BarrierEvidence(node, "none", now, now, now, unbroken=True)
        for node in sorted({part.node for part in view.parts})
    ]
    assert record_cut(site.coordinator, view.session, view.cut_attempt, evidence, 60)


class Worker:
    """A chunker that has taken one part of a session.

    Args:
        site: the catalog.
        view: the session.
        part: which of its parts.
    """

    def __init__(self, site: CatalogSite, view: SessionView, part: int = 0) -> None:
        self.site = site
        self.view = view
        self.capture = view.parts[part].capture
        self.volume_no = view.parts[part].volume_no
        taken = take_part(site.chunker, self.capture, BOOT, "chunker-1", 0, 0)
        assert isinstance(taken, Taken)
        self.attempt = taken.attempt
        self.pinned: set[int] = set()

    @property
    def domains(self) -> list[int]:
        """Numbers of the domains that tags mean."""
        return [one.domain_no for one in self.view.domains]

    def look_up(self, *ids: bytes) -> list[int] | Stale:
        """Pin what is stored already."""
        return lookup_and_pin(self.site.chunker, self.domains, self.attempt, ids, self.pinned)

    def begin(self, generation: UUID) -> PackRecord | Stale:
        """Claim a generation."""
        view = self.view
        begun = begin_pack(self.site.chunker, self.attempt, view.domain_no, view.key_id, generation)
        return begun if isinstance(begun, Stale) else PackRecord(begun, generation, 1 << 20, b"f")

    def claim(self) -> PackRecord:
        """A pack that may be uploaded now."""
        pack = self.begin(new_generation())
        assert isinstance(pack, PackRecord)
        return pack

    def register(self, pack: PackRecord, *ids: bytes) -> dict[int, int] | Stale:
        """Register a pack with items, one behind the other."""
        registered = self.register_for(pack, [self.attempt], *ids)
        return registered if isinstance(registered, Stale) else registered.winners

    def register_for(
        self, pack: PackRecord, sharers: Sequence[UUID], *ids: bytes
    ) -> Registered | Stale:
        """Register a pack that attempts at several parts share."""
        view = self.view
        return register(
            self.site.chunker,
            self.attempt,
            domain_no=view.domain_no,
            tenant=view.tenant,
            session=view.session,
            pack=pack,
            ids=ids,
            places=range(len(ids)),
            chunk_count=len(ids),
            sharers=sharers,
        )

    def renew(self, progress: PartProgress | None = None) -> bool:
        """Record progress; False if the attempt is stale."""
        part = PartInWork(self.attempt, CaptureBegun(BOOT, 0, 0), progress or PartProgress())
        return not renew(self.site.chunker, [part], 60)

    def store(self, *ids: bytes) -> int:
        """A live pack of items that nobody else has; its number."""
        pack = self.claim()
        assert self.register(pack, *ids) == {}
        return pack.pack_no

    def finish(self, use: Mapping[int, PackUse], root: bytes | None = None) -> bool | Stale:
        """Finish the part."""
        done = PartProgress(size_bytes=1 << 30, read_bytes=1 << 20)
        part = FinishedPart(self.attempt, CaptureBegun(BOOT, 0, 0), root, 0, done, "frozen", use)
        finished = finish_parts(self.site.chunker, [part])
        return Stale(self.attempt) if finished.stale else finished.is_session

    def finish_storing(self, *ids: bytes) -> int:
        """Finish a part that consists of one new pack; its number."""
        pack_no = self.store(*ids)
        self.finish({pack_no: PackUse(entered=len(ids))})
        return pack_no

    def seal(self) -> Sealed | Refused:
        """Seal the session."""
        domains = [one.domain for one in self.view.domains]
        return seal(self.site.chunker, self.view.session, f"m/{self.view.session}", b"mac", domains)


def take_snapshot(site: CatalogSite, group: str, *ids: bytes) -> tuple[Worker, int]:
    """A sealed snapshot with one new pack of items; the pack's number."""
    worker = Worker(site, open_on(site, group))
    pack_no = worker.finish_storing(*ids)
    assert isinstance(worker.seal(), Sealed)
    return worker, pack_no


def lock_pack(db: Connection[TupleRow], pack_no: int) -> str:
    """Lock a pack as rewriters do, alone in its statement; its state."""
    row = db.execute(
        "SELECT state::text FROM pack WHERE pack_no = %s FOR UPDATE", [pack_no]
    ).fetchone()
    assert row is not None
    return str(row[0])


def expire_anyway(site: CatalogSite, group: str, *sequences: int) -> None:
    """Expire snapshots, even a last good point or what somebody reads, as `expire` never does."""
    site.sql(
        """UPDATE snapshot s SET state = 'x' FROM volume_group g
           WHERE g.group_no = s.group_no AND g.name = %s AND s.sequence = ANY(%s)""",
        group,
        list(sequences),
    )
    site.sql(
        """WITH gone AS (
               DELETE FROM pack_use u USING volume v WHERE v.volume_no = u.volume_no
                 AND NOT EXISTS (
                     SELECT FROM snapshot s WHERE s.group_no = v.group_no AND s.state = 'l'
                       AND s.sequence >= u.first_sequence
                       AND s.sequence <= coalesce(u.last_sequence, s.sequence))
               RETURNING u.pack_no)
           INSERT INTO candidate SELECT DISTINCT pack_no FROM gone ON CONFLICT DO NOTHING"""
    )


def condemn(site: CatalogSite, pack_no: int) -> bool:
    """A collector looks at this pack, if it is a candidate; whether it is condemned now."""
    if site.sql("SELECT FROM candidate WHERE pack_no = %s", pack_no):
        condemn_unused(site.catalog, pack_no - 1, 1)
    ((state,),) = site.sql("SELECT state::text FROM pack WHERE pack_no = %s", pack_no)
    return bool(state == "c")


def rewrite(
    db: Connection[TupleRow], domain_no: int, pack_no: int, ids: Sequence[bytes]
) -> int | None:
    """Move live items into a new pack, in the caller's transaction; None: a pin stands on it."""
    if lock_pack(db, pack_no) != "l":
        return None
    if db.execute("SELECT 1 FROM pin WHERE pack_no = %s", [pack_no]).fetchone():
        return None
    row = db.execute(
        """INSERT INTO pack (generation, domain_no, key_id, attempt, state)
           SELECT gen_random_uuid(), domain_no, key_id, gen_random_uuid(), 'l'
           FROM pack WHERE pack_no = %s RETURNING pack_no""",
        [pack_no],
    ).fetchone()
    assert row is not None
    db.execute(
        f"""UPDATE chunk_{domain_no} SET pack_no = %s
            WHERE pack_no = %s AND id_high = ANY(%s::uuid[])""".encode(),
        [row[0], pack_no, [id_[:16].hex() for id_ in ids]],
    )
    db.execute("UPDATE pack_use SET pack_no = %s WHERE pack_no = %s", [row[0], pack_no])
    db.execute("UPDATE pack SET state = 'c', moved_to = %s WHERE pack_no = %s", [row[0], pack_no])
    return int(row[0])
