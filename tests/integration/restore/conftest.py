"""A running restore service with snapshots to restore: what the tests of this folder share."""

import contextlib
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import urllib3

from deploy.local.cluster import LocalCluster
from libs.catalogdb.migrate import migrate
from libs.keys.kek import KeyEncryptionKey
from libs.packs.layout import CHUNK_SIZE_BYTES
from libs.rest.auth import digest_of
from libs.rest.client import RestClient
from libs.runtime.groups import PostgresSettings, S3Settings
from libs.runtime.settings import Secret
from libs.runtime.signals import Stop
from libs.store.buckets import make_bucket
from libs.store.s3 import S3Store
from services.chunker.lanes import Lanes
from services.restore.__main__ import main
from services.restore.settings import Settings
from tests.support.buckets import bucket_at
from tests.support.catalog import CatalogSite, create_logins
from tests.support.snapshots import SnapshotTaker

TENANT = "acme"
COORDINATOR_URL = "http://coordinator.example:1"
CATALOG_URL = "http://catalog.example:1"
#: token → (tenant, role, restore)
TOKENS = {
    "restorer": (TENANT, "reader", True),
    "restorer-too": (TENANT, "reader", True),
    "reader": (TENANT, "reader", False),
    "stranger": ("other", "admin", True),
    "everyone": ("*", "reader", True),
}
SECONDS_MAX = 20
SEED = 20261122


@dataclass(frozen=True)
class RestoreSite:
    """Where the service runs, and what it can give back."""

    url: str
    settings: Settings
    catalog: CatalogSite
    store: S3Store
    kek: KeyEncryptionKey
    taker: SnapshotTaker
    #: Content of volume `disk` at its snapshots 1, 2, 3.
    disk: tuple[bytes, bytes, bytes]

    def client(self, token: str = "restorer", url: str | None = None) -> RestClient:
        return RestClient(url or self.url, token)

    def get(self, path: str, token: str = "restorer", **query: Any) -> Any:
        return self.client(token).get(f"/v1/tenants/{TENANT}{path}", query)

    def download(
        self,
        path: str,
        headers: dict[str, str] | None = None,
        method: str = "GET",
        url: str | None = None,
        token: str = "restorer",
        tenant: str = TENANT,
    ) -> urllib3.BaseHTTPResponse:
        return urllib3.request(
            method,
            f"{url or self.url}/v1/tenants/{tenant}{path}",
            headers={"Authorization": f"Bearer {token}"} | (headers or {}),
            retries=False,
        )


@pytest.fixture(scope="module")
def site(servers: LocalCluster) -> Iterator[RestoreSite]:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(servers.postgres.dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        dsn = servers.postgres.dsn.rpartition("/")[0] + f"/{name}"
        migrate(dsn)
        create_logins(dsn)
        catalog = CatalogSite(dsn)
        with contextlib.closing(catalog):
            yield from _site(servers, catalog)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _site(servers: LocalCluster, catalog: CatalogSite) -> Iterator[RestoreSite]:
    bucket = bucket_at(servers.s3, f"test-{uuid.uuid4().hex}")
    make_bucket(bucket)
    store, kek = S3Store(bucket), KeyEncryptionKey.generate()
    lanes = Lanes(ThreadPoolExecutor(2), 2)
    taker = SnapshotTaker(catalog, store, kek, lanes.submit_if_idle)
    disk = contents_of_disk()
    taker.protect(TENANT, "disk", "disk")
    for content in disk:
        taker.take(TENANT, "disk", {"disk": content})
    settings = Settings(
        listen=f"127.0.0.1:{_free_port()}",
        postgres=PostgresSettings(dsn=Secret(catalog.dsn_of("restore"))),
        s3=S3Settings(
            endpoint=bucket.endpoint,
            bucket=bucket.bucket,
            access_key=Secret(bucket.access_key),
            secret_key=Secret(bucket.secret_key),
        ),
        kek=Secret(kek.text()),
        tokens=Secret(_token_file()),
        coordinator_url=COORDINATOR_URL,
        catalog_url=CATALOG_URL,
    )
    with serving(settings) as url:
        yield RestoreSite(url, settings, catalog, store, kek, taker, disk)
    lanes.close()


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The service as its `__main__` wires it, in a thread."""
    stop = Stop()
    failures: list[Exception] = []

    def run() -> None:
        try:
            main(settings, stop)
        except Exception as err:  # noqa: BLE001 -- told by whoever waits for it
            failures.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    url = f"http://{settings.listen}"
    try:
        deadline = time.monotonic() + SECONDS_MAX
        while not _is_ready(url):
            assert not failures, failures
            assert time.monotonic() < deadline, "the service did not become ready"
        yield url
    finally:
        stop.request()
        thread.join()


def contents_of_disk() -> tuple[bytes, bytes, bytes]:
    """Three states of a disk of three map leaves whose size is no multiple of a chunk.

    The second changes, zeroes and adds chunks; the third is half as long.
    """
    random_bytes = random.Random(SEED).randbytes
    first = bytearray(80 * 1024 * 1024 + 12_345)

    def put(content: bytearray, index: int, data: bytes) -> None:
        content[index * CHUNK_SIZE_BYTES : index * CHUNK_SIZE_BYTES + len(data)] = data

    put(first, 0, random_bytes(40 * CHUNK_SIZE_BYTES))
    put(first, 600, b"text that can be compressed " * 200_000)
    for copy in (900, 901, 1200):  # the same chunk again
        put(first, copy, bytes(first[5 * CHUNK_SIZE_BYTES : 6 * CHUNK_SIZE_BYTES]))
    first[-5:] = b"tail!"
    second = bytearray(first)
    put(second, 3, random_bytes(CHUNK_SIZE_BYTES + 10))
    put(second, 605, bytes(2 * CHUNK_SIZE_BYTES))
    put(second, 1000, random_bytes(100))
    third = second[: 40 * 1024 * 1024]
    return bytes(first), bytes(second), bytes(third)


def _is_ready(url: str) -> bool:
    try:
        return urllib3.request("GET", f"{url}/readyz", retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def free_address() -> str:
    """An address for another service."""
    return f"127.0.0.1:{_free_port()}"


def _token_file() -> str:
    entries = ",".join(
        f'{{"sha256":"{digest_of(token)}","tenant":"{tenant}","role":"{role}",'
        f'"restore":{str(restore).lower()}}}'
        for token, (tenant, role, restore) in TOKENS.items()
    )
    return f"[{entries}]"
