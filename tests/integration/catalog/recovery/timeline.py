"""A catalog that can be set back to an earlier state under the store of a later one."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg

from libs.catalogdb.migrate import migrate
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import Stores
from libs.keys.kek import KeyEncryptionKey
from libs.runtime.signals import Stop
from libs.store.port import ObjectStore
from services.catalog.recovery.adoption import Report
from services.catalog.recovery.manifests import Decisions
from services.catalog.recovery.reconciler import Reconciler
from tests.integration.catalog.protected import Protected
from tests.support.catalog import CatalogSite, create_logins


@dataclass
class Timeline:
    """Today's catalog, copies of it from before, and one store for all of them.

    Args:
        server: connection string of the superuser for some database of the server.
        store: the bucket.
    """

    server: str
    store: ObjectStore

    def __post_init__(self) -> None:
        self.kek = KeyEncryptionKey.generate()
        self.shelf = CheckpointShelf(self.store, self.kek)
        self._names: list[str] = []
        self._today = self._named()
        self._admin(f"CREATE DATABASE {self._today}")
        migrate(self._dsn())
        create_logins(self._dsn())
        self._open()

    def _open(self) -> None:
        self.site = CatalogSite(self._dsn())
        known = getattr(self, "protected", None)
        self.protected = Protected(self.site, self.store, self.kek)
        if known:
            self.protected.live, self.protected.sessions = known.live, known.sessions
            self.protected.tenants = known.tenants
        self.checkpoints = self.protected.checkpoints

    def dump(self) -> str:
        """A copy of the catalog as it is, as yesterday's dump is one; its name."""
        self.site.close()
        name = self._named()
        self._admin(f"CREATE DATABASE {name} TEMPLATE {self._today}")
        self._open()
        # The copy is another database for the server, and so is not what was compared.
        return name

    def go_back(self, dump: str) -> None:
        """The catalog is lost, and the dump is loaded in its place."""
        self.site.close()
        self._today = self._named()
        self._admin(f"CREATE DATABASE {self._today} TEMPLATE {dump}")
        self._open()

    def lose_everything(self) -> None:
        """The catalog is lost, and a new one was set up in its place."""
        self.site.close()
        self._today = self._named()
        self._admin(f"CREATE DATABASE {self._today}")
        migrate(self._dsn())
        self._open()

    def reconciler(self, apart_seconds: float = 0, stop: Stop | None = None) -> Reconciler:
        """What the catalog service reconciles with."""
        return Reconciler(
            self.site.catalog,
            Stores(self.store),
            self.protected.vault,
            self.checkpoints,
            settle_seconds=0,
            apart_seconds=apart_seconds,
            stop=stop or Stop(),
        )

    def reconcile(self, decisions: Decisions | None = None) -> Report:
        return self.reconciler().run("a test", decisions)

    def live(self) -> set[tuple[str, int]]:
        """Live snapshots, as the catalog knows them."""
        rows = self.site.sql(
            """SELECT g.name, s.sequence FROM snapshot s JOIN volume_group g USING (group_no)
               WHERE s.state = 'l'"""
        )
        return {(str(name), int(sequence)) for name, sequence in rows}

    def generations(self, state: str) -> set[UUID]:
        rows = self.site.sql("SELECT generation FROM pack WHERE state = %s", state)
        return {row[0] for row in rows}

    def close(self) -> None:
        self.site.close()
        for name in self._names:
            self._admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _named(self) -> str:
        self._names.append(f"test_{uuid4().hex}")
        return self._names[-1]

    def _dsn(self) -> str:
        return self.server.rpartition("/")[0] + f"/{self._today}"

    def _admin(self, statement: str) -> None:
        with psycopg.connect(self.server, autocommit=True) as admin:
            admin.execute(statement.encode())


@contextlib.contextmanager
def timeline(server: str, store: ObjectStore) -> Iterator[Timeline]:
    """A timeline whose databases are dropped at the end."""
    made = Timeline(server, store)
    try:
        yield made
    finally:
        made.close()
