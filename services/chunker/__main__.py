"""`python -m services.chunker`: one chunker; run as many as there are partitions to share."""

import asyncio
import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from libs.catalogdb.pool import Catalog
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.reading.frames import FrameReader
from libs.rest.server import create_app, serving
from libs.runtime.health import Health
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.store.opening import open_store
from services.chunker.captures import Captures
from services.chunker.intake import Intake
from services.chunker.lanes import Lanes
from services.chunker.packer import Packer
from services.chunker.sealer import Sealer
from services.chunker.settings import Settings


def main(settings: Settings, stop: Stop) -> None:
    """Wire the chunker and run it until it is asked to stop."""
    health, registry = Health(), new_registry()
    app = create_app("Backcast chunker", settings, health, registry)
    catalog = Catalog(settings.postgres.dsn.reveal(), settings.postgres.pool_size_max, "chunker")
    catalog.open()
    with contextlib.closing(catalog), serving(app, settings):
        store = open_store(settings.s3)
        vault = KeyVault(store, KeyEncryptionKey.parse(settings.kek.reveal()))
        vault.check()
        packer = Packer(catalog, store, settings.pack_buffer_count_max)
        threading.Thread(target=packer.preallocate, name="preallocate", daemon=True).start()
        captures = Captures(
            catalog,
            vault,
            packer,
            FrameReader(store, vault),
            Sealer(catalog, store, vault),
            Lanes(ThreadPoolExecutor(settings.lane_count, "lane"), settings.lane_count),
            settings.span_queue_length_max,
            settings.session_deadline_seconds,
            settings.known_chunk_sample,
        )
        intake = Intake(catalog, captures, settings.name, registry)
        renewing = health.loop("renew", settings.session_deadline_seconds)
        reading = health.loop("intake", settings.session_deadline_seconds)
        renewer = threading.Thread(
            target=captures.look_after,
            args=(stop, settings.renew_interval_seconds, renewing.progressed),
            name="renew",
        )
        renewer.start()
        health.started()
        try:
            asyncio.run(intake.run(settings.kafka, stop, reading))
        finally:
            stop.request()
            captures.close()
            renewer.join()


if __name__ == "__main__":
    sys.exit(run_service("chunker", Settings, main))
