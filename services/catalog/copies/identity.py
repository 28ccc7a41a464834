"""Which bucket a store is: an object in it says so, and the catalog remembers it.

Two settings that name the same bucket, or a bucket that was put in the place of another one, would
make copies that protect from nothing, and deletions that hit what is needed.

Order: object → row. A crash between leaves an object that the next start finds.
"""

import logging
from uuid import UUID, uuid4

from libs.catalogdb.pool import Catalog
from libs.catalogdb.stores import add_store, identify_store, read_stores
from libs.copies.stores import PRIMARY, STORE_NAMES, Stores
from libs.errors import ConfigurationError, UnavailableError
from libs.store.layout import STORES_PREFIX, parse_store_object, store_object
from libs.store.port import ObjectStore

log = logging.getLogger(__name__)


def identify_stores(catalog: Catalog, stores: Stores) -> None:
    """Compare the buckets with what the catalog knows of them; add those that are new to it.

    A store that does not answer is identified at the next start.

    Raises:
        ConfigurationError: a bucket is another store than the catalog knows under its number.
    """
    known = {state.store_no: state for state in read_stores(catalog)}
    for store_no, store in sorted(stores.by_number.items()):
        name = STORE_NAMES[store_no]
        try:
            found = store_id_of(store)
        except UnavailableError as err:
            log.warning("store not identified", extra={"store": name, "detail": str(err)})
            continue
        state = known.get(store_no)
        expected = state.store_id if state else None
        if expected is None:
            store_id = found or name_bucket(store, uuid4())
            _refuse_twice(name, store_id, {one.store_id for one in known.values()})
            if store_no == PRIMARY:
                identify_store(catalog, store_no, store_id)
            else:
                add_store(catalog, store_no, name, store_id)
        elif found is None:
            log.error(
                "bucket does not say which store it is; was it emptied? "
                "`backcast store repair` fills it again",
                extra={"store": name, "expected": str(expected)},
            )
        elif found != expected:
            raise ConfigurationError(
                f"store {name}: expected the bucket of store {expected}, got that of {found}; "
                f"configure the right bucket, or empty this one and run: backcast store repair"
            )


def store_id_of(store: ObjectStore) -> UUID | None:
    """What a bucket says it is; None: nothing.

    Raises:
        ConfigurationError: it says that it is several.
    """
    found = [parse_store_object(stat.key) for stat in store.list(STORES_PREFIX)]
    if len(found) > 1:
        raise ConfigurationError(
            f"bucket: expected one object below {STORES_PREFIX}, got {len(found)}; was a bucket "
            f"copied into another? delete the one that is not its own"
        )
    return found[0] if found else None


def name_bucket(store: ObjectStore, store_id: UUID) -> UUID:
    """Make a bucket say which store it is."""
    store.put(store_object(store_id), str(store_id).encode())
    return store_id


def _refuse_twice(name: str, store_id: UUID, known: set[UUID | None]) -> None:
    if store_id in known:
        raise ConfigurationError(
            f"store {name}: its bucket is store {store_id}, which is configured already; a copy in "
            f"the same bucket protects from nothing"
        )
