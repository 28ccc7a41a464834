"""`python -m services.chunker`: one chunker; run as many as there are partitions to share."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `run_service`: what is imported stays

import asyncio
import contextlib
import functools
import sys
from concurrent.futures import ThreadPoolExecutor

from libs.catalogdb.packs.copies import mark_copy_damaged
from libs.catalogdb.pool import PATIENCE_SECONDS, Catalog, ask_postgres
from libs.copies.opening import open_stores
from libs.ids import uuid7
from libs.kafka.answering import ask_kafka
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.rest.server import create_app, serving
from libs.runtime.health import Health, LoopHealth
from libs.runtime.loops import Loop, start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.runtime.threads import start_thread
from libs.store.opening import bucket_probe
from services.chunker.announcing import Announcer
from services.chunker.intake import Intake
from services.chunker.lanes import Lanes
from services.chunker.packer import Packer
from services.chunker.parts.attempts import Attempts
from services.chunker.parts.dialling import Dialler
from services.chunker.parts.nodes import KnownNodes
from services.chunker.parts.positions import Positions
from services.chunker.parts.renewing import Renewal
from services.chunker.sealer import Sealer
from services.chunker.settings import Settings
from services.chunker.surroundings import Surroundings


def main(settings: Settings, stop: Stop) -> None:
    """Wire the chunker and run it until it is asked to stop."""
    health, registry = Health(stop), new_registry()
    app = create_app("Backcast chunker", settings, health, registry)
    catalog = Catalog(
        settings.postgres.dsn.reveal(),
        settings.postgres.pool_size_max,
        "chunker",
        patience_seconds=PATIENCE_SECONDS,
    )
    catalog.open()
    health.depend_on("postgres", lambda: ask_postgres(catalog))
    health.depend_on("kafka", lambda: ask_kafka(settings.kafka))
    health.depend_on("store primary", bucket_probe(settings.s3))
    with contextlib.closing(catalog), serving(app, settings):
        stores = open_stores(
            settings.s3, settings.second_s3, functools.partial(mark_copy_damaged, catalog)
        )
        kek = KeyEncryptionKey.of(settings.kek, settings.previous_kek)
        vault = KeyVault(stores.objects, kek)
        vault.check()
        packer = Packer(catalog, stores, settings.pack_buffer_count_max)
        start_thread("preallocate", packer.preallocate, daemon=True)
        lanes = Lanes(ThreadPoolExecutor(settings.lane_count, "lane"), settings.lane_count)
        around = Surroundings(
            catalog=catalog,
            vault=vault,
            packer=packer,
            nodes=KnownNodes(catalog, FrameReader(stores, vault)),
            known_chunk_sample=settings.known_chunk_sample,
            share=lanes.submit_if_idle,
            dial=Dialler(settings),
        )
        positions, sealer = Positions(), Sealer(catalog, stores.objects, vault)
        attempts = Attempts(around, sealer, lanes, positions, settings.span_queue_length_max)
        renewal = Renewal(catalog, attempts, positions, settings.session_deadline_seconds)
        intake = Intake(catalog, attempts, positions, settings.name, registry)
        reading = health.loop("intake", settings.session_deadline_seconds)
        renewing = Loop(
            "renew",
            lambda _stop, _progressed: renewal.look_after(),
            settings.renew_interval_seconds,
            patience_seconds=settings.session_deadline_seconds,
        )
        announcer = Announcer(catalog, uuid7(), settings.name, health, intake.partition_count)
        threads = start_loops([renewing, announcer.loop()], health, stop)
        try:
            asyncio.run(_reading(intake, settings, stop, reading))
        finally:
            stop.request()
            attempts.close()
            for thread in threads:
                thread.join()
            announcer.leave()


async def _reading(intake: Intake, settings: Settings, stop: Stop, health: LoopHealth) -> None:
    """Read until asked to stop; what nobody foresaw ends the process, and its successor is fresh.

    It is told from in here, because leaving the event loop waits for threads that it has begun.
    """
    try:
        await intake.run(settings.kafka, stop, health)
    except Exception as err:  # noqa: BLE001 -- whatever it is, it is logged and ends the process
        stop.fail("intake", err)


if __name__ == "__main__":
    sys.exit(run_service("chunker", Settings, main))
