"""`python -m services.restore`: gives recovery points back; run as many as there is load."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `run_service`: what is imported stays

import contextlib
import dataclasses
import functools
import sys
from concurrent.futures import ThreadPoolExecutor

from libs.access.catalog_access import CatalogAccess
from libs.catalogdb.access.groups import group_of_parameter
from libs.catalogdb.listening import Listener
from libs.catalogdb.log.log import LOG_CHANNEL
from libs.catalogdb.packs.copies import mark_copy_damaged
from libs.catalogdb.pool import Catalog, ask_postgres
from libs.copies.opening import open_stores, store_probes
from libs.copies.stores import PRIMARY, SECOND
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReaders
from libs.rest.server import serving
from libs.runtime.health import Health
from libs.runtime.loops import start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.store.opening import bucket_of
from libs.store.s3 import S3Store
from services.restore.events.feed import Feed
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
        report = functools.partial(mark_copy_damaged, catalog)
        stores = open_stores(settings.s3, settings.second_s3, report)
        kek = KeyEncryptionKey.of(settings.kek, settings.previous_kek)
        vault = KeyVault(stores.objects, kek)
        vault.check()
        nodes = FrameReader(stores, vault, settings.node_frame_count_max)
        chunks = FrameReader(stores, vault, settings.chunk_frame_count_max)
        readers = VolumeReaders(catalog, vault, nodes, chunks, settings.lease_deadline_seconds)
        registry.register(FetchMetrics(node=nodes.fetched, chunk=chunks.fetched))
        access = CatalogAccess(catalog, "restore", settings, registry, group_of_parameter)
        app = access.create_app(settings, health)
        presigners = _client_stores(settings)
        feed = Feed(catalog, kek)
        stop.call(feed.close)
        add_routes(app, settings, readers, stores, presigners, kek, threads, feed)
        health.depend_on("postgres", lambda: ask_postgres(catalog))
        for name, probe in store_probes(settings.s3, settings.second_s3).items():
            health.depend_on(name, probe, is_needed=False)  # lists are given without them
        listener = Listener(catalog, LOG_CHANNEL, lambda _: feed.wake(), feed.wake)
        with contextlib.closing(access), serving(app, settings):
            loops = start_loops([listener.loop(), *access.loops()], health, stop)
            health.started()
            stop.wait()
        for loop in loops:
            loop.join()


def _client_stores(settings: Settings) -> dict[int, S3Store]:
    """The buckets as clients reach them; they only sign."""
    stores = {}
    for store_no, store, endpoint in (
        (PRIMARY, settings.s3, settings.client_s3_endpoint),
        (SECOND, settings.second_s3.store, settings.client_second_s3_endpoint),
    ):
        if store is not None:
            bucket = bucket_of(store)
            stores[store_no] = S3Store(
                dataclasses.replace(bucket, endpoint=endpoint or bucket.endpoint)
            )
    return stores


if __name__ == "__main__":
    sys.exit(run_service("restore", Settings, main))
