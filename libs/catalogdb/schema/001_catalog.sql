-- The catalog, version 1. Only libs/catalogdb writes these tables: one Python function per transaction.
--
-- Rules that the tables serve are in the design's chapter "A snapshot, step by step"; the comments here say
-- which rule needs which row. Numbers (`*_no`) are internal and small because the big tables repeat them;
-- UUIDs are what leaves the catalog.

-- One row. A restored or failed-over catalog gets a new incarnation and must be reconciled with the store.
CREATE TABLE incarnation (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    incarnation uuid NOT NULL DEFAULT gen_random_uuid(),
    reconciled  boolean NOT NULL DEFAULT true
);
INSERT INTO incarnation DEFAULT VALUES;

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
    created_at timestamptz NOT NULL DEFAULT now()
);

-- A host that runs an agent. `boot` changes with every start of the agent process.
CREATE TABLE node (
    node_no      int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    rpc_url      text NOT NULL,
    span_address text NOT NULL,          -- host:port that chunkers dial
    boot         uuid NOT NULL,
    seen_at      timestamptz NOT NULL DEFAULT now()
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
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_no, name)
);

-- volume_no is the number of the volume's lineage.
CREATE TABLE volume (
    volume_no  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    volume_id  uuid NOT NULL UNIQUE,
    tenant_no  int NOT NULL REFERENCES tenant,
    group_no   int NOT NULL REFERENCES volume_group,
    name       text NOT NULL,
    node_no    int NOT NULL REFERENCES node,
    path       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_no, name)
);
CREATE INDEX ON volume (group_no);

-- ---------------------------------------------------------------- packs and what holds them

-- state: 'u' uploading (row exists before its object), 'l' live, 'c' condemned, 'd' dead for ever.
CREATE TABLE pack (
    pack_no    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation uuid NOT NULL UNIQUE,     -- never used twice: dead rows stay
    domain_no  int NOT NULL REFERENCES domain,
    key_id     uuid NOT NULL,
    attempt    uuid NOT NULL,            -- who uploads it; only this attempt may register it
    state      "char" NOT NULL,
    size_bytes bigint NOT NULL DEFAULT 0,
    frames     bytea NOT NULL DEFAULT '',-- frame table, so that readers need no trailer
    moved_to   int REFERENCES pack,      -- set when a rewrite moved its live items
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON pack (attempt) WHERE state = 'u';

-- The claim of an attempt or a reader that a pack must stay.
CREATE TABLE pin (
    owner   uuid NOT NULL,               -- attempt or reader
    pack_no int NOT NULL REFERENCES pack,
    PRIMARY KEY (owner, pack_no)
);
CREATE INDEX ON pin (pack_no);

-- References are kept per pack and lineage, never per chunk. An open row (last_sequence null) counts the
-- addresses of the lineage's head that lie in the pack; a closed one says which snapshots it covers.
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

-- Where each stored chunk and map node lies: one table per domain, chunk_<domain_no>.
-- A 256-bit id is two uuid columns with a B-tree on the first half: 108 bytes a row where a bytea key needs
-- 153 (docs/adr/0006). Two ids that share the first half and differ in the second are refused, never mixed.
CREATE FUNCTION create_chunk_table(number int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
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

-- ---------------------------------------------------------------- sessions: the making of one snapshot

-- state: 'o' open, 's' sealed, 'r' rejected. Terminal rows are kept for ever: a late event must find them.
CREATE TABLE session (
    session        uuid PRIMARY KEY,     -- chosen by the client, so that asking twice is safe
    group_no       int NOT NULL REFERENCES volume_group,
    state          "char" NOT NULL DEFAULT 'o',
    base           uuid,                 -- session of the base snapshot: pinned against expiry while open
    head_sequence  int NOT NULL,         -- the group's head when the session opened
    deadline       timestamptz NOT NULL, -- renewed by progress
    opened_at      timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz,
    reject_code    text,
    reject_message text
);
-- One open session per group: the base is the head or nothing, so two could not both seal.
CREATE UNIQUE INDEX session_open ON session (group_no) WHERE state = 'o';

-- One volume of a session. state: 'w' waiting for its capture, 'c' capturing, 'f' finished.
CREATE TABLE part (
    session         uuid NOT NULL REFERENCES session,
    volume_no       int NOT NULL REFERENCES volume,
    capture         uuid NOT NULL UNIQUE,
    token           bytea NOT NULL,      -- authenticates the capture's events and span connections
    node_no         int NOT NULL REFERENCES node,
    state           "char" NOT NULL DEFAULT 'w',
    boot            uuid,                -- the agent process whose frozen view this is; never mixed
    attempt         uuid,                -- the current one; whatever an older attempt does is refused
    attempt_number  int NOT NULL DEFAULT 0,
    partition       int,                 -- where its capture began in block-changes
    start_offset    bigint,
    base_root       bytea,
    base_level      int NOT NULL DEFAULT 0,
    base_size_bytes bigint NOT NULL DEFAULT 0,
    root            bytea,
    root_level      int NOT NULL DEFAULT 0,
    size_bytes      bigint NOT NULL DEFAULT 0,
    read_bytes      bigint NOT NULL DEFAULT 0,
    changed_bytes   bigint NOT NULL DEFAULT 0,
    sent_bytes      bigint NOT NULL DEFAULT 0,
    stored_bytes    bigint NOT NULL DEFAULT 0,
    consistency     text NOT NULL DEFAULT 'fuzzy',
    PRIMARY KEY (session, volume_no)
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
CREATE INDEX ON attempt (session) WHERE open;

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

-- ---------------------------------------------------------------- snapshots and their readers

-- A sealed recovery point of a group. state: 'l' live, 'x' expired (the stub of sequence and MAC stays).
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
    UNIQUE (group_no, sequence)
);

CREATE TABLE snapshot_volume (
    session       uuid NOT NULL REFERENCES snapshot,
    volume_no     int NOT NULL REFERENCES volume,
    root          bytea,
    root_level    int NOT NULL,
    size_bytes    bigint NOT NULL,
    read_bytes    bigint NOT NULL,
    changed_bytes bigint NOT NULL,
    sent_bytes    bigint NOT NULL,
    stored_bytes  bigint NOT NULL,
    PRIMARY KEY (session, volume_no)
);

-- A restore or another reader: pins the snapshot (this row) and each pack as it resolves it (pin).
CREATE TABLE reader (
    reader        uuid PRIMARY KEY,
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
CREATE INDEX ON reader (session) WHERE state = 'o';

-- ---------------------------------------------------------------- the event log

-- Gapless positions in commit order: the row of a topic is locked last in a transaction.
CREATE TABLE log_position (
    topic     text PRIMARY KEY,
    last      bigint NOT NULL DEFAULT 0,
    published bigint NOT NULL DEFAULT 0
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

-- Where chunkers go on reading block-changes after a restart.
CREATE TABLE consumer_position (
    topic       text NOT NULL,
    partition   int NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);
