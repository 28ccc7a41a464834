"""The catalog service's REST endpoints, put together."""

from collections.abc import Callable

from fastapi import FastAPI

from libs.access.readiness import add_readiness_route
from libs.catalogdb.pool import Catalog
from libs.copies.stores import Stores
from libs.keys.vault import KeyVault
from services.catalog.access.audit_endpoints import add_audit_routes
from services.catalog.access.token_endpoints import add_token_routes
from services.catalog.copies.endpoints import add_store_routes
from services.catalog.deletion.collection_endpoints import add_collection_routes
from services.catalog.deletion.expiry_endpoints import add_snapshot_routes
from services.catalog.deletion.passes import Collection
from services.catalog.deletion.upkeep import Upkeep
from services.catalog.deletion.upkeep_endpoints import add_upkeep_routes
from services.catalog.explanation.endpoints import add_explaining_routes
from services.catalog.explanation.explainer import Explainer
from services.catalog.keys.endpoints import KeyTools, add_key_routes
from services.catalog.recovery.endpoints import RecoveryTools, add_catalog_routes
from services.catalog.status.endpoints import add_status_routes
from services.catalog.verification.endpoints import add_verify_routes
from services.catalog.verification.jobs import VerifyJobs
from services.catalog.verification.verifier import Verifier


def add_routes(  # noqa: PLR0913 -- what the endpoints work with, wired in __main__
    app: FastAPI,
    catalog: Catalog,
    stores: Stores,
    vault: KeyVault,
    collection: Collection,
    upkeep: Upkeep,
    verifier: Verifier,
    jobs: VerifyJobs,
    tools: RecoveryTools,
    witness: Callable[[], None],
    keys: KeyTools,
) -> None:
    """Add the endpoints to the application.

    Args:
        app: the application.
        catalog: the catalog, in the catalog service's role.
        stores: the object stores, with the right to delete.
        vault: the domains' keys.
        collection: what a pass of collection does.
        upkeep: sweeps and rewrites.
        verifier: verifies snapshots.
        jobs: verifications that were asked for.
        tools: what keeps the catalog and the store of one mind.
        witness: returns when the store knows what was decided.
        keys: changes keys.
    """
    add_readiness_route(app)
    add_collection_routes(app, catalog, collection)
    add_upkeep_routes(app, upkeep)
    add_explaining_routes(app, catalog, Explainer(catalog, stores, vault))
    add_snapshot_routes(app, catalog, witness)
    add_verify_routes(app, verifier, jobs)
    add_catalog_routes(app, tools)
    add_store_routes(app, catalog, stores, tools)
    add_key_routes(app, keys)
    add_status_routes(app, catalog, tools)
    add_token_routes(app, catalog)
    add_audit_routes(app, catalog)
