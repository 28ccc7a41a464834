"""The services' real endpoints on a catalog with one snapshot, for whoever attacks them."""

import dataclasses
import functools
import json
import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from fastapi import FastAPI

from libs.catalogdb.migrate import migrate
from libs.catalogdb.nodes.enrolment import invite
from libs.catalogdb.pool import Catalog
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.stores import PRIMARY, Stores
from libs.keys.kek import KeyEncryptionKey
from libs.keys.nodes import NodeKey
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Tokens, digest_of
from libs.rest.server import create_app
from libs.runtime.groups import KafkaSettings, PostgresSettings, S3Settings, ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.settings import Secret
from libs.runtime.signals import Stop
from libs.store.memory import MemoryStore
from libs.store.s3 import S3Bucket, S3Store
from services.catalog import routes as catalog_routes
from services.catalog.copies.mirror import Mirror
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.passes import Collection
from services.catalog.deletion.rewriter import RewritePolicy, Rewriter
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from services.catalog.deletion.upkeep import Upkeep
from services.catalog.keys.data_keys import DataKeys
from services.catalog.keys.endpoints import KeyTools
from services.catalog.keys.rotation import KekRotation, keys_to_wrap
from services.catalog.recovery.check import CatalogCheck
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.recovery.endpoints import RecoveryTools
from services.catalog.recovery.loop import RecoveryLoop
from services.catalog.recovery.reconciler import Reconciler
from services.catalog.verification.jobs import VerifyJobs
from services.catalog.verification.verifier import Verifier
from services.change_capture.agent import routes as agent_routes
from services.change_capture.agent.captures import AgentCaptures
from services.change_capture.agent.window import Window
from services.change_capture.coordinator import routes as coordinator_routes
from services.change_capture.coordinator.agents import Agents
from services.change_capture.coordinator.nodes import routes as node_routes
from services.change_capture.coordinator.nodes.addresses import AgentNetworks
from services.change_capture.coordinator.nodes.registration import Registration
from services.change_capture.coordinator.nodes.tokens import NodeTokens
from services.change_capture.drivers.table import drivers
from services.change_capture.rpc import NodeAbout
from services.restore import routes as restore_routes
from services.restore.events.feed import Feed
from services.restore.settings import Settings as RestoreSettings
from tests.faults.crash_points.inline import InlineExecutor
from tests.support.catalog import TENANT, CatalogSite, create_logins
from tests.support.conducting import conductor_of, node_barriers
from tests.support.roots import EVERYTHING
from tests.support.snapshots import SnapshotTaker
from tests.unit.change_capture.capturing import Model

SEED = 20261122
NODE = "fuzzed"
#: Every application that listens: each has an OpenAPI document in `docs/reference`.
SERVICES = ("restore", "coordinator", "nodes", "catalog", "agent")
#: Of each service: the errors of a dependency that is not there in these tests.
ABSENT = {name: {"unavailable"} for name in ("coordinator", "catalog", "nodes")}


@dataclasses.dataclass(frozen=True)
class Site:
    make: Callable[[str], FastAPI]
    known: dict[str, list[str]]
    #: Of the node that `known` names.
    node_token: str
    #: For new nodes.
    invitation: str

    def token(self, name: str, path: str) -> str:
        """What is let in at a path of a service."""
        if name != "nodes":
            return "t"
        return self.invitation if path.endswith("/enrolments") else self.node_token


@pytest.fixture
def rest(database: str, tmp_path: Path) -> Iterator[Site]:
    migrate(database)
    create_logins(database)
    with closing(CatalogSite(database)) as site, ThreadPoolExecutor(4) as threads:
        store, kek = MemoryStore(), KeyEncryptionKey.generate()
        taker, vault = SnapshotTaker(site, store, kek), KeyVault(store, kek)
        taker.protect(TENANT, "disk", "disk")
        content = random.Random(SEED).randbytes(300_000)
        session = taker.take(TENANT, "disk", {"disk": content}).session
        admin = {"sha256": digest_of("t"), "tenant": "*", "role": "admin", "restore": True}
        tokens = Tokens(json.dumps([admin]))
        frames = FrameReader(Stores(store), vault)
        readers = VolumeReaders(site.restore, vault, frames, frames, 60)
        node_key = NodeKey("k" * 64)
        agents = Agents(node_key, AgentNetworks().admit)
        conductor = conductor_of(site.coordinator, vault, agents, InlineExecutor())
        captures = AgentCaptures(
            uuid.uuid4(),
            "node",
            drivers(tmp_path, EVERYTHING),
            node_barriers(tmp_path),
            Window(4),
            Model(Window(4), {}),
            1,
            60,
        )
        about = NodeAbout(name="node", boot=captures.boot, span_address="", roots=[])
        registration = Registration(site.coordinator, agents, node_key, AgentNetworks())
        add = {
            "restore": lambda app: restore_routes.add_routes(
                app,
                _settings(database),
                readers,
                Stores(store),
                {PRIMARY: _presigner()},
                kek,
                threads,
                Feed(site.restore, kek),
            ),
            "coordinator": lambda app: coordinator_routes.add_routes(
                app, site.coordinator, vault, agents, conductor, node_key
            ),
            "catalog": lambda app: _add_catalog_routes(app, site, store, vault, kek),
            "nodes": lambda app: node_routes.add_routes(app, registration, conductor),
            "agent": lambda app: agent_routes.add_routes(app, captures, about, EVERYTHING),
        }

        def make(name: str) -> FastAPI:
            health = Health()
            health.started()
            accepted = NodeTokens(node_key) if name == "nodes" else tokens
            app = create_app(name, ServiceSettings(), health, new_registry(), accepted)
            add[name](app)
            return app

        yield _site(make, _known(session, tmp_path), node_key, site)
        captures.stop_all()


def _site(
    make: Callable[[str], FastAPI], known: dict[str, list[str]], key: NodeKey, site: CatalogSite
) -> Site:
    invited = invite(site.coordinator, None, 1_000_000, 86_400)
    node = key.credential(NODE, uuid.uuid4())
    return Site(make, known, node.announce_token, key.invitation(invited.invitation))


def _known(session: uuid.UUID, folder: Path) -> dict[str, list[str]]:
    """Values that lead somewhere, by the name of the parameter."""
    return {
        "tenant": [TENANT],
        "node": [NODE],
        "name": ["disk"],
        "volume": ["disk"],
        "group": ["disk"],
        "point": ["latest", "1", "-0s", "0001-01-01T00:00:00+14:00"],
        "session": [str(session)],
        "restore": [str(uuid.uuid4())],
        "path": ["/nonexistent", "/", str(folder)],
        "wait_seconds": ["0"],
        "chunk_id": ["0" * 64],
    }


def _add_catalog_routes(
    app: FastAPI, site: CatalogSite, store: MemoryStore, vault: KeyVault, kek: KeyEncryptionKey
) -> None:
    catalog, stores = site.catalog, Stores(store)
    checkpoints = Checkpoints(catalog, store, CheckpointShelf(store, kek), 50)
    collector = Collector(catalog, stores, vault, 60, checkpoints.witness)
    verifier = Verifier(catalog, stores, vault, 60, 0, Stop())
    upkeep = Upkeep(
        Sweeper(catalog, store, SweepPolicy(3600, 60)),
        Rewriter(catalog, stores, vault, RewritePolicy(0.5, 60, 60, 60)),
    )
    catalog_routes.add_routes(
        app,
        catalog,
        stores,
        vault,
        Collection(collector.stages()),
        upkeep,
        verifier,
        VerifyJobs(verifier, 1),
        _tools(site, catalog, stores, vault, kek, checkpoints),
        checkpoints.witness,
        _key_tools(catalog, stores, kek, checkpoints),
    )


def _key_tools(
    catalog: Catalog, stores: Stores, kek: KeyEncryptionKey, checkpoints: Checkpoints
) -> KeyTools:
    return KeyTools(
        KekRotation(
            stores,
            kek,
            functools.partial(keys_to_wrap, catalog, stores),
            checkpoints.write,
            lambda _store_no: None,
        ),
        DataKeys(catalog, stores, kek, checkpoints.witness),
    )


def _tools(
    site: CatalogSite,
    catalog: Catalog,
    stores: Stores,
    vault: KeyVault,
    kek: KeyEncryptionKey,
    checkpoints: Checkpoints,
) -> RecoveryTools:
    reconciler = Reconciler(catalog, stores, vault, checkpoints, 0, 0, Stop())
    return RecoveryTools(
        loop=RecoveryLoop(catalog, checkpoints, reconciler),
        checkpoints=checkpoints,
        mirror=Mirror(catalog, stores, kek, 50),
        checking=CatalogCheck(catalog, site.dsn_of("catalog"), stores, vault, checkpoints),
        kafka=KafkaSettings(bootstrap="127.0.0.1:9"),
    )


def _settings(dsn: str) -> RestoreSettings:
    return RestoreSettings(
        postgres=PostgresSettings(dsn=Secret(dsn)),
        s3=S3Settings(
            endpoint="http://store:1", bucket="b", access_key=Secret("a"), secret_key=Secret("s")
        ),
        kek=Secret("k"),
        tokens=Secret("t"),
        coordinator_url="http://coordinator:1",
        catalog_url="http://catalog:1",
    )


def _presigner() -> S3Store:
    return S3Store(
        S3Bucket(endpoint="http://store:1", bucket="bucket", access_key="a", secret_key="s")
    )
