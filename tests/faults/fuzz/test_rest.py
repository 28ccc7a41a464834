"""Hostile requests to every endpoint of every service: answered, never with an unexpected error."""

import asyncio
import dataclasses
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from fastapi import FastAPI

from libs.catalogdb.migrate import migrate
from libs.copies.stores import PRIMARY, Stores
from libs.keys.kek import KeyEncryptionKey
from libs.keys.nodes import NodeKey
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Tokens, digest_of
from libs.rest.server import create_app
from libs.runtime.groups import PostgresSettings, S3Settings, ServiceSettings
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.settings import Secret
from libs.runtime.signals import Stop
from libs.store.memory import MemoryStore
from libs.store.s3 import S3Bucket, S3Store
from services.catalog.deletion.collection_endpoints import add_collection_routes
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.expiry_endpoints import add_snapshot_routes
from services.catalog.deletion.passes import Collection
from services.catalog.deletion.rewriter import RewritePolicy, Rewriter
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from services.catalog.deletion.upkeep import Upkeep
from services.catalog.deletion.upkeep_endpoints import add_upkeep_routes
from services.catalog.verification.endpoints import add_verify_routes
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
from tests.faults.conftest import Scale
from tests.faults.crash_points.inline import InlineExecutor
from tests.faults.fuzz.rest import Answer, Request, Requests, send
from tests.support.catalog import TENANT, CatalogSite, create_logins
from tests.support.conducting import conductor_of, node_barriers
from tests.support.roots import EVERYTHING
from tests.support.snapshots import SnapshotTaker
from tests.unit.change_capture.capturing import Model

SEED = 20261122
SECONDS_MAX = 20
NODE = "fuzzed"
#: Of each service: the errors of a dependency that is not there in these tests.
_ABSENT = {"coordinator": {"unavailable"}, "nodes": {"unavailable"}}
#: Also by the framework, before anybody asks who it is: redirects, bodies that are no JSON.
_REFUSED = {307, 400, 401, 404, 405, 413, 422}


@dataclasses.dataclass(frozen=True)
class Site:
    make: Callable[[str], FastAPI]
    known: dict[str, list[str]]
    #: Of the node that `known` names.
    node_token: str


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
        tokens = Tokens(
            json.dumps(
                [{"sha256": digest_of("t"), "tenant": "*", "role": "admin", "restore": True}]
            )
        )
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
        add = {
            "restore": lambda app: restore_routes.add_routes(
                app,
                _settings(database),
                readers,
                Stores(store),
                {PRIMARY: _presigner()},
                kek,
                threads,
                Feed(site.restore),
            ),
            "coordinator": lambda app: coordinator_routes.add_routes(
                app, site.coordinator, vault, agents, conductor, node_key
            ),
            "catalog": lambda app: _add_catalog_routes(app, site, store, vault),
            "nodes": lambda app: node_routes.add_routes(app, registration, conductor),
            "agent": lambda app: agent_routes.add_routes(app, captures, about),
        }

        registration = Registration(site.coordinator, agents, node_key, AgentNetworks())

        def make(name: str) -> FastAPI:
            accepted = NodeTokens(node_key) if name == "nodes" else tokens
            app = create_app(name, ServiceSettings(), Health(), new_registry(), accepted)
            add[name](app)
            return app

        node = node_key.credential(NODE, uuid.uuid4())
        yield Site(make, _known(session, tmp_path), node.announce_token)
        captures.stop_all()


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
    app: FastAPI, site: CatalogSite, store: MemoryStore, vault: KeyVault
) -> None:
    collector = Collector(site.catalog, Stores(store), vault, 60, lambda: None)
    verifier = Verifier(site.catalog, Stores(store), vault, 60, 0, Stop())
    add_collection_routes(app, site.catalog, Collection(collector.stages()))
    add_upkeep_routes(
        app,
        Upkeep(
            Sweeper(site.catalog, store, SweepPolicy(3600, 60)),
            Rewriter(site.catalog, Stores(store), vault, RewritePolicy(0.5, 60, 60, 60)),
        ),
    )
    add_snapshot_routes(app, site.catalog, lambda: None)
    add_verify_routes(app, verifier, VerifyJobs(verifier, 1))


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


def check(name: str, request: Request, answer: Answer, authorized: bool) -> None:
    shown = f"{name}: {request!r:.1500} → {answer.status} {answer.body[:500]!r}"
    if answer.status >= 500:
        assert json.loads(answer.body)["code"] in _ABSENT.get(name, ()), shown
    if not authorized:
        assert answer.status in _REFUSED, shown
    if answer.status >= 400 and request.method != "HEAD":
        problem = json.loads(answer.body)
        assert problem["status"] == answer.status, shown


@pytest.mark.parametrize("name", ["restore", "coordinator", "catalog", "agent", "nodes"])
def test_hostile_requests_are_answered(
    rest: Site, name: str, scale: Scale, tally: Callable[..., None]
) -> None:
    count = scale.pick(250, 2_500, 200_000)
    app, statuses = rest.make(name), Counter[int]()
    token = rest.node_token if name == "nodes" else "t"
    requests = Requests(app, rest.known, SEED)

    async def attack() -> None:
        for number in range(count):
            authorized = number % 5 != 0 or number % 7 == 0
            request = requests.make(number, token if authorized else None)
            answer = await send(app, request, SECONDS_MAX)
            check(name, request, answer, authorized)
            statuses[answer.status] += 1

    asyncio.run(attack())
    assert sum(statuses.values()) == count
    assert len(statuses) >= 3, statuses  # some were understood
    tally(f"fuzzing of the {name} service", requests=count, unexpected_errors=0)
