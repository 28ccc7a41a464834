"""The catalog service's REST endpoints, put together."""

from fastapi import FastAPI

from libs.catalogdb.pool import Catalog
from libs.keys.vault import KeyVault
from libs.store.port import ObjectStore
from services.catalog.collection import Collection
from services.catalog.routes_collection import add_collection_routes
from services.catalog.routes_snapshots import add_snapshot_routes


def add_routes(
    app: FastAPI,
    catalog: Catalog,
    store: ObjectStore,
    vault: KeyVault,
    collection: Collection,
) -> None:
    """Add the endpoints to the application.

    Args:
        app: the application.
        catalog: the catalog, in the catalog service's role.
        store: the object store, with the right to delete.
        vault: the domains' keys.
        collection: what a pass of collection does.
    """
    add_collection_routes(app, catalog, collection)
    add_snapshot_routes(app, catalog)
