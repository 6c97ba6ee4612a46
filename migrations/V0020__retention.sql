-- Retention of an attribute, and what retention took out of the lake.
-- Why: how long history is kept differs within a tenant: positions for months, temperatures for days. What is older is hidden from
--   readers at once and taken out of the lake's files later; what was taken is counted by hour, so that an archive and a
--   reconciliation can tell it from what is missing.
-- Locks: ACCESS EXCLUSIVE on attributes for a moment, for a column that is null everywhere.
-- Runs beside servers of the versions before, which show what is older than an attribute's own retention as long as its tenant's says,
--   and take nothing out of the lake. Update all servers that write the lake before one is put back.

-- Waits behind the transactions of others only so long, because everybody else queues behind the wait.
SET LOCAL lock_timeout = '5s';

ALTER TABLE sheaf.attributes ADD COLUMN retention_micros bigint,
    ADD CONSTRAINT attributes_retention CHECK (retention_micros > 0);
COMMENT ON COLUMN sheaf.attributes.retention_micros IS 'How long the history of the attribute is kept, in microseconds; null is as long as the tenant''s.';

CREATE TABLE sheaf.lake_retentions (
    tenant_id bigint NOT NULL,
    attribute_id bigint NOT NULL,
    removed_before timestamptz NOT NULL,
    CONSTRAINT lake_retentions_pkey PRIMARY KEY (tenant_id, attribute_id)
);
COMMENT ON TABLE sheaf.lake_retentions IS 'Up to where facts may have been taken out of the lake, by attribute. Noted before any is, and only ever later.';
COMMENT ON COLUMN sheaf.lake_retentions.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.lake_retentions.attribute_id IS 'The attribute''s number; 0 for rows of events that name none.';
COMMENT ON COLUMN sheaf.lake_retentions.removed_before IS 'What was observed before this may be gone from the lake, but for the last of each entity.';

CREATE TABLE sheaf.lake_removals (
    tenant_id bigint NOT NULL,
    hour bigint NOT NULL,
    is_late boolean NOT NULL,
    facts bigint NOT NULL DEFAULT 0,
    sum numeric(39, 0) NOT NULL DEFAULT 0,
    hidden_facts bigint NOT NULL DEFAULT 0,
    hidden_sum numeric(39, 0) NOT NULL DEFAULT 0,
    counted_facts bigint NOT NULL DEFAULT 0,
    counted_sum numeric(39, 0) NOT NULL DEFAULT 0,
    counted_hidden_facts bigint NOT NULL DEFAULT 0,
    counted_hidden_sum numeric(39, 0) NOT NULL DEFAULT 0,
    is_counted boolean GENERATED ALWAYS AS (facts = counted_facts AND sum = counted_sum
        AND hidden_facts = counted_hidden_facts AND hidden_sum = counted_hidden_sum) STORED,
    CONSTRAINT lake_removals_pkey PRIMARY KEY (tenant_id, hour, is_late)
);
-- What a reconciliation has yet to take into account.
CREATE INDEX lake_removals_uncounted ON sheaf.lake_removals (tenant_id, hour) WHERE NOT is_counted;
-- Those of a partition.
CREATE INDEX lake_removals_hour ON sheaf.lake_removals (hour);
COMMENT ON TABLE sheaf.lake_removals IS 'How many facts of each hour retention took out of the lake, and the sums of their hashes without what exceeds 128 bits. Written by the commit that takes them out.';
COMMENT ON COLUMN sheaf.lake_removals.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.lake_removals.hour IS 'Whole hours since 1970, of the time that facts are about.';
COMMENT ON COLUMN sheaf.lake_removals.is_late IS 'Whether they arrived after their period was closed: such events stay in PostgreSQL.';
COMMENT ON COLUMN sheaf.lake_removals.facts IS 'How many facts, of both tables.';
COMMENT ON COLUMN sheaf.lake_removals.sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.lake_removals.hidden_facts IS 'Those of them that were in facts_corrected.';
COMMENT ON COLUMN sheaf.lake_removals.hidden_sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.lake_removals.counted_facts IS 'How many of the facts are in reconciled_hours as the lake''s.';
COMMENT ON COLUMN sheaf.lake_removals.counted_sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.lake_removals.counted_hidden_facts IS 'Those of them that were in facts_corrected.';
COMMENT ON COLUMN sheaf.lake_removals.counted_hidden_sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.lake_removals.is_counted IS 'Whether all are.';

DO $policies$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['lake_retentions', 'lake_removals']
    LOOP
        EXECUTE format('ALTER TABLE sheaf.%I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE sheaf.%I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY tenant_only ON sheaf.%I TO sheaf_app
            USING (tenant_id = (SELECT sheaf.current_tenant()))
            WITH CHECK (tenant_id = (SELECT sheaf.current_tenant()))', tenant_table);
        EXECUTE format('CREATE POLICY owner_all ON sheaf.%I TO sheaf_owner USING (true) WITH CHECK (true)', tenant_table);
        EXECUTE format('CREATE POLICY cdc_all ON sheaf.%I TO sheaf_cdc USING (true) WITH CHECK (true)', tenant_table);
    END LOOP;
END
$policies$;

GRANT UPDATE (retention_micros) ON sheaf.attributes TO sheaf_app;
GRANT SELECT, INSERT, UPDATE ON sheaf.lake_retentions, sheaf.lake_removals TO sheaf_cdc;

-- What follows replaces a function of V0018. What is new in it: of a partition that is put back nothing was taken out that it has.
CREATE OR REPLACE FUNCTION sheaf.finish_restore(restored_name text, now_at timestamptz) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET lock_timeout = '2s'
    AS $$
    DECLARE
        archive sheaf.partition_archives;
    BEGIN
        -- Whoever detaches a partition for its archive holds the first: that runs in no transaction.
        PERFORM pg_advisory_xact_lock(24239, -7);
        PERFORM pg_advisory_xact_lock(24239, -1);
        SELECT a.* INTO STRICT archive FROM sheaf.partition_archives a WHERE a.partition_name = restored_name FOR UPDATE;
        IF archive.state = 'restored' THEN
            RETURN false;
        END IF;
        IF archive.state IN ('behind_boundary', 'detached', 'verified', 'dropped') THEN
            IF (SELECT b.archived_before <> archive.upper_bound FROM sheaf.history_boundaries b) IS NOT FALSE THEN
                RAISE EXCEPTION 'partition % is not the newest that is archived', restored_name
                    USING ERRCODE = 'object_not_in_prerequisite_state';
            END IF;
            IF NOT EXISTS (SELECT FROM sheaf.list_attached_partitions() p WHERE p.partition_name = restored_name) THEN
                EXECUTE format('DROP POLICY IF EXISTS tenant_only ON sheaf.%I', restored_name);
                EXECUTE format('DROP POLICY IF EXISTS owner_all ON sheaf.%I', restored_name);
                EXECUTE format('ALTER TABLE sheaf.%I NO FORCE ROW LEVEL SECURITY', restored_name);
                EXECUTE format('ALTER TABLE sheaf.%I DISABLE ROW LEVEL SECURITY', restored_name);
                EXECUTE format('ALTER TABLE sheaf.entity_events ATTACH PARTITION sheaf.%I FOR VALUES FROM (%L) TO (%L)',
                    restored_name, archive.lower_bound, archive.upper_bound);
                EXECUTE format('COMMENT ON TABLE sheaf.%I IS %L', restored_name, 'Events observed in one span of time.');
            END IF;
            UPDATE sheaf.history_boundaries b SET archived_before = (SELECT max(a.upper_bound) FROM sheaf.partition_archives a
                WHERE a.state = 'dropped' AND a.upper_bound <= archive.lower_bound);
        END IF;
        UPDATE sheaf.lake_removals r SET facts = 0, sum = 0, hidden_facts = 0, hidden_sum = 0
            WHERE r.hour >= floor(extract(epoch FROM archive.lower_bound) / 3600)
                AND r.hour < ceil(extract(epoch FROM archive.upper_bound) / 3600) AND NOT r.is_late
                AND archive.state = 'dropped';
        -- It stays closed to writes: what arrives for it is late, as before.
        INSERT INTO sheaf.detached_partitions (partition_name, lower_bound, upper_bound, row_estimate, closed_at)
            VALUES (restored_name, archive.lower_bound, archive.upper_bound, archive.events, archive.closed_at) ON CONFLICT DO NOTHING;
        UPDATE sheaf.partition_archives a SET state = 'restored', restored_at = now_at, waiting_timeline = NULL, waiting_lsn = NULL,
                failure = NULL, failed_at = NULL
            WHERE a.partition_name = restored_name;
        RETURN true;
    END
    $$;
