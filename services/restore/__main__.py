"""`python -m services.restore`: gives recovery points back; run as many as there is load."""

import contextlib
import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor

from libs.catalogdb.pool import Catalog
from libs.catalogdb.protected import find_tenant
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Tokens
from libs.rest.server import create_app, serving
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.store.opening import bucket_of, open_store
from libs.store.s3 import S3Store
from services.restore.metrics import FetchMetrics
from services.restore.routes import add_routes
from services.restore.settings import Settings


def main(settings: Settings, stop: Stop) -> None:
    """Wire the restore service and run it until it is asked to stop."""
    health, registry = Health(stop), new_registry()
    catalog = Catalog(settings.postgres.dsn.reveal(), settings.postgres.pool_size_max, "restore")
    catalog.open()
    with (
        contextlib.closing(catalog),
        ThreadPoolExecutor(settings.read_thread_count, "read") as threads,
    ):
        store, kek = open_store(settings.s3), KeyEncryptionKey.parse(settings.kek.reveal())
        vault = KeyVault(store, kek)
        vault.check()
        nodes = FrameReader(store, vault, settings.node_frame_count_max)
        chunks = FrameReader(store, vault, settings.chunk_frame_count_max)
        readers = VolumeReaders(catalog, vault, nodes, chunks, settings.reader_deadline_seconds)
        registry.register(FetchMetrics(node=nodes.fetched, chunk=chunks.fetched))
        tokens = Tokens(settings.tokens.reveal())
        app = create_app("Backcast restore", settings, health, registry, tokens)
        add_routes(app, settings, readers, store, _client_store(settings), kek, threads)
        health.depend_on("catalog", lambda: find_tenant(catalog, ""))
        with serving(app, settings):
            health.started()
            stop.wait()


def _client_store(settings: Settings) -> S3Store:
    """The bucket as clients reach it; it only signs."""
    bucket = bucket_of(settings.s3)
    endpoint = settings.client_s3_endpoint or bucket.endpoint
    return S3Store(dataclasses.replace(bucket, endpoint=endpoint))


if __name__ == "__main__":
    sys.exit(run_service("restore", Settings, main))
