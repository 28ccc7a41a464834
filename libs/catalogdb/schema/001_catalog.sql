-- The catalog, version 1. Only libs/catalogdb writes these tables: one Python function per transaction.
--
-- Rules that the tables serve are in the design's chapter "A snapshot, step by step"; the comments here say
-- which rule needs which row. Numbers (`*_no`) are internal and small because the big tables repeat them;
-- UUIDs are what leaves the catalog.
--
-- An id has one type wherever it is a column. What is made once (sessions, captures, attempts, leases, generations,
-- domains, keys, groups, volumes, stores, boots) is a uuid. The id of a chunk or map node is a bytea of 32 bytes, and
-- only the index of chunks splits it into two uuids, which take less room (docs/adr/0006). Columns of text that name
-- things of several kinds hold ids as people write them: `suspect.item`, `checkpoint_change.key`, `event_log.subject`.

-- One row. A catalog that went back in time begins a new incarnation and is reconciled with the store.
CREATE TABLE incarnation (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number     int NOT NULL DEFAULT 0,    -- also the high bits of the log's positions
    life       text NOT NULL,             -- catalog_life() when the catalog was last compared with the store
    reconciled boolean NOT NULL DEFAULT true,
    checkpoint bigint NOT NULL DEFAULT 0, -- number of the newest checkpoint that was begun
    durable    bigint NOT NULL DEFAULT 0  -- number of the newest one that is in the store
);

-- What changes whenever the tables may be others than before. First what a mere restart leaves: the cluster,
-- its timeline (promotion, recovery to a point in time), the database, and the table's file (a loaded dump).
CREATE FUNCTION catalog_life() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
                     (SELECT timeline_id FROM pg_control_checkpoint()),
                     (SELECT oid FROM pg_database WHERE datname = current_database()),
                     pg_relation_filenode('incarnation'))
           || ' ' || extract(epoch FROM pg_postmaster_start_time())
$$;
INSERT INTO incarnation (life) VALUES (catalog_life());

-- ---------------------------------------------------------------- who and what is protected

-- A set of tenants' data that is deduplicated together and shares a hash key.
CREATE TABLE domain (
    domain_no  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain     uuid NOT NULL UNIQUE,
    key_id     uuid NOT NULL,            -- the wrapped key object that new packs use
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tenant (
    tenant_no  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    domain_no  int NOT NULL REFERENCES domain,
    quota_bytes bigint CHECK (quota_bytes > 0), -- of live packs in its domain: from there on no session opens
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Tenants that may use another tenant's domain: its chunks may be named by their snapshots. A domain has the one
-- owner that stores in it, whose `tenant.domain_no` it is.
CREATE TABLE domain_grant (
    domain_no  int NOT NULL REFERENCES domain,
    tenant_no  int NOT NULL REFERENCES tenant,
    granted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_no, domain_no)
);

-- A host that runs an agent. `boot` changes with every start of the agent process. A node that has not announced
-- itself with the credential that counts has no address and boot 0.
CREATE TABLE node (
    node_no      int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    rpc_url      text NOT NULL,
    span_address text NOT NULL,          -- host:port that chunkers dial
    boot         uuid NOT NULL,
    credential   uuid,                   -- the one that counts; no secret. NULL: none does
    invitation   uuid,                   -- by which it got its credential; NULL: by the coordinator's key alone
    version      text NOT NULL DEFAULT '', -- of its agent
    forgotten_at timestamptz,            -- until an invitation for its name is used
    seen_at      timestamptz NOT NULL DEFAULT now()
);

-- The right to new credentials of nodes: work under way, which no checkpoint has.
CREATE TABLE invitation (
    invitation uuid PRIMARY KEY,
    node       text,                     -- the only name that it is good for; NULL: any that no node has had
    left_count int NOT NULL CHECK (left_count >= 0),
    expires_at timestamptz NOT NULL
);

-- Volumes cut at one barrier. The head moves by compare-and-set in the seal.
CREATE TABLE volume_group (
    group_no      int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    group_id      uuid NOT NULL UNIQUE,
    tenant_no     int NOT NULL REFERENCES tenant,
    name          text NOT NULL,
    head_sequence int NOT NULL DEFAULT 0,
    head_session  uuid,                  -- the newest sealed snapshot, live or expired
    head_mac      bytea,                 -- chains the next manifest to the newest one
    copies        int NOT NULL DEFAULT 1 CHECK (copies BETWEEN 1 AND 2), -- stores that should have it whole
    -- While it is paused it takes no snapshots, and retention gives up none of those that there are.
    paused_at     timestamptz,
    paused_by     text,
    paused_reason text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_no, name),
    CHECK (num_nulls(paused_at, paused_by, paused_reason) IN (0, 3))
);

-- What the domain tags of a group's block maps mean. Tag 0 is the tenant's own domain and has no row. Rows are only
-- ever added, with the next tag: nodes are shared across snapshots, so a tag means one domain for ever.
CREATE TABLE group_domain (
    group_no  int NOT NULL REFERENCES volume_group,
    tag       smallint NOT NULL CHECK (tag BETWEEN 1 AND 255),
    domain_no int NOT NULL REFERENCES domain,
    PRIMARY KEY (group_no, tag),
    UNIQUE (group_no, domain_no)
);

-- The same with tag 0: what every domain tag of a group means.
CREATE VIEW domain_tag AS
    SELECT group_no, 0::smallint AS tag, domain_no FROM volume_group JOIN tenant USING (tenant_no)
    UNION ALL SELECT group_no, tag, domain_no FROM group_domain;

-- In whose name events about a domain's packs are logged: its owner. While a rebuild knows the domain only from
-- the snapshots that use it, a tenant of those.
CREATE FUNCTION tenant_of_domain(number int) RETURNS text LANGUAGE sql STABLE
RETURN coalesce((SELECT min(name) FROM tenant WHERE domain_no = number),
                (SELECT min(t.name) FROM group_domain d JOIN volume_group USING (group_no)
                 JOIN tenant t USING (tenant_no) WHERE d.domain_no = number));

-- A protected block address space. References are counted by volume_no. A row is never deleted, and never leaves its
-- group: rows of pack_use count in the group's sequences (libs/catalogdb/volumes/regrouping).
CREATE TABLE volume (
    volume_no  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    volume_id  uuid NOT NULL UNIQUE,
    tenant_no  int NOT NULL REFERENCES tenant,
    group_no   int NOT NULL REFERENCES volume_group,
    name       text NOT NULL,
    -- The newest damage that was known when the volume's references were last counted anew; -1: they
    -- must be. Damage beyond it on a pack that the volume uses makes its counts doubtful.
    counted_damage int NOT NULL DEFAULT 0,
    -- It moved when the group's head had this sequence: trackers know nothing of what changed since that one or an
    -- older one.
    moved_after int NOT NULL DEFAULT -1,
    -- It is protected no more: no session has a part of it. What was taken of it stays until it expires.
    removed_at timestamptz,
    removed_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_no, name),
    CHECK (num_nulls(removed_at, removed_by) IN (0, 2))
);
CREATE INDEX ON volume (group_no);

-- Where a volume's bytes are: one row for each node that writes it. The lead is the node that captures it.
-- The nodes of a group's sources are the members of its barrier.
CREATE TABLE source (
    volume_no int NOT NULL REFERENCES volume,
    node_no   int NOT NULL REFERENCES node,
    path      text NOT NULL,
    driver    text NOT NULL DEFAULT 'scan',
    epoch     int NOT NULL DEFAULT 0,    -- a tracker's knowledge is of one epoch; raised when it is lost
    freeze_mount text,                   -- mount point of the file system that is frozen while writes are held
    lead      boolean NOT NULL DEFAULT true,
    PRIMARY KEY (volume_no, node_no)
);
CREATE UNIQUE INDEX source_lead ON source (volume_no) WHERE lead;

-- ---------------------------------------------------------------- packs and what holds them

-- state: 'u' uploading (row exists before its object), 'l' live, 'c' condemned, 'd' dead for ever.
CREATE TABLE pack (
    pack_no    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation uuid NOT NULL UNIQUE,     -- never used twice: dead rows stay
    domain_no  int REFERENCES domain,
    key_id     uuid,
    attempt    uuid,                     -- who uploads it: an attempt or rewriter; only that may register it
    state      "char" NOT NULL,
    size_bytes bigint DEFAULT 0,
    items      int DEFAULT 0,            -- when it was registered; with pack_use, a hint at what is dead
    frames     bytea NOT NULL DEFAULT '',-- frame table, so that readers need no trailer
    moved_to   int REFERENCES pack,      -- set when a rewrite moved its live items
    created_at timestamptz DEFAULT now(),
    -- A dead pack keeps its name, and where its items went: every snapshot leaves some.
    CHECK (state = 'd' OR num_nulls(domain_no, key_id, attempt, size_bytes, items, created_at) = 0)
);
CREATE INDEX ON pack (attempt) WHERE state = 'u';
-- What a domain stores (libs/catalogdb/tenants).
CREATE INDEX pack_stored ON pack (domain_no) INCLUDE (size_bytes) WHERE state = 'l';
-- Small packs, which are merged (libs/catalogdb/deletion/small_packs).
CREATE INDEX pack_small ON pack (domain_no, pack_no) WHERE state = 'l' AND size_bytes <= 16777216;

-- Where objects lie. Everything is written to the primary first; the other stores get a copy of it.
-- state: 'o' online, 'l' lost: a person has said that what it held is gone.
CREATE TABLE store (
    store_no int PRIMARY KEY,            -- 1 is the primary
    store_id uuid UNIQUE,                -- what the bucket says it is; null until somebody has looked
    name     text NOT NULL UNIQUE,
    state    "char" NOT NULL DEFAULT 'o',
    position bigint NOT NULL DEFAULT 0,  -- the last event of the log of packs whose copies were made
    refill   boolean NOT NULL DEFAULT false, -- it was added or came back: it may lack anything
    lost_through int NOT NULL DEFAULT 0, -- copies of packs up to this number are gone
    added_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO store (store_no, name) VALUES (1, 'primary');

-- A pack's bytes at one store. state: 'm' making: it is wanted, and its object may be there or not; 'p'
-- present; 'x' damaged or gone, though it should be present. Only the last two are read. A live pack
-- becomes damaged (below) when what is wanted of it is intact in none of them.
CREATE TABLE copy (
    pack_no    int NOT NULL REFERENCES pack,
    store_no   int NOT NULL REFERENCES store,
    state      "char" NOT NULL,
    checked_at timestamptz,              -- when a verification last found the object as it must be
    checked_in_full_at timestamptz,      -- when it last found every byte of it so
    damage     text,                     -- what is wrong with it
    PRIMARY KEY (pack_no, store_no)
);
-- What is still to be made or repaired.
CREATE INDEX copy_unfinished ON copy (store_no, pack_no) WHERE state <> 'p';

-- What was found damaged in a live pack: an item, or the whole pack (item ''). Such an item is unknown to
-- look-ups, and the next capture that has its bytes stores it anew (libs/catalogdb/packs/damage has the argument).
-- Numbers ascend in the order of commits; rows go with their pack.
CREATE SEQUENCE damage_number AS int;
CREATE TABLE damage (
    damage_no int NOT NULL UNIQUE DEFAULT nextval('damage_number'),
    pack_no   int NOT NULL REFERENCES pack,
    item      bytea NOT NULL CHECK (octet_length(item) IN (0, 32)),
    reason    text NOT NULL,
    found_at  timestamptz NOT NULL DEFAULT now(),
    healed_at timestamptz,               -- repaired in another pack, or found intact again
    assessed  boolean NOT NULL DEFAULT false, -- the snapshots that contain it are named
    PRIMARY KEY (pack_no, item)
);

-- `pack_no` holds items that were damaged in `on_pack_no`. Older snapshots are counted there and read
-- here, so this pack stays while that one does.
CREATE TABLE leans (
    pack_no    int NOT NULL REFERENCES pack,
    on_pack_no int NOT NULL REFERENCES pack,
    PRIMARY KEY (pack_no, on_pack_no)
);
CREATE INDEX ON leans (on_pack_no);

-- Part of "is this pack in use?": whoever condemns asks it after it has locked the pack.
CREATE FUNCTION leans_on_live(number int) RETURNS boolean LANGUAGE sql STABLE
RETURN EXISTS (SELECT FROM leans l JOIN pack p ON p.pack_no = l.on_pack_no
               WHERE l.pack_no = number AND p.state = 'l');

-- Whether a rewrite may move a pack's items: counts, damage and leans name packs, and a move that
-- followed all of them would gain little. Asked after the pack was locked.
CREATE FUNCTION may_be_moved(number int) RETURNS boolean LANGUAGE sql STABLE
RETURN NOT EXISTS (SELECT FROM damage WHERE pack_no = number)
   AND NOT EXISTS (SELECT FROM leans WHERE number IN (pack_no, on_pack_no));

-- The claim of an attempt or a lease that a pack must stay.
CREATE TABLE pin (
    owner   uuid NOT NULL,               -- attempt or lease
    pack_no int NOT NULL REFERENCES pack,
    PRIMARY KEY (owner, pack_no)
);
CREATE INDEX ON pin (pack_no);

-- A rewriter reads the block maps to learn which items of a pack are live. An attempt that pins the pack
-- takes the token away, and with it the right to rewrite: its snapshot may revive a dead item and be sealed
-- and unpinned again before the rewriter is done (scenario 27).
CREATE TABLE marking (
    pack_no  int PRIMARY KEY REFERENCES pack,
    token    uuid,                       -- whose marking is valid
    again_at timestamptz NOT NULL        -- from then on another rewriter may mark the pack
);
CREATE INDEX ON marking (token);

-- References are kept per pack and volume, never per chunk. An open row (last_sequence null) counts the
-- addresses of the volume's head that lie in the pack; a closed one says which snapshots it covers.
CREATE TABLE pack_use (
    volume_no      int NOT NULL REFERENCES volume,
    pack_no        int NOT NULL REFERENCES pack,
    addresses      bigint NOT NULL CHECK (addresses >= 0),
    first_sequence int NOT NULL,
    last_sequence  int,
    CHECK (last_sequence IS NULL OR last_sequence >= first_sequence)
);
CREATE UNIQUE INDEX pack_use_open ON pack_use (volume_no, pack_no) WHERE last_sequence IS NULL;
CREATE INDEX pack_use_pack ON pack_use (pack_no);
CREATE INDEX pack_use_closed ON pack_use (volume_no, last_sequence) WHERE last_sequence IS NOT NULL;

-- Packs that perhaps nothing needs. Every live pack without a row of pack_use is in it: a pack enters when it
-- is registered and when one of its rows goes, and leaves when a collector finds a row, or condemns it.
-- Unclaimed: nobody gave it up, there merely is no row; it is a suspect before it is condemned.
CREATE TABLE candidate (
    pack_no   int PRIMARY KEY,
    unclaimed boolean NOT NULL DEFAULT false
);
CREATE INDEX ON candidate (pack_no) WHERE unclaimed;

-- What would be given up because something is not there, until it is looked at again: a generation, an object's
-- key, or a session (libs/catalogdb/deletion/brake).
CREATE TABLE suspect (
    kind         text NOT NULL,
    item         text COLLATE "C" NOT NULL,
    size_bytes   bigint NOT NULL DEFAULT 0,
    noted_at     timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz,                  -- a second look, apart in time, found the same
    accepted     boolean NOT NULL DEFAULT false, -- a person was shown it, and let it go
    PRIMARY KEY (kind, item)
);

-- A brake that is on: suspects of a kind are too large a share to go without a person's word.
CREATE TABLE halt (
    kind       text PRIMARY KEY,
    name       text NOT NULL,                  -- kind and digest of the suspects: what is accepted
    halted_at  timestamptz NOT NULL DEFAULT now(),
    count      bigint NOT NULL,
    size_bytes bigint NOT NULL,
    message    text NOT NULL
);

-- Copies of condemned packs whose objects may still exist: a pack is dead when its last tombstone goes.
-- Whoever claims one has until the deadline to delete the object.
CREATE TABLE tombstone (
    pack_no  int NOT NULL REFERENCES pack,
    store_no int NOT NULL REFERENCES store,
    deadline timestamptz NOT NULL DEFAULT '-infinity',
    forgotten boolean NOT NULL DEFAULT false, -- its pack's items are out of the index
    PRIMARY KEY (store_no, pack_no)
);
CREATE INDEX ON tombstone (pack_no);

-- Where each stored chunk and map node lies: one table per domain, chunk_<domain_no>.
-- A 256-bit id is two uuid columns with a B-tree on the first half: 108 bytes a row where a bytea key needs
-- 153 (docs/adr/0006). Two ids that share the first half and differ in the second are refused, never mixed.
CREATE FUNCTION create_chunk_table(number int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS chunk_%s (
             id_high uuid PRIMARY KEY,
             id_low  uuid NOT NULL,
             pack_no int  NOT NULL,
             place   int  NOT NULL   -- frame << 20 | byte offset within the plain frame
         ) WITH (autovacuum_analyze_scale_factor = 0.5)', number);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON chunk_%s TO backcast_chunker', number);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON chunk_%s TO backcast_catalog', number);
    EXECUTE format('GRANT SELECT ON chunk_%s TO backcast_restore', number);
END $$;
REVOKE EXECUTE ON FUNCTION create_chunk_table FROM PUBLIC;

-- What sweepers divide among themselves and where each of them stands: prefixes of object keys.
CREATE TABLE sweep (
    store_no      int NOT NULL REFERENCES store,
    prefix        text NOT NULL,
    after         text NOT NULL DEFAULT '',  -- last key that is done
    swept_at      timestamptz NOT NULL DEFAULT '-infinity',  -- when it was done to the end
    claimed_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (store_no, prefix)
);
CREATE FUNCTION begin_sweeping(number int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO sweep (store_no, prefix)
    SELECT number, 'packs/' || to_hex(n) FROM generate_series(0, 15) n
    UNION ALL SELECT number, 'manifests/' ON CONFLICT DO NOTHING
$$;
SELECT begin_sweeping(1);

-- ---------------------------------------------------------------- sessions: the making of one snapshot

-- state: 'o' open, 's' sealed, 'r' rejected, for ever: a late event must find that the session ended. Rows of ended
-- sessions stay until they are folded into `past`.
CREATE TABLE session (
    session        uuid PRIMARY KEY,     -- chosen by the client, so that asking twice is safe
    group_no       int NOT NULL REFERENCES volume_group,
    state          "char" NOT NULL DEFAULT 'o',
    base           uuid,                 -- session of the base snapshot: pinned against expiry while open
    head_sequence  int NOT NULL,         -- the group's head when the session opened
    damage_seen    int NOT NULL DEFAULT 0, -- the newest damage that was known then
    cut_attempt    int NOT NULL DEFAULT 0, -- the current attempt at the barrier; 0: it needs none
    cut_until      timestamptz,          -- from then on another coordinator may begin a newer attempt
    cut_at         timestamptz,          -- the cut of the current attempt counts: captures may be ordered
    deadline       timestamptz NOT NULL, -- renewed by progress
    opened_at      timestamptz NOT NULL DEFAULT now(),
    opened_with    text,                 -- SHA-256 of the token of whoever asked for it
    ended_at       timestamptz,
    reject_code    text,
    reject_message text
);
-- One open session per group: the base is the head or nothing, so two could not both seal.
CREATE UNIQUE INDEX session_open ON session (group_no) WHERE state = 'o';
-- Bases of which a tracker said what was not true: nothing that was tracked since them is believed.
CREATE INDEX session_untrue ON session (base) WHERE reject_code = 'tracking-lost';
CREATE INDEX session_rejected ON session (ended_at) WHERE state = 'r';
-- The newest ones of a group.
CREATE INDEX session_of_group ON session (group_no, opened_at DESC);

-- One volume of a session. state: 'w' waiting for its capture, 'c' capturing, 'f' finished.
CREATE TABLE part (
    session         uuid NOT NULL REFERENCES session,
    volume_no       int NOT NULL REFERENCES volume,
    capture         uuid NOT NULL UNIQUE,
    token           bytea NOT NULL,      -- authenticates the capture's events and span connections
    node_no         int NOT NULL REFERENCES node,
    path            text NOT NULL DEFAULT '', -- of the volume's source when the session opened, as are the next two
    freeze_mount    text,
    driver          text NOT NULL DEFAULT 'scan',
    state           "char" NOT NULL DEFAULT 'w',
    boot            uuid,                -- the agent process whose frozen view this is; never mixed
    attempt         uuid,                -- the current one; whatever an older attempt does is refused
    attempt_number  int NOT NULL DEFAULT 0,
    partition       int,                 -- where its capture began in block-changes
    start_offset    bigint,
    base_root       bytea CHECK (octet_length(base_root) = 32),
    base_level      int NOT NULL DEFAULT 0,
    base_size_bytes bigint NOT NULL DEFAULT 0,
    root            bytea CHECK (octet_length(root) = 32),
    root_level      int NOT NULL DEFAULT 0,
    size_bytes      bigint NOT NULL DEFAULT 0,
    read_bytes      bigint NOT NULL DEFAULT 0,
    changed_bytes   bigint NOT NULL DEFAULT 0,
    sent_bytes      bigint NOT NULL DEFAULT 0,
    stored_bytes    bigint NOT NULL DEFAULT 0,
    consistency     text NOT NULL DEFAULT 'fuzzy',
    tracking        text NOT NULL DEFAULT 'unknown',
    lost_reason     text,                -- why nobody knew what changed since the base, as the node said
    PRIMARY KEY (session, volume_no)
);

-- What a node said of the barrier whose cut counts: evidence for people, written with session.cut_at.
CREATE TABLE barrier_node (
    session     uuid NOT NULL REFERENCES session,
    node_no     int NOT NULL REFERENCES node,
    means       text NOT NULL,           -- how it held writes: 'fsfreeze', 'filter', or 'none'
    held_at     timestamptz NOT NULL,    -- by the node's clock, as are the others
    cut_at      timestamptz NOT NULL,
    released_at timestamptz NOT NULL,
    unbroken    boolean NOT NULL,
    PRIMARY KEY (session, node_no)
);

-- One try at a part. Closing it and dropping all its pins is one transaction; single pins are never dropped.
CREATE TABLE attempt (
    attempt    uuid PRIMARY KEY,
    session    uuid NOT NULL,
    volume_no  int NOT NULL,
    number     int NOT NULL,
    chunker    text NOT NULL,
    open       boolean NOT NULL DEFAULT true,
    started_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (session, volume_no) REFERENCES part
);
CREATE INDEX ON attempt (session);

-- What a finished part will change in pack_use: addresses that entered a pack and that left one.
CREATE TABLE part_use (
    session   uuid NOT NULL,
    volume_no int NOT NULL,
    pack_no   int NOT NULL,
    entered   bigint NOT NULL,
    departed  bigint NOT NULL,
    PRIMARY KEY (session, volume_no, pack_no),
    FOREIGN KEY (session, volume_no) REFERENCES part
);

-- ---------------------------------------------------------------- snapshots and what keeps them

-- A sealed recovery point of a group. state: 'l' live, 'x' expired; that is folded when its manifest is deleted.
CREATE TABLE snapshot (
    session      uuid PRIMARY KEY REFERENCES session,
    group_no     int NOT NULL REFERENCES volume_group,
    sequence     int NOT NULL,
    state        "char" NOT NULL DEFAULT 'l',
    base         uuid,
    manifest_key text NOT NULL,
    mac          bytea NOT NULL,
    consistency  text NOT NULL,
    sealed_at    timestamptz NOT NULL DEFAULT now(),
    note         text,                   -- what people want to remember about it
    recovered    boolean NOT NULL DEFAULT false,  -- complete in the store, which cannot prove that it was acknowledged
    expired_at   timestamptz,
    manifest_deleted boolean NOT NULL DEFAULT false,
    manifest_copied  boolean NOT NULL DEFAULT false, -- the second store has the manifest
    replicated_at    timestamptz,        -- since when the second store has all of it
    UNIQUE (group_no, sequence)
);
-- What the second store, if there is one, does not have whole.
CREATE INDEX snapshot_unreplicated ON snapshot (session) WHERE state = 'l' AND replicated_at IS NULL;
-- Manifests that are still to be deleted.
CREATE INDEX snapshot_leftover ON snapshot (session) WHERE state = 'x' AND NOT manifest_deleted;
-- Those that may be folded.
CREATE INDEX snapshot_over ON snapshot (expired_at) WHERE state = 'x' AND manifest_deleted;

-- What is left of sessions that are over for good: rejected ones (without a sequence) and snapshots that expired. A late
-- event finds that the session ended, and the chain of manifests its link. Rows are never changed, and stay for ever:
-- columns in this order need 97 bytes (libs/catalogdb/sessions/folding says what else went).
CREATE TABLE past (
    session   uuid PRIMARY KEY,
    sealed_at timestamptz,
    ended_at  timestamptz,               -- expired or rejected; null: a catalog that was rebuilt does not know
    group_no  int NOT NULL REFERENCES volume_group,
    sequence  int,
    mac       bytea,
    CHECK (num_nulls(sequence, mac, sealed_at) IN (0, 3))
);
CREATE UNIQUE INDEX past_link ON past (group_no, sequence) WHERE sequence IS NOT NULL;

-- A snapshot that somebody holds does not expire. One hold per owner.
CREATE TABLE hold (
    session   uuid NOT NULL REFERENCES snapshot,
    owner     text NOT NULL,
    reason    text NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session, owner)
);

-- What retention keeps of a group; without a row nothing expires by itself.
CREATE TABLE retention (
    group_no         int PRIMARY KEY REFERENCES volume_group,
    keep_last        int NOT NULL CHECK (keep_last >= 1),
    keep_for_seconds bigint NOT NULL CHECK (keep_for_seconds >= 0)
);

-- The time that retention goes by: follows the server's clock in small steps and stops when that jumps.
CREATE TABLE retention_clock (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    trusted_at   timestamptz NOT NULL DEFAULT now(),
    halted_since timestamptz              -- trusted time at which a jump was noticed
);
INSERT INTO retention_clock DEFAULT VALUES;

CREATE TABLE snapshot_volume (
    session       uuid NOT NULL REFERENCES snapshot,
    volume_no     int NOT NULL REFERENCES volume,
    root          bytea CHECK (octet_length(root) = 32),
    root_level    int NOT NULL,
    size_bytes    bigint NOT NULL,
    read_bytes    bigint NOT NULL,
    changed_bytes bigint NOT NULL,
    sent_bytes    bigint NOT NULL,
    stored_bytes  bigint NOT NULL,
    tracking      text NOT NULL DEFAULT 'unknown', -- how the changes were known; a manifest does not say
    lost_reason   text,                  -- why they were not, where they were not
    PRIMARY KEY (session, volume_no)
);

-- What the last verification of a live snapshot found.
CREATE TABLE verification (
    session       uuid PRIMARY KEY REFERENCES snapshot,
    level         text NOT NULL,         -- of the last one: 'structural', 'sampled', 'full'; '' = none yet
    verified_at   timestamptz NOT NULL DEFAULT now(),
    strongest     text NOT NULL DEFAULT '', -- of those that found nothing since damage was last known; '' = none
    strongest_at  timestamptz,
    damaged       boolean NOT NULL,
    damaged_bytes bigint NOT NULL,       -- of volumes; 0 if only the manifest or self-descriptions are
    demanded      boolean NOT NULL DEFAULT false -- a restore failed: every byte is to be looked at
);
CREATE INDEX ON verification (verified_at);

-- What a restore, a download, a verification or a marking reads under: it pins the snapshot (this row) and each
-- pack as it resolves it (pin).
CREATE TABLE lease (
    lease         uuid PRIMARY KEY,
    session       uuid NOT NULL REFERENCES snapshot,
    volume_no     int NOT NULL REFERENCES volume,
    state         "char" NOT NULL DEFAULT 'o',  -- 'o' open, 'c' completed, 'f' failed
    announced     boolean NOT NULL,     -- a restore: its steps are events; else a single read
    deadline      timestamptz NOT NULL,
    opened_at     timestamptz NOT NULL DEFAULT now(),
    ended_at      timestamptz,
    bytes         bigint NOT NULL DEFAULT 0,
    fetched_bytes bigint NOT NULL DEFAULT 0
);
CREATE INDEX ON lease (session);

-- Volumes whose references must be counted anew before the catalog is reconciled.
CREATE TABLE recount (volume_no int PRIMARY KEY REFERENCES volume);

-- ---------------------------------------------------------------- the event log

-- Gapless positions in commit order: the row of a topic is locked last in a transaction.
CREATE TABLE log_position (
    topic     text PRIMARY KEY,
    last      bigint NOT NULL DEFAULT 0,
    published bigint NOT NULL DEFAULT 0,
    folded    bigint NOT NULL DEFAULT 0  -- the events up to here are in Kafka's copy alone
);

CREATE TABLE event_log (
    topic          text NOT NULL REFERENCES log_position,
    position       bigint NOT NULL,
    event_id       uuid NOT NULL UNIQUE,
    type           text NOT NULL,
    version        int NOT NULL,
    source         text NOT NULL,
    subject        text NOT NULL,
    tenant         text NOT NULL,
    occurred_at    timestamptz NOT NULL,
    correlation_id uuid,
    causation_id   uuid,
    value          bytea NOT NULL,
    PRIMARY KEY (topic, position)
);

-- What is wrong now, as far as the catalog knows: a row opens and goes with its events
-- (libs/catalogdb/notifications). Nothing is decided by it, so no checkpoint has it.
CREATE TABLE notification (
    kind         text NOT NULL,
    about        text COLLATE "C" NOT NULL,  -- a name that never changes, of one thing of this kind
    tenant       text NOT NULL,              -- '*': who runs the installation
    notification uuid NOT NULL UNIQUE,       -- names it in its events
    severity     text NOT NULL,
    message      text NOT NULL,
    names        jsonb NOT NULL,             -- group, volume, node, store and session, as people call them
    opened_at    timestamptz NOT NULL DEFAULT now(),
    seen_at      timestamptz NOT NULL DEFAULT now(), -- when it was last found so
    PRIMARY KEY (kind, about)
);

-- How often sessions of a tenant ended in which way, and what those read and stored: counters for metrics, which
-- outlive the sessions' rows. Nothing is decided by them, and a rebuilt catalog begins at 0.
CREATE TABLE tally (
    tenant_no     int NOT NULL REFERENCES tenant,
    code          text NOT NULL,             -- 'sealed', or why it was rejected
    sessions      bigint NOT NULL,
    read_bytes    bigint NOT NULL DEFAULT 0,
    changed_bytes bigint NOT NULL DEFAULT 0,
    sent_bytes    bigint NOT NULL DEFAULT 0,
    stored_bytes  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_no, code)
);

-- Count a session that has just ended. Agents choose codes, so a tenant has a few dozen at most, and 'other' counts the
-- rest. Whoever ends several sessions goes by tenant, so that nobody waits for who waits.
CREATE FUNCTION count_ended(ended uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO tally AS t (tenant_no, code, sessions, read_bytes, changed_bytes, sent_bytes, stored_bytes)
    SELECT g.tenant_no,
           CASE WHEN s.state = 's' THEN 'sealed'
                WHEN EXISTS (SELECT FROM tally k WHERE k.tenant_no = g.tenant_no AND k.code = s.reject_code)
                     OR (SELECT count(*) FROM tally k WHERE k.tenant_no = g.tenant_no) < 50 THEN s.reject_code
                ELSE 'other' END, 1,
           coalesce(sum(v.read_bytes), 0), coalesce(sum(v.changed_bytes), 0),
           coalesce(sum(v.sent_bytes), 0), coalesce(sum(v.stored_bytes), 0)
    FROM session s JOIN volume_group g USING (group_no) LEFT JOIN snapshot n USING (session)
    LEFT JOIN part v ON v.session = n.session
    WHERE s.session = ended GROUP BY g.tenant_no, s.session
    ON CONFLICT (tenant_no, code) DO UPDATE SET sessions = t.sessions + 1,
        read_bytes = t.read_bytes + excluded.read_bytes, changed_bytes = t.changed_bytes + excluded.changed_bytes,
        sent_bytes = t.sent_bytes + excluded.sent_bytes, stored_bytes = t.stored_bytes + excluded.stored_bytes
$$;

-- Volumes of its domain's owner that are counted in a pack: some of their names.
CREATE FUNCTION users_of_pack(number int, count_max int) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM (
        SELECT DISTINCT v.name FROM pack_use u JOIN pack p USING (pack_no) JOIN volume v USING (volume_no)
        JOIN tenant t ON t.tenant_no = v.tenant_no AND t.domain_no = p.domain_no
        WHERE u.pack_no = number ORDER BY v.name LIMIT count_max) named
$$;
REVOKE EXECUTE ON FUNCTION users_of_pack FROM PUBLIC;

-- Where chunkers go on reading block-changes after a restart.
CREATE TABLE consumer_position (
    topic       text NOT NULL,
    partition   int NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);

-- Chunkers that run, as they themselves say every few seconds: nothing is decided by it, and no checkpoint has it.
CREATE TABLE chunker (
    chunker    uuid PRIMARY KEY,         -- one run of a process
    name       text NOT NULL,            -- for people; two processes may have one name
    partitions int NOT NULL CHECK (partitions >= 0), -- of block-changes, that it reads
    idle_since timestamptz,              -- since when it reads none
    trouble    text NOT NULL,            -- why it is not ready, without addresses; empty: it is
    seen_at    timestamptz NOT NULL DEFAULT now()
);

-- Forget old events that Kafka has: the next ``limit`` of a topic that happened before a moment. Returns how many; the
-- last position and the first one that is kept stay known.
CREATE FUNCTION fold_events(of_topic text, before timestamptz, count_max int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    up_to bigint;
    folded_count int;
BEGIN
    -- The oldest ones in a row: what a jump of the clock has dated back keeps those after it.
    SELECT max(position) INTO up_to FROM (
        SELECT position, bool_and(occurred_at < before) OVER (ORDER BY position) AS old
        FROM (SELECT position, occurred_at FROM event_log e
              WHERE topic = of_topic
                AND position <= (SELECT published FROM log_position p WHERE p.topic = of_topic)
                -- Replication follows the log of packs: what a store has not seen yet stays.
                AND (of_topic <> 'backcast.packs' OR NOT EXISTS (
                    SELECT FROM store s WHERE s.store_no > 1 AND s.state = 'o'
                                          AND s.position < e.position))
              ORDER BY position LIMIT count_max) oldest) aged WHERE old;
    DELETE FROM event_log WHERE topic = of_topic AND position <= up_to;
    GET DIAGNOSTICS folded_count = ROW_COUNT;
    UPDATE log_position SET folded = greatest(folded, up_to) WHERE topic = of_topic AND up_to IS NOT NULL;
    RETURN folded_count;
END $$;
REVOKE EXECUTE ON FUNCTION fold_events FROM PUBLIC;

-- ---------------------------------------------------------------- who may do what

-- Tokens of people and programs, beside those of the services' token files. They are in no checkpoint, and are good
-- in one incarnation alone: neither a rebuilt catalog nor one that went back in time revives a revoked token.
CREATE TABLE token (
    token_id    uuid PRIMARY KEY,
    name        text NOT NULL,
    sha256      text NOT NULL UNIQUE CHECK (sha256 ~ '^[0-9a-f]{64}$'), -- of the token, which is nowhere
    tenant      text NOT NULL,           -- or '*': all of them
    roles       text[] NOT NULL,
    groups      text[] NOT NULL,         -- of the tenant; none: all of them
    incarnation int NOT NULL,
    added_by    text NOT NULL,
    added_at    timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_by  text,
    revoked_at  timestamptz
);
CREATE UNIQUE INDEX token_name ON token (name) WHERE revoked_at IS NULL;

-- Counts changes of tokens, so that services read them anew only then.
CREATE TABLE token_change (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number   bigint NOT NULL DEFAULT 0
);
INSERT INTO token_change DEFAULT VALUES;

-- Who did what. Each record's digest covers the one before it (docs/formats/audit.md), and no service may change one.
CREATE TABLE audit (
    number  bigint PRIMARY KEY,          -- from 1, without gaps
    at      timestamptz NOT NULL,
    service text NOT NULL,
    token   text NOT NULL,               -- its name
    roles   text[] NOT NULL,
    address text NOT NULL,
    tenant  text NOT NULL,
    method  text NOT NULL,
    route   text NOT NULL,
    target  text NOT NULL,
    status  int NOT NULL,
    digest  bytea NOT NULL CHECK (octet_length(digest) = 32)
);

-- The last record that is in the event log.
CREATE TABLE audit_position (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    number   bigint NOT NULL DEFAULT 0
);
INSERT INTO audit_position DEFAULT VALUES;

-- ---------------------------------------------------------------- what the next checkpoint must say

-- The chain of checkpoints that the next one builds on: a base, then deltas (libs/catalogdb/recovery/changes).
CREATE TABLE checkpoint_link (
    number bigint PRIMARY KEY,
    digest bytea NOT NULL,               -- of its head's object
    rows   bigint NOT NULL
);

-- Kinds and keys of rows of checkpoints that changed since the base of the chain. Rows whose keys are not here, or whose
-- link carries them, are in the chain as they are.
CREATE TABLE checkpoint_change (
    kind       text NOT NULL,
    key        text NOT NULL,
    changed_by xid8 NOT NULL,            -- the last transaction that changed the row
    carried_by bigint,                   -- the link that has the row as it left it; null: none yet
    PRIMARY KEY (kind, key)
);
CREATE INDEX ON checkpoint_change (carried_by);

CREATE FUNCTION note(of_kind text, of_key text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    INSERT INTO checkpoint_change AS c (kind, key, changed_by) VALUES (of_kind, of_key, pg_current_xact_id())
    ON CONFLICT (kind, key) DO UPDATE SET changed_by = excluded.changed_by, carried_by = NULL
    WHERE c.changed_by <> excluded.changed_by OR c.carried_by IS NOT NULL
$$;
REVOKE EXECUTE ON FUNCTION note FROM PUBLIC;

-- For a table with a row of the kind in each row. Arguments: the kind, and the columns of its key.
CREATE FUNCTION note_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
    of_key text := changed ->> TG_ARGV[1];
BEGIN
    FOR n IN 2 .. TG_NARGS - 1 LOOP
        of_key := of_key || '/' || (changed ->> TG_ARGV[n]);
    END LOOP;
    PERFORM note(TG_ARGV[0], of_key);
    RETURN NULL;
END $$;

-- For a table whose rows belong to a row of the kind in another table. Arguments: the kind, that table, the column
-- there that is its key, and the column by which both are joined.
CREATE FUNCTION note_owner_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
    of_key text;
BEGIN
    EXECUTE format('SELECT %I::text FROM %I WHERE %I = $1', TG_ARGV[2], TG_ARGV[1], TG_ARGV[3])
        INTO of_key USING (changed ->> TG_ARGV[3])::int;
    PERFORM note(TG_ARGV[0], of_key);
    RETURN NULL;
END $$;

-- For a table whose rows have two owners, which name the row. Arguments: the kind, and as above those of each owner.
CREATE FUNCTION note_pair_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed jsonb := to_jsonb(CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END);
    first_key text;
    second_key text;
BEGIN
    EXECUTE format('SELECT %I::text FROM %I WHERE %I = $1', TG_ARGV[2], TG_ARGV[1], TG_ARGV[3])
        INTO first_key USING (changed ->> TG_ARGV[3])::int;
    EXECUTE format('SELECT %I::text FROM %I WHERE %I = $1', TG_ARGV[5], TG_ARGV[4], TG_ARGV[6])
        INTO second_key USING (changed ->> TG_ARGV[6])::int;
    PERFORM note(TG_ARGV[0], first_key || '/' || second_key);
    RETURN NULL;
END $$;

CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON domain
    FOR EACH ROW EXECUTE FUNCTION note_change('domain', 'domain');
CREATE TRIGGER noted AFTER INSERT OR UPDATE OF name, domain_no, quota_bytes OR DELETE ON tenant
    FOR EACH ROW EXECUTE FUNCTION note_change('tenant', 'name');
CREATE TRIGGER noted AFTER INSERT OR DELETE ON node
    FOR EACH ROW EXECUTE FUNCTION note_change('node', 'name');
-- Nodes announce themselves again and again, mostly with what is known.
CREATE TRIGGER noted_update AFTER UPDATE ON node FOR EACH ROW
    WHEN ((OLD.rpc_url, OLD.span_address, OLD.boot, OLD.credential, OLD.forgotten_at)
          IS DISTINCT FROM (NEW.rpc_url, NEW.span_address, NEW.boot, NEW.credential, NEW.forgotten_at))
    EXECUTE FUNCTION note_change('node', 'name');
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON volume_group
    FOR EACH ROW EXECUTE FUNCTION note_change('group', 'group_id');
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON retention
    FOR EACH ROW EXECUTE FUNCTION note_owner_change('group', 'volume_group', 'group_id', 'group_no');
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON group_domain
    FOR EACH ROW EXECUTE FUNCTION note_owner_change('group', 'volume_group', 'group_id', 'group_no');
CREATE TRIGGER noted AFTER INSERT OR DELETE ON domain_grant
    FOR EACH ROW EXECUTE FUNCTION note_pair_change(
        'grant', 'domain', 'domain', 'domain_no', 'tenant', 'name', 'tenant_no');
CREATE TRIGGER noted AFTER INSERT OR UPDATE OF group_no, name, moved_after, removed_at OR DELETE ON volume
    FOR EACH ROW EXECUTE FUNCTION note_change('volume3', 'volume_id');
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON source
    FOR EACH ROW EXECUTE FUNCTION note_pair_change(
        'source', 'volume', 'volume_id', 'volume_no', 'node', 'name', 'node_no');
-- `snapshot_volume` needs none: its rows come with their snapshot, and go when that has expired.
CREATE TRIGGER noted AFTER INSERT OR UPDATE OF state, expired_at, recovered, note OR DELETE ON snapshot
    FOR EACH ROW EXECUTE FUNCTION note_change('snapshot', 'session');
CREATE TRIGGER noted AFTER INSERT ON past
    FOR EACH ROW WHEN (NEW.sequence IS NOT NULL) EXECUTE FUNCTION note_change('past', 'session');
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON hold
    FOR EACH ROW EXECUTE FUNCTION note_change('hold', 'session', 'owner');
CREATE TRIGGER noted AFTER INSERT ON session
    FOR EACH ROW WHEN (NEW.state = 'r') EXECUTE FUNCTION note_change('rejected', 'session');
CREATE TRIGGER noted_update AFTER UPDATE OF state ON session
    FOR EACH ROW WHEN ('r' IN (OLD.state, NEW.state)) EXECUTE FUNCTION note_change('rejected', 'session');
CREATE TRIGGER noted_delete AFTER DELETE ON session
    FOR EACH ROW WHEN (OLD.state = 'r') EXECUTE FUNCTION note_change('rejected', 'session');
CREATE TRIGGER noted AFTER INSERT OR DELETE ON tombstone
    FOR EACH ROW EXECUTE FUNCTION note_owner_change('condemned', 'pack', 'generation', 'pack_no');
