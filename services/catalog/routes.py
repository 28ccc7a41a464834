"""The catalog service's REST endpoints, put together."""

from collections.abc import Callable

from fastapi import FastAPI

from libs.catalogdb.pool import Catalog
from libs.keys.vault import KeyVault
from libs.store.port import ObjectStore
from services.catalog.collection import Collection
from services.catalog.explaining import Explainer
from services.catalog.routes_catalog import Keeping, add_catalog_routes
from services.catalog.routes_collection import add_collection_routes
from services.catalog.routes_explaining import add_explaining_routes
from services.catalog.routes_snapshots import add_snapshot_routes
from services.catalog.routes_upkeep import add_upkeep_routes
from services.catalog.routes_verify import add_verify_routes
from services.catalog.upkeep import Upkeep
from services.catalog.verify import Verifier
from services.catalog.verify_jobs import VerifyJobs


def add_routes(  # noqa: PLR0913 -- what the endpoints work with, wired in __main__
    app: FastAPI,
    catalog: Catalog,
    store: ObjectStore,
    vault: KeyVault,
    collection: Collection,
    upkeep: Upkeep,
    verifier: Verifier,
    jobs: VerifyJobs,
    keeping: Keeping,
    witness: Callable[[], None],
) -> None:
    """Add the endpoints to the application.

    Args:
        app: the application.
        catalog: the catalog, in the catalog service's role.
        store: the object store, with the right to delete.
        vault: the domains' keys.
        collection: what a pass of collection does.
        upkeep: sweeps and rewrites.
        verifier: verifies snapshots.
        jobs: verifications that were asked for.
        keeping: what keeps the catalog and the store of one mind.
        witness: returns when the store knows what was decided.
    """
    add_collection_routes(app, catalog, collection)
    add_upkeep_routes(app, upkeep)
    add_explaining_routes(app, catalog, Explainer(catalog, store, vault))
    add_snapshot_routes(app, catalog, witness)
    add_verify_routes(app, verifier, jobs)
    add_catalog_routes(app, keeping)
