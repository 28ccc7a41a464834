"""One pass of collection and one of the sweep, as the catalog service does them, in a process.

`python -m bench.collection_subject DSN FOLDER RESULT`, with the key-encryption key on standard
input; writes JSON to RESULT.
"""

import json
import resource
import sys
import time
from pathlib import Path

from libs.catalogdb.pool import Catalog
from libs.copies.stores import Stores
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.store.folder import FolderStore
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.passes import Collection, Freed
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy

_DEADLINE_SECONDS = 60.0


def main(dsn: str, folder: str, result: str) -> None:
    """Collect, sweep, tell."""
    catalog, store = Catalog(dsn), FolderStore(Path(folder))
    vault = KeyVault(store, KeyEncryptionKey.parse(sys.stdin.read()))
    catalog.open()
    try:
        # Without the checkpoints that the service writes before it deletes.
        collector = Collector(
            catalog, Stores(store), vault, _DEADLINE_SECONDS, witness=lambda: None
        )
        start, freed = time.perf_counter(), Freed()
        for step in Collection(collector.stages()).steps():
            freed += step.freed
        collected_seconds = time.perf_counter() - start
        rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        start = time.perf_counter()
        swept = Sweeper(catalog, store, SweepPolicy(3600, _DEADLINE_SECONDS)).run()
        told = {
            "collected_packs": freed.packs_deleted,
            "collected_seconds": collected_seconds,
            "collector_rss_bytes": rss_bytes,
            "swept_objects": swept.objects,
            "swept_seconds": time.perf_counter() - start,
        }
    finally:
        catalog.close()
    Path(result).write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
