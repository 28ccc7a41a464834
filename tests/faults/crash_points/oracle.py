"""What must hold, whatever struck: the invariants by name, checked without the code under test.

Some are checked at every effect: by triggers in the database (CommitFence, NoReuse, pins on live
packs only) and by the store (DeleteAfterTomb, a key is written with one content only). The others
are checked when everything has recovered.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

from libs.blockmap.node import NodeHasher, NodeId
from libs.blockmap.tree import MapReader, MapRoot, span_chunks
from libs.catalogdb.snapshots.points import SnapshotVolume, read_snapshot
from libs.copies.stores import Stores
from libs.errors import BadInputError
from libs.events.envelope import Envelope
from libs.events.record import EventRecord, from_record
from libs.events.topics import RELAYED_TOPICS
from libs.keys.vault import KeyVault
from libs.ranges import ByteRange, ChunkRun
from libs.reading.frames import FrameReader
from libs.reading.volume import VolumeReader, VolumeReaders, root_of
from libs.store.layout import pack_object, parse_pack_object
from libs.store.memory import MemoryStore
from libs.store.port import Body
from tests.faults.crash_points.world import TENANT, World
from tests.support.catalog import CatalogSite

#: Objects that are deleted when nothing needs them; keys and the newest checkpoints stay.
_COLLECTED = ("packs/", "manifests/")

_TRIGGERS = """
    CREATE OR REPLACE FUNCTION watch_pack() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        IF OLD.state = 'c' AND NEW.state NOT IN ('c', 'd') OR OLD.state = 'd' AND NEW.state <> 'd'
        THEN
            RAISE EXCEPTION 'NoReuse: pack % goes from % to %', OLD.pack_no, OLD.state, NEW.state;
        END IF;
        RETURN NEW;
    END $$;
    CREATE OR REPLACE TRIGGER watch BEFORE UPDATE ON pack
        FOR EACH ROW EXECUTE FUNCTION watch_pack();

    CREATE OR REPLACE FUNCTION watch_pin() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        IF (SELECT state FROM pack WHERE pack_no = NEW.pack_no) <> 'l' THEN
            RAISE EXCEPTION 'NoDangling: pin on pack %, which is not live', NEW.pack_no;
        END IF;
        RETURN NEW;
    END $$;
    CREATE OR REPLACE TRIGGER watch BEFORE INSERT ON pin
        FOR EACH ROW EXECUTE FUNCTION watch_pin();

    CREATE OR REPLACE FUNCTION watch_seal() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        IF EXISTS (SELECT FROM part_use u JOIN part p USING (session, volume_no)
                   JOIN pack USING (pack_no)
                   WHERE u.session = NEW.session AND u.entered > 0
                     AND (pack.state <> 'l' OR NOT EXISTS (
                              SELECT FROM pin WHERE owner = p.attempt AND pin.pack_no = u.pack_no)))
        THEN
            RAISE EXCEPTION 'CommitFence: session % is sealed without its pins', NEW.session;
        END IF;
        RETURN NEW;
    END $$;
    CREATE OR REPLACE TRIGGER watch BEFORE INSERT ON snapshot
        FOR EACH ROW EXECUTE FUNCTION watch_seal()"""


def install_watches(site: CatalogSite) -> None:
    """Let the database check at every transaction what must never be committed."""
    site.sql(_TRIGGERS)


class WatchedBucket(MemoryStore):
    """The bucket itself: refuses what no process may ever ask for."""

    def __init__(self, site: CatalogSite) -> None:
        super().__init__()
        self._site = site

    def put(self, key: str, body: Body) -> None:
        if self.stat(key) is not None:
            assert self.get(key) == bytes(body), f"NoReuse: {key} is written with another content"
        if key.startswith("packs/"):
            state = self._state_of(key)
            assert state is not None, f"{key} is written before its generation was claimed"
        super().put(key, body)

    def delete(self, key: str) -> None:
        if key.startswith("packs/"):
            state = self._state_of(key)
            assert state in ("c", "d"), f"DeleteAfterTomb: {key} is deleted in state {state}"
        elif key.startswith("manifests/"):
            live = self._site.sql(
                "SELECT 1 FROM snapshot WHERE manifest_key = %s AND state = 'l'", key
            )
            assert not live, f"AckedDurable: {key} of a live snapshot is deleted"
        super().delete(key)

    def _state_of(self, key: str) -> str | None:
        try:
            generation = parse_pack_object(key)
        except BadInputError:
            return None
        found = self._site.sql("SELECT state::text FROM pack WHERE generation = %s", generation)
        return str(found[0][0]) if found else None


class Oracle:
    """Checks a world that has recovered. Each check is named like its invariant."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sql: Callable[..., list[tuple[Any, ...]]] = world.site.sql
        vault = KeyVault(world.store, world.kek)
        frames = FrameReader(Stores(world.store), vault, 1000)
        self._readers = VolumeReaders(world.site.restore, vault, frames, frames, 600)
        #: Snapshots restored and compared, byte for byte.
        self.restored = 0

    def check_rows(self) -> None:
        """What needs no look at the bytes.

        Raises:
            AssertionError: one does not hold; it says which.
        """
        self.monotone()
        self.atomic_visibility()
        self.folded_whole()
        self.nothing_is_held()

    def monotone(self) -> None:
        """Positions are gapless, and what was relayed is the log, in its order.

        What was folded was relayed before, and what is left begins right behind it.
        """
        published = {}
        for topic, last, noted, folded, count, lowest, highest in self._sql(
            """SELECT topic, last, published, folded, count(position),
                      coalesce(min(position), folded + 1), coalesce(max(position), folded)
               FROM log_position LEFT JOIN event_log USING (topic) GROUP BY 1, 2, 3, 4"""
        ):
            assert last == folded + count == highest, f"Monotone: {topic} ends at {last}: {count}"
            assert lowest == folded + 1, f"Monotone: {topic} begins at {lowest}, folded {folded}"
            assert folded <= noted <= last, f"Monotone: {topic} published {noted} of {last}"
            published[topic] = noted
        for topic in RELAYED_TOPICS:
            seen = 0
            for record in self._world.topics.all_of(topic):
                position = _envelope(topic, record).position
                assert position is not None
                assert position <= seen + 1, f"Monotone: {topic} jumps from {seen} to {position}"
                seen = max(seen, position)
            assert published[topic] <= seen, f"Monotone: {topic} has {seen} of {published[topic]}"

    def atomic_visibility(self) -> None:
        """A snapshot has all its volumes, its session and its event, or there is none of it."""
        broken = self._sql(
            """SELECT session FROM session FULL JOIN snapshot USING (session)
               WHERE (session.state = 's') IS DISTINCT FROM (snapshot.session IS NOT NULL)
               UNION ALL
               SELECT s.session FROM snapshot s
               WHERE (SELECT count(*) FROM snapshot_volume v WHERE v.session = s.session)
                  <> (SELECT count(*) FROM part p WHERE p.session = s.session)
               UNION ALL
               SELECT s.session FROM snapshot s JOIN volume_group g USING (group_no)
               WHERE s.sequence > g.head_sequence"""
        )
        assert not broken, f"AtomicVisibility: sessions {broken}"
        told = self._told_sealed()
        for (session,) in self._sql(
            "SELECT session FROM snapshot UNION SELECT session FROM past WHERE sequence > 0"
        ):
            assert told[session] == 1, f"AtomicVisibility: {session} is told {told[session]} times"

    def folded_whole(self) -> None:
        """A session that was folded left one row, and each snapshot ever sealed is known."""
        halves = self._sql(
            """SELECT session FROM past
               WHERE session IN (SELECT session FROM session UNION SELECT session FROM snapshot
                   UNION SELECT session FROM part UNION SELECT session FROM attempt
                   UNION SELECT session FROM snapshot_volume UNION SELECT session FROM lease)"""
        )
        assert not halves, f"Folded: sessions that are there and past: {halves}"
        gaps = self._sql(
            """SELECT g.name, g.head_sequence, count(known.sequence) FROM volume_group g
               LEFT JOIN (SELECT group_no, sequence FROM snapshot UNION ALL
                          SELECT group_no, sequence FROM past) known USING (group_no)
               GROUP BY 1, 2 HAVING g.head_sequence <> count(known.sequence)"""
        )
        assert not gaps, f"Folded: groups whose chain of manifests has gaps: {gaps}"
        past = {row[0] for row in self._sql("SELECT session FROM past WHERE sequence > 0")}
        assert past <= self._world.given_up, f"Folded: {past - self._world.given_up} was kept"
        refused = self._sql(
            """SELECT convert_from(value, 'SQL_ASCII') FROM event_log
               WHERE topic = 'backcast.notifications'
                 AND position('malformed-event'::bytea IN value) > 0"""
        )
        assert not refused, f"Folded: events that the chunker has sent are refused: {refused}"

    def _told_sealed(self) -> Counter[UUID]:
        """How often the log says of a session that it was sealed, with what Kafka alone has."""
        rows = self._sql("SELECT correlation_id FROM event_log WHERE type LIKE '%%snapshot_sealed'")
        told = Counter(row[0] for row in rows)
        for topic, folded in self._sql("SELECT topic, folded FROM log_position WHERE folded > 0"):
            envelopes = (_envelope(topic, one) for one in self._world.topics.all_of(topic))
            by_position = {
                one.position: one for one in envelopes if one.position and one.position <= folded
            }
            assert len(by_position) == folded, f"Monotone: {topic} lacks events that were folded"
            told.update(
                one.correlation_id
                for one in by_position.values()
                if one.correlation_id and one.type.endswith("snapshot_sealed")
            )
        return told

    def nothing_is_held(self) -> None:
        """Nobody works, so nothing is pinned or open (the first half of Space)."""
        for what, query in (
            ("sessions", "SELECT session FROM session WHERE state = 'o'"),
            ("attempts", "SELECT attempt FROM attempt WHERE open"),
            ("leases", "SELECT lease FROM lease WHERE state = 'o'"),
            ("pins", "SELECT owner, pack_no FROM pin"),
        ):
            held = self._sql(query)
            assert not held, f"Space: {what} that nobody needs: {held}"

    def acked_durable(self) -> None:
        """Every acknowledged snapshot is there, and gives back each byte; references are right."""
        live = {
            session: (group, sequence, head)
            for session, group, sequence, head in self._sql(
                """SELECT session, group_no, sequence, sequence = head_sequence
                   FROM snapshot JOIN volume_group USING (group_no) WHERE state = 'l'"""
            )
        }
        kept = self._world.sealed.keys() - self._world.given_up
        assert kept <= live.keys() <= self._world.sealed.keys(), "AckedDurable: a snapshot is gone"
        for session in live:
            content = self._world.sealed[session]
            points = read_snapshot(self._world.site.restore, TENANT, session)
            assert {point.name for point in points} == content.keys()
            for point in points:
                disk = self._world.disks[point.name]
                with self._readers.open(point) as reader:
                    found = _read(reader)
                    expected = disk.bytes_of(content[point.name])
                    assert found == expected, f"AckedDurable: {point.label} has other bytes"
                    self._check_uses(reader, point, is_head=bool(live[session][2]))
            self.restored += 1

    def space(self) -> None:
        """After collection and sweep, the bucket holds what live snapshots need, and no more."""
        needed = {
            pack_object(generation)
            for (generation,) in self._sql(
                """SELECT generation FROM pack WHERE state = 'l'
                     AND EXISTS (SELECT FROM pack_use u WHERE u.pack_no = pack.pack_no)"""
            )
        } | {key for (key,) in self._sql("SELECT manifest_key FROM snapshot WHERE state = 'l'")}
        stored = {
            stat.key for stat in self._world.store.list("") if stat.key.startswith(_COLLECTED)
        }
        assert stored == needed, (
            f"Space: {len(stored - needed)} objects too many, {len(needed - stored)} missing: "
            f"{sorted(stored ^ needed)}"
        )
        stale = self._sql("SELECT pack_no, state::text FROM pack WHERE state NOT IN ('l', 'd')")
        assert not stale, f"Space: packs that are neither live nor dead: {stale}"
        lost = self._sql(
            f"""SELECT count(*) FROM chunk_{self._world.tenant.domain_no} c
                LEFT JOIN pack USING (pack_no) WHERE state IS DISTINCT FROM 'l'"""
        )
        assert lost == [(0,)], f"Space: {lost[0][0]} rows of the index lead nowhere"

    def second_store(self) -> None:
        """The second store has what the first one has, and alone gives back every snapshot."""
        world = self._world
        assert world.second is not None
        for prefix in ("packs/", "manifests/", "keys/"):
            one, two = (
                {stat.key: store.get(stat.key) for stat in store.list(prefix)}
                for store in (world.store, world.second)
            )
            assert one == two, f"Copies: {prefix} differ: {sorted(one.keys() ^ two.keys())}"
        left = self._sql(
            """SELECT y.pack_no, y.store_no, y.state::text FROM copy y JOIN pack USING (pack_no)
               WHERE y.state <> 'p' OR pack.state <> 'l'"""
        )
        assert not left, f"Copies: rows that are not of a present copy of a live pack: {left}"
        said = self._sql(
            "SELECT count(*) FROM snapshot WHERE state = 'l' AND replicated_at IS NULL"
        )
        assert said == [(0,)], f"Copies: {said[0][0]} snapshots are not said to be whole"
        vault = KeyVault(world.second, world.kek)
        stores = Stores(MemoryStore(), world.second)
        frames = FrameReader(stores, vault, 1000)
        alone = VolumeReaders(world.site.restore, vault, frames, frames, 600)
        self._readers, before = alone, self._readers
        self.acked_durable()
        self._readers = before

    def _check_uses(self, reader: VolumeReader, point: SnapshotVolume, *, is_head: bool) -> None:
        """NoDangling: packs that a snapshot needs are live and covered; the head's are counted."""
        needed = self._addresses(reader, point)
        covering = {
            pack_no: (addresses, state)
            for pack_no, addresses, state in self._sql(
                """SELECT pack_no, addresses, state::text FROM pack_use JOIN pack USING (pack_no)
                   WHERE volume_no = %s AND first_sequence <= %s
                     AND coalesce(last_sequence, %s) >= %s""",
                point.volume_no,
                point.sequence,
                point.sequence,
                point.sequence,
            )
        }
        dead = [pack_no for pack_no, (_, state) in covering.items() if state != "l"]
        assert not dead, f"NoDangling: {point.label} needs packs {dead}, which are not live"
        assert needed.keys() == covering.keys(), f"NoDangling: {point.label} uses other packs"
        if is_head:
            counted = {pack_no: addresses for pack_no, (addresses, _) in covering.items()}
            assert needed == counted, f"pack_use of {point.label}: {counted}, recounted {needed}"

    def _addresses(self, reader: VolumeReader, point: SnapshotVolume) -> Counter[int]:
        """Pack → addresses of chunks and map nodes that lie in it, counted from the block map."""
        nodes = MapReader(NodeHasher(reader.id_key), reader._fetch_node)
        ids = list(_walk(nodes, root_of(point)))
        counts: Counter[int] = Counter()
        if ids:
            packs = dict(
                self._sql(
                    f"SELECT id_high::text, pack_no FROM chunk_{point.domain_no} "
                    f"WHERE id_high = ANY(%s::uuid[])",
                    [id_[:16].hex() for id_ in ids],
                )
            )
            for id_ in ids:
                name = id_[:16].hex()
                key = "-".join((name[:8], name[8:12], name[12:16], name[16:20], name[20:]))
                counts[packs[key]] += 1
        return counts


def _walk(nodes: MapReader, subtree: MapRoot) -> list[bytes]:
    """Ids at all addresses of a map: each chunk index, and each place of a node."""
    if subtree.node_id is None:
        return []
    if subtree.level == 0:
        runs = nodes.lookup(subtree, ChunkRun(0, span_chunks(0)))
        found = [run.ids[at : at + 32] for run in runs for at in range(0, len(run.ids), 32)]
    else:
        children = nodes.children(subtree, subtree.level).values()
        found = [id_ for child in children for id_ in _walk(nodes, child)]
    return [NodeId(subtree.node_id), *found]


def _read(reader: VolumeReader) -> bytes:
    size = reader.point.size_bytes
    if size == 0:
        return b""
    placed = reader.locate(ChunkRun(0, size >> 16))
    return reader.read(placed, ByteRange(0, size))


def _envelope(topic: str, record: EventRecord) -> Envelope:
    envelope, _ = from_record(topic, record.headers, record.value)
    return envelope
