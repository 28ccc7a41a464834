-- One role per service, with the grants that its functions in libs/catalogdb need and no more.
-- Applied after every migration; harmless when applied again.
REVOKE ALL ON ALL TABLES IN SCHEMA public
    FROM backcast_coordinator, backcast_chunker, backcast_catalog, backcast_restore;
GRANT USAGE ON SCHEMA public
    TO backcast_coordinator, backcast_chunker, backcast_catalog, backcast_restore;
GRANT SELECT, INSERT ON event_log
    TO backcast_coordinator, backcast_chunker, backcast_catalog, backcast_restore;
GRANT SELECT, UPDATE ON log_position
    TO backcast_coordinator, backcast_chunker, backcast_catalog, backcast_restore;
GRANT SELECT, INSERT, UPDATE, DELETE ON notification
    TO backcast_coordinator, backcast_chunker, backcast_catalog, backcast_restore;
GRANT SELECT, INSERT, UPDATE ON tally TO backcast_coordinator, backcast_chunker, backcast_catalog;
GRANT EXECUTE ON FUNCTION users_of_pack TO backcast_chunker, backcast_catalog, backcast_restore;

GRANT SELECT, INSERT ON domain, tenant, volume, source TO backcast_coordinator;
GRANT SELECT, INSERT ON barrier_node TO backcast_coordinator;
GRANT SELECT, INSERT, UPDATE ON node, volume_group, session, part TO backcast_coordinator;
GRANT SELECT, INSERT, UPDATE, DELETE ON invitation TO backcast_coordinator;
GRANT SELECT ON snapshot, snapshot_volume, incarnation, retention TO backcast_coordinator;
GRANT SELECT, UPDATE ON attempt TO backcast_coordinator;
GRANT SELECT, DELETE ON pin, part_use TO backcast_coordinator;
GRANT SELECT ON damage, pack_use TO backcast_coordinator;
GRANT UPDATE (name, group_no, moved_after, removed_at, removed_by) ON volume TO backcast_coordinator;
GRANT UPDATE, DELETE ON source TO backcast_coordinator;
GRANT SELECT, INSERT ON domain_grant, group_domain TO backcast_coordinator;
GRANT SELECT ON domain_tag TO backcast_coordinator, backcast_chunker, backcast_restore;
GRANT EXECUTE ON FUNCTION create_chunk_table TO backcast_coordinator;

GRANT SELECT ON domain, tenant, node, volume, source, incarnation TO backcast_chunker;
GRANT SELECT ON domain_grant TO backcast_chunker;
GRANT SELECT, UPDATE ON volume_group, session, part TO backcast_chunker;
GRANT SELECT, INSERT, UPDATE ON pack, attempt, consumer_position, pack_use TO backcast_chunker;
GRANT SELECT, INSERT, DELETE ON pin, part_use TO backcast_chunker;
GRANT SELECT, INSERT, UPDATE, DELETE ON chunker TO backcast_chunker;
GRANT SELECT, UPDATE ON marking TO backcast_chunker;
GRANT SELECT ON store TO backcast_chunker;
GRANT SELECT, INSERT, UPDATE ON copy TO backcast_chunker;
GRANT SELECT, INSERT ON snapshot, snapshot_volume, candidate TO backcast_chunker;
GRANT SELECT, INSERT, UPDATE ON damage TO backcast_chunker;
GRANT SELECT, INSERT ON leans TO backcast_chunker;
GRANT UPDATE (counted_damage) ON volume TO backcast_chunker;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO backcast_catalog;
GRANT UPDATE ON volume_group, snapshot, pack, pack_use, retention_clock TO backcast_catalog;
GRANT UPDATE (only_row) ON incarnation TO backcast_catalog;
GRANT INSERT, UPDATE, DELETE ON hold, retention, candidate, tombstone, suspect, halt
    TO backcast_catalog;
GRANT DELETE ON pack_use TO backcast_catalog;
GRANT UPDATE ON session, attempt, lease, incarnation TO backcast_catalog;
GRANT INSERT ON pack, lease, pin TO backcast_catalog;
GRANT DELETE ON pin, part_use TO backcast_catalog;
GRANT INSERT, UPDATE, DELETE ON marking TO backcast_catalog;
GRANT INSERT, UPDATE ON sweep TO backcast_catalog;
GRANT INSERT, UPDATE ON store TO backcast_catalog;
GRANT INSERT, UPDATE, DELETE ON copy TO backcast_catalog;
GRANT UPDATE, DELETE ON checkpoint_change TO backcast_catalog;
GRANT INSERT, DELETE ON checkpoint_link TO backcast_catalog;
GRANT EXECUTE ON FUNCTION fold_events TO backcast_catalog;

GRANT INSERT, UPDATE, DELETE ON damage, verification TO backcast_catalog;
GRANT DELETE ON leans TO backcast_catalog;
GRANT UPDATE (counted_damage) ON volume TO backcast_catalog;

-- Reconciling and rebuilding write what the coordinator and the chunkers wrote once.
GRANT INSERT, UPDATE ON domain, tenant, node, volume_group, volume, source, session, snapshot TO backcast_catalog;
GRANT DELETE ON source TO backcast_catalog;
GRANT INSERT, DELETE ON snapshot_volume, pack_use, recount TO backcast_catalog;
GRANT INSERT ON domain_grant, group_domain TO backcast_catalog;
GRANT EXECUTE ON FUNCTION create_chunk_table TO backcast_catalog;

-- Whoever has REST endpoints looks tokens up; the catalog service alone adds and revokes them.
GRANT SELECT ON token, token_change TO backcast_coordinator, backcast_restore;
GRANT INSERT ON token TO backcast_catalog;
GRANT UPDATE (revoked_by, revoked_at) ON token TO backcast_catalog;
GRANT UPDATE ON token_change TO backcast_catalog;
GRANT SELECT, INSERT ON audit TO backcast_coordinator, backcast_catalog, backcast_restore;
GRANT UPDATE ON audit_position TO backcast_catalog;

-- Folding.
GRANT SELECT ON past TO backcast_coordinator, backcast_chunker;
GRANT INSERT ON past TO backcast_catalog;
GRANT DELETE ON session, part, attempt, barrier_node, snapshot, lease TO backcast_catalog;

-- Where the catalog service rebuilds the catalog from the store, to compare both.
CREATE SCHEMA IF NOT EXISTS backcast_check;
GRANT USAGE, CREATE ON SCHEMA backcast_check TO backcast_catalog;

-- Not `part`: its tokens open span connections.
GRANT SELECT ON domain, tenant, node, volume_group, volume, source, incarnation TO backcast_restore;
GRANT SELECT ON barrier_node TO backcast_restore;
GRANT SELECT ON pack, copy, store, snapshot, snapshot_volume TO backcast_restore;
GRANT UPDATE (state, damage) ON copy TO backcast_restore;
GRANT SELECT, INSERT, UPDATE (demanded) ON verification TO backcast_restore;
GRANT SELECT, INSERT, UPDATE ON lease, damage TO backcast_restore;
GRANT SELECT, INSERT, DELETE ON pin TO backcast_restore;

-- SELECT … FOR SHARE or UPDATE needs a privilege of UPDATE. These columns decide nothing: no
-- service that merely locks a snapshot or a pack can let it expire or die.
GRANT UPDATE (consistency) ON snapshot
    TO backcast_coordinator, backcast_chunker, backcast_restore;
GRANT UPDATE (created_at) ON pack TO backcast_restore;
GRANT USAGE ON SEQUENCE damage_number TO backcast_chunker, backcast_catalog, backcast_restore;
GRANT UPDATE (created_at, quota_bytes) ON tenant TO backcast_coordinator;
-- What a domain stores, for quotas.
GRANT SELECT (domain_no, state, size_bytes) ON pack TO backcast_coordinator;
GRANT UPDATE (only_row) ON incarnation TO backcast_coordinator, backcast_chunker;

-- create_chunk_table grants each service its rights on the tables that exist by now.
DO $$
DECLARE number int;
BEGIN
    FOR number IN SELECT domain_no FROM domain LOOP
        PERFORM create_chunk_table(number);
    END LOOP;
END $$;
