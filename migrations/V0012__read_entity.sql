-- One entity by name with its document, and what the server says of itself, as one function.
-- Why: a read by id was a transaction of five statements, each parsed and planned anew, because named statements do not
--   survive a transaction pooler. A function keeps its plans with the connection of the server, whoever the pooler lends it to.
-- Locks: only an object that this file creates. Runs beside servers of the versions before, which do not use it.

-- Runs as its caller: row-level security decides what he sees, for the tenant that he names here instead of in a statement
-- before. The setting ends with the transaction, which is the call.
CREATE FUNCTION sheaf.read_entity(of_tenant bigint, of_type text, of_id text,
        OUT covers text, OUT entity_id bigint, OUT version bigint, OUT newest timestamptz, OUT floor_at timestamptz,
        OUT deleted boolean, OUT updated_at timestamptz, OUT hot_attrs jsonb, OUT cold_attrs jsonb, OUT times jsonb,
        OUT in_recovery boolean, OUT lsn text, OUT timeline text, OUT read_at timestamptz, OUT is_behind boolean,
        OUT started_at timestamptz, OUT system_id bigint, OUT beat_at timestamptz, OUT beat_timeline bigint)
    LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        is_standby CONSTANT boolean := pg_is_in_recovery();
        position pg_lsn;
    BEGIN
        -- How far the server had come before the document was looked for. Only where each statement takes a snapshot of its
        -- own is that so.
        IF current_setting('transaction_isolation') = 'read committed' THEN
            covers := CASE WHEN is_standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END;
        END IF;
        read_at := now();
        PERFORM set_config('sheaf.tenant_id', of_tenant::text, true);
        -- One statement and so one snapshot: a later heartbeat would make the document younger than it is.
        SELECT e.entity_id, d.version, d.newest, d.floor_at, d.deleted, d.updated_at, d.hot_attrs, d.cold_attrs, d.times,
                h.beat_at, h.timeline
            INTO entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs, cold_attrs, times, beat_at, beat_timeline
            FROM (VALUES (is_standby)) one (is_standby)
            LEFT JOIN sheaf.replication_heartbeat h ON one.is_standby AND h.only_row
            LEFT JOIN sheaf.entities e ON e.tenant_id = of_tenant AND e.entity_type = of_type AND e.external_id = of_id
            LEFT JOIN sheaf.entity_jsonb d ON d.tenant_id = of_tenant AND d.entity_id = e.entity_id;
        -- After the snapshot, so that the position covers it, and a server that was promoted meanwhile says so.
        in_recovery := pg_is_in_recovery();
        IF in_recovery THEN
            position := pg_last_wal_replay_lsn();
            -- What is being replayed is seen a moment before the position moves.
            is_behind := pg_last_wal_receive_lsn() > position;
            started_at := pg_postmaster_start_time();
            SELECT c.system_identifier INTO system_id FROM pg_control_system() c;
        ELSE
            position := pg_current_wal_insert_lsn();
            timeline := substr(pg_walfile_name(position), 1, 8);
        END IF;
        lsn := position;
    END
    $$;
COMMENT ON FUNCTION sheaf.read_entity(bigint, text, text) IS 'An entity by name with its document, all of whose columns are null where there is none, and what the server says of itself: how far it had come before (covers) and after (lsn), and on a standby what its age is told by. One row, always.';
REVOKE ALL ON FUNCTION sheaf.read_entity(bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.read_entity(bigint, text, text) TO sheaf_app;
