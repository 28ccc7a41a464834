"""A catalog that counts what it is asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from libs.catalogdb.pool import Catalog, Tx


class CountingCatalog(Catalog):
    """Counts transactions, over the connections of another pool."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.patience_seconds = catalog.patience_seconds
        self._lock = threading.Lock()
        self.count = 0

    def _note(self) -> None:
        with self._lock:
            self.count += 1

    @contextmanager
    def transaction(self) -> Iterator[Tx]:
        self._note()
        with self._catalog.transaction() as tx:
            yield tx

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        self._note()
        with self._catalog.reading() as tx:
            yield tx

    @contextmanager
    def listen(self, channel: str) -> Iterator[Tx]:
        with self._catalog.listen(channel) as connection:
            yield connection
