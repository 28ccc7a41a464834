"""`python -m services.catalog`: the loops of the catalog. `services.catalog.init` sets it up."""

import asyncio
import contextlib
import sys
import threading

from libs.catalogdb.inventory import list_nodes
from libs.catalogdb.pool import Catalog
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.runtime.auth import Tokens
from libs.runtime.health import Health
from libs.runtime.http import create_app, serving
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from libs.store.opening import open_store
from services.catalog.housekeeping import keep_house
from services.catalog.relay import Relay
from services.catalog.routes import add_routes
from services.catalog.settings import Settings


def main(settings: Settings, stop: Stop) -> None:
    """Wire the loops and run them until asked to stop."""
    health, registry = Health(), new_registry()
    catalog = Catalog(settings.postgres.dsn.reveal(), settings.postgres.pool_size_max, "catalog")
    catalog.open()
    with contextlib.closing(catalog):
        store = open_store(settings.s3)
        vault = KeyVault(store, KeyEncryptionKey.parse(settings.kek.reveal()))
        vault.check()
        tokens = Tokens(settings.tokens.reveal())
        app = create_app("Backcast catalog", settings, health, registry, tokens)
        add_routes(app, catalog, store, vault)
        health.depend_on("catalog", lambda: list_nodes(catalog))
        house = health.loop("housekeeping", 12 * settings.housekeeping_interval_seconds)
        relaying = health.loop("relay", 60 + settings.relay_interval_seconds)
        housekeeper = threading.Thread(
            target=keep_house,
            args=(catalog, stop, settings.housekeeping_interval_seconds, house.progressed),
            name="housekeeping",
        )
        with serving(app, settings):
            housekeeper.start()
            health.started()
            relay = Relay(
                catalog,
                settings.kafka,
                settings.relay_batch_count_max,
                settings.relay_interval_seconds,
            )
            asyncio.run(relay.run(stop, relaying.progressed))
            housekeeper.join()


if __name__ == "__main__":
    sys.exit(run_service("catalog", Settings, main))
