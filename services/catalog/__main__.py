"""`python -m services.catalog`: the loops of the catalog. `services.catalog.init` sets it up."""

import gc

if __name__ == "__main__":
    gc.disable()  # until `run_service`: what is imported stays

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from libs.access.catalog_access import CatalogAccess
from libs.catalogdb.access.groups import group_of_parameter
from libs.catalogdb.listening import Listener
from libs.catalogdb.log.log import LOG_CHANNEL
from libs.catalogdb.packs.copies import mark_copy_damaged
from libs.catalogdb.pool import PATIENCE_SECONDS, Catalog, ask_postgres
from libs.checkpoints.shelf import CheckpointShelf
from libs.copies.opening import open_stores, store_probes
from libs.copies.stores import PRIMARY, Stores
from libs.kafka.answering import ask_kafka
from libs.keys.kek import KeyEncryptionKey
from libs.keys.vault import KeyVault
from libs.rest.server import serving
from libs.rest.waiting import Bells
from libs.runtime.health import Health
from libs.runtime.loops import Loop, start_loops
from libs.runtime.metrics import new_registry
from libs.runtime.service import run_service
from libs.runtime.signals import Stop
from services.catalog.access.audit_endpoints import audit_loop
from services.catalog.copies.identity import identify_stores
from services.catalog.copies.maker import CopyMaker
from services.catalog.copies.mirror import Mirror
from services.catalog.copies.replicator import ReplicationMetrics, Replicator
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.loop import Chore, CollectionLoop, CollectionMetrics
from services.catalog.deletion.passes import Collection
from services.catalog.deletion.retention import Retention
from services.catalog.deletion.rewriter import RewritePolicy, Rewriter
from services.catalog.deletion.sweeper import Sweeper, SweepPolicy
from services.catalog.deletion.upkeep import Upkeep
from services.catalog.figures import FIGURES_INTERVAL_SECONDS, FiguresCollector
from services.catalog.folding import Folding, FoldPolicy
from services.catalog.keys.data_keys import DataKeys
from services.catalog.keys.endpoints import KeyTools
from services.catalog.keys.rotation import KekRotation, keys_to_wrap
from services.catalog.overdue import end_overdue
from services.catalog.recovery.check import CatalogCheck
from services.catalog.recovery.checkpoints import Checkpoints
from services.catalog.recovery.endpoints import RecoveryTools
from services.catalog.recovery.loop import LOOK_SECONDS, RecoveryLoop
from services.catalog.recovery.reconciler import Reconciler
from services.catalog.relay import Relay
from services.catalog.routes import add_routes
from services.catalog.settings import Settings
from services.catalog.verification.jobs import VerifyJobs
from services.catalog.verification.loop import VerificationLoop
from services.catalog.verification.verifier import Verifier
from services.catalog.watch import WATCH_INTERVAL_SECONDS, Watch

#: A step of a reconciliation may take so long without a sign of progress.
_STEP_SECONDS_MAX = 3600.0
#: A batch is published in far less.
_RELAY_PATIENCE_SECONDS = 60.0


def main(settings: Settings, stop: Stop) -> None:
    """Wire the loops and run them until asked to stop."""
    health, registry = Health(stop), new_registry()
    catalog = Catalog(
        settings.postgres.dsn.reveal(),
        settings.postgres.pool_size_max,
        "catalog",
        patience_seconds=PATIENCE_SECONDS,
    )
    catalog.open()
    with contextlib.closing(catalog):
        stores = _stores(settings, catalog)
        store = stores.by_number[PRIMARY]
        kek = KeyEncryptionKey.of(settings.kek, settings.previous_kek)
        vault = KeyVault(stores.objects, kek)
        vault.check()
        checkpoints = Checkpoints(
            catalog, store, CheckpointShelf(store, kek), settings.checkpoint_count_max
        )
        witness = checkpoints.witness
        tools = _recovery_tools(settings, catalog, stores, vault, checkpoints, kek, stop)
        witnesses = _witnesses(stores, witness, tools.mirror)
        collector = Collector(
            catalog, stores, vault, settings.tombstone_deadline_seconds, witness, witnesses
        )
        collection = Collection(collector.stages())
        folding = _folding(settings, catalog, witness)
        chores = [
            Chore("list-unused", settings.collection_slow_interval_seconds, collector.list_unused),
            Chore("fold", settings.fold_interval_seconds, folding.run),
        ]
        collecting = CollectionLoop(collection, chores, catalog, CollectionMetrics(registry))
        upkeep = _upkeep(settings, catalog, stores, vault, witnesses)
        verifier, verifying = _verification(settings, catalog, stores, vault, stop)
        jobs = VerifyJobs(verifier, settings.verification_thread_count)
        relay = Relay(
            catalog, settings.kafka, settings.relay_batch_count_max, settings.relay_interval_seconds
        )
        loops = [
            *_watching(settings, catalog, tools.loop, relay),
            *_noticing(catalog, stores, tools.loop, registry),
            *_background(settings, collecting, upkeep, verifying),
            *_replication(settings, catalog, stores, vault, tools.mirror, registry),
        ]
        access = CatalogAccess(catalog, "catalog", settings, registry, group_of_parameter)
        app = access.create_app(settings, health)
        keys = _key_tools(catalog, stores, kek, checkpoints, tools.mirror)
        add_routes(
            app, catalog, stores, vault, collection, upkeep, verifier, jobs, tools, witness, keys
        )
        _depend(health, settings, catalog)
        _answer_polls_at(stop, jobs.bells, upkeep.bells)
        with contextlib.closing(access), serving(app, settings):
            threads = start_loops([*loops, *access.loops(), audit_loop(catalog)], health, stop)
            health.started()
            stop.wait()
            for thread in threads:
                thread.join()
            jobs.close()


def _depend(health: Health, settings: Settings, catalog: Catalog) -> None:
    """Which servers `/readyz` asks; without Kafka or a store the service still does a part."""
    health.depend_on("postgres", lambda: ask_postgres(catalog))
    health.depend_on("kafka", lambda: ask_kafka(settings.kafka), is_needed=False)
    for name, probe in store_probes(settings.s3, settings.second_s3).items():
        health.depend_on(name, probe, is_needed=False)


def _answer_polls_at(stop: Stop, *waited_for: Bells[Any]) -> None:
    for bells in waited_for:
        stop.call(bells.close)


def _watching(
    settings: Settings, catalog: Catalog, recovery: RecoveryLoop, relay: Relay
) -> list[Loop]:
    """What others wait for."""
    retention, checkpoint_seconds = Retention(catalog), settings.checkpoint_interval_seconds
    relay_seconds, patience = settings.relay_interval_seconds, _RELAY_PATIENCE_SECONDS
    return [
        Loop(
            "overdue",
            functools.partial(end_overdue, catalog),
            settings.overdue_interval_seconds,
        ),
        Loop(
            "checkpoints",
            lambda _stop, _progressed: recovery.round(checkpoint_seconds),
            LOOK_SECONDS,
            patience_seconds=_STEP_SECONDS_MAX,
        ),
        Loop(
            "retention",
            lambda _stop, _progressed: retention.round(),
            settings.retention_interval_seconds,
        ),
        Loop("relay", relay.round, relay_seconds, patience_seconds=patience, lasting=True),
        Listener(catalog, LOG_CHANNEL, lambda _: relay.wake(), relay.wake).loop(),
    ]


def _noticing(
    catalog: Catalog, stores: Stores, recovery: RecoveryLoop, registry: CollectorRegistry
) -> list[Loop]:
    """What tells people how things stand."""
    watch, figures = Watch(catalog, stores, recovery), FiguresCollector(catalog, registry)
    return [
        Loop("watch", watch.round, WATCH_INTERVAL_SECONDS),
        Loop("figures", figures.round, FIGURES_INTERVAL_SECONDS),
    ]


def _stores(settings: Settings, catalog: Catalog) -> Stores:
    """The configured stores, which are those that the catalog knows."""
    report = functools.partial(mark_copy_damaged, catalog)
    stores = open_stores(settings.s3, settings.second_s3, report)
    identify_stores(catalog, stores)
    return stores


def _background(
    settings: Settings, collecting: CollectionLoop, upkeep: Upkeep, verifying: VerificationLoop
) -> list[Loop]:
    """What can wait while somebody backs up or restores."""
    return [
        Loop("collection", collecting.round, settings.collection_interval_seconds, background=True),
        Loop(
            "upkeep",
            upkeep.round,
            settings.upkeep_interval_seconds,
            background=True,
            wake=upkeep.wake,
        ),
        Loop(
            "verification",
            verifying.round,
            settings.verification_interval_seconds,
            background=True,
        ),
    ]


def _recovery_tools(  # noqa: PLR0913 -- wired here and nowhere else
    settings: Settings,
    catalog: Catalog,
    stores: Stores,
    vault: KeyVault,
    checkpoints: Checkpoints,
    kek: KeyEncryptionKey,
    stop: Stop,
) -> RecoveryTools:
    reconciler = Reconciler(
        catalog,
        stores,
        vault,
        checkpoints,
        settings.reconcile_settle_seconds,
        settings.absence_apart_seconds,
        stop,
    )
    return RecoveryTools(
        loop=RecoveryLoop(catalog, checkpoints, reconciler),
        checkpoints=checkpoints,
        mirror=Mirror(catalog, stores, kek, settings.checkpoint_count_max),
        checking=CatalogCheck(catalog, settings.postgres.dsn.reveal(), stores, vault, checkpoints),
        kafka=settings.kafka,
    )


def _folding(settings: Settings, catalog: Catalog, witness: Callable[[], None]) -> Folding:
    policy = FoldPolicy(settings.fold_session_grace_seconds, settings.fold_event_keep_seconds)
    return Folding(catalog, policy, witness)


def _key_tools(
    catalog: Catalog,
    stores: Stores,
    kek: KeyEncryptionKey,
    checkpoints: Checkpoints,
    mirror: Mirror,
) -> KeyTools:
    def copy(store_no: int) -> None:
        if store_no != PRIMARY:
            mirror.copy_checkpoint(store_no)

    def witness() -> None:
        checkpoints.write()
        for store_no in stores.by_number:
            copy(store_no)

    return KeyTools(
        KekRotation(
            stores,
            kek,
            functools.partial(keys_to_wrap, catalog, stores),
            checkpoints.write,
            copy,
        ),
        DataKeys(catalog, stores, kek, witness),
    )


def _upkeep(
    settings: Settings,
    catalog: Catalog,
    stores: Stores,
    vault: KeyVault,
    witnesses: Mapping[int, Callable[[], None]],
) -> Upkeep:
    deadline_seconds = settings.upkeep_deadline_seconds
    sweeping = SweepPolicy(settings.sweep_young_seconds, deadline_seconds)
    rewriting = RewritePolicy(
        settings.rewrite_live_share_max,
        settings.rewrite_again_seconds,
        deadline_seconds,
        settings.merge_young_seconds,
    )
    return Upkeep(
        Sweeper(catalog, stores.by_number[PRIMARY], sweeping),
        Rewriter(catalog, stores, vault, rewriting),
        [
            Sweeper(catalog, stores.by_number[number], sweeping, store_no=number, witness=witness)
            for number, witness in witnesses.items()
        ],
    )


def _witnesses(
    stores: Stores, witness: Callable[[], None], mirror: Mirror
) -> dict[int, Callable[[], None]]:
    """For each store but the primary: returns when it knows what was decided before the call."""

    def make(store_no: int) -> Callable[[], None]:
        def both() -> None:
            witness()
            mirror.copy_checkpoint(store_no)

        return both

    return {store_no: make(store_no) for store_no in stores.by_number if store_no != PRIMARY}


def _replication(  # noqa: PLR0913 -- wired here and nowhere else
    settings: Settings,
    catalog: Catalog,
    stores: Stores,
    vault: KeyVault,
    mirror: Mirror,
    registry: CollectorRegistry,
) -> list[Loop]:
    """What copies to the second store, if there is one."""
    if len(stores.by_number) == 1:
        return []
    replicator = Replicator(
        catalog,
        stores,
        CopyMaker(catalog, stores, vault),
        mirror,
        ReplicationMetrics(registry),
        settings.replication_thread_count,
    )
    interval_seconds = settings.replication_interval_seconds
    return [Loop("replication", replicator.round, interval_seconds, background=True)]


def _verification(
    settings: Settings, catalog: Catalog, stores: Stores, vault: KeyVault, stop: Stop
) -> tuple[Verifier, VerificationLoop]:
    deadline_seconds = settings.verification_deadline_seconds
    rate = settings.verification_bytes_per_second_max
    verifier = Verifier(catalog, stores, vault, deadline_seconds, rate, stop)
    sample = settings.verification_sample_percent / 100
    return verifier, VerificationLoop(verifier, settings.verification_period_seconds, sample)


if __name__ == "__main__":
    sys.exit(run_service("catalog", Settings, main))
