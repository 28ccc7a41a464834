"""Bugs of the services, to prove that the crash points find them."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import sql

from libs.catalogdb.deletion import condemning as collecting
from libs.catalogdb.deletion.rewriting import Moved, commit_rewrite
from libs.catalogdb.log.log import fold_events, mark_published, read_log
from libs.catalogdb.packs import registering
from libs.catalogdb.packs.registering import PackRecord
from libs.catalogdb.pool import Catalog
from libs.catalogdb.sessions import folding as sessions
from libs.events.record import to_record
from libs.kafka.publisher import Publisher
from libs.packs.pack import PackBuilder
from libs.packs.trailer import ItemKind
from services.catalog import folding as catalog_folding
from services.catalog.deletion.collector import Collector
from services.catalog.deletion.rewriter import Rewriter
from services.catalog.relay import Relay
from services.chunker import intake


async def _note_then_publish(relay: Relay, publisher: Publisher, topic: str, after: int) -> bool:
    events = read_log(relay._catalog, topic, after, 3)
    if events:
        mark_published(relay._catalog, topic, after + len(events))
    for event in events:
        await publisher.publish(to_record(event.envelope, event.value))
    return False


def _fold_in_two(catalog: Catalog, grace_seconds: float, limit: int) -> int:
    with catalog.transaction() as tx:
        over = tx.execute(
            """INSERT INTO past (session, sealed_at, ended_at, group_no, sequence, mac)
               SELECT session, sealed_at, expired_at, group_no, sequence, mac FROM snapshot
               WHERE state = 'x' AND manifest_deleted
                 AND expired_at < now() - make_interval(secs => %s) LIMIT %s RETURNING session""",
            [grace_seconds, limit],
        ).fetchall()
    with catalog.transaction() as tx:
        sessions._forget(tx, [row[0] for row in over])
    return len(over)


def _fold_unpublished(catalog: Catalog, topic: str, keep_seconds: float, limit: int) -> int:
    with catalog.transaction() as tx:
        tx.execute("UPDATE log_position SET published = last WHERE topic = %s", [topic])
    return fold_events(catalog, topic, keep_seconds, limit)


def _give_up_then_store(
    rewriter: Rewriter,
    token: UUID,
    domain_no: int,
    builder: PackBuilder,
    olds: Sequence[Any],
    _tally: object,
) -> bool:
    builder.close()
    body, generation, items = builder.finish(), builder.header.generation, builder.items
    record = PackRecord(0, generation, len(body), builder.frame_table())
    chunks = sum(item.kind is ItemKind.CHUNK for item in items)
    moved = Moved([item.id for item in items], [item.place for item in items], chunks)
    contents = {old.pack.pack_no: old.ids for old in olds}
    if not commit_rewrite(rewriter._catalog, token, domain_no, record, moved, contents):
        return False
    rewriter._stores.copy(generation).put(body)
    return True


class PlantedBug(NamedTuple):
    """What is replaced, by what, and where crashes show it."""

    module_or_class: object
    name: str
    bug: object
    scenario: str
    #: Names of the effects at which to strike, to save time; none: at all of them.
    effects: tuple[str, ...]


#: Bugs that the harness must find.
PLANTED = {
    "an older attempt may still register": PlantedBug(
        registering,
        "_lock_open",
        lambda _tx, attempts: frozenset(attempts),
        "first backup",
        ("register",),
    ),
    "what is in use is condemned": PlantedBug(
        collecting, "IS_UNUSED", sql.SQL("true"), "collect", ("condemn_unused",)
    ),
    "a pack is buried that was not deleted": PlantedBug(
        Collector,
        "_delete_pack",
        lambda _self, _dead: "deleted",
        "collect",
        ("bury",),
    ),
    "the relay notes a position before it publishes": PlantedBug(
        Relay,
        "_publish_topic",
        _note_then_publish,
        "relay",
        ("mark_published",),
    ),
    "a session is folded in two transactions": PlantedBug(
        catalog_folding,
        "fold_sessions",
        _fold_in_two,
        "fold what ended while a snapshot is taken",
        (),
    ),
    "a late event of a folded session is refused": PlantedBug(
        intake,
        "has_ended",
        lambda _catalog, _session: False,
        "fold what ended while a snapshot is taken",
        (),
    ),
    "the log forgets what was not relayed": PlantedBug(
        catalog_folding,
        "fold_events",
        _fold_unpublished,
        "fold while the log is relayed and copied",
        ("fold_events",),
    ),
    "merged packs are given up before the new one is stored": PlantedBug(
        Rewriter,
        "_store_pack",
        _give_up_then_store,
        "merge small packs while they are copied and restored",
        ("commit_rewrite",),
    ),
}
