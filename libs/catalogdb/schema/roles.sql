-- The roles of the services; they cannot log in themselves (logins are made by create_login). Harmless when applied again.
DO $$
DECLARE role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['backcast_coordinator', 'backcast_chunker', 'backcast_catalog', 'backcast_restore'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END $$;
