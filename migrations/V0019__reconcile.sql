-- Reconciliation: what both sides of the change stream were found to hold, so that the next look reads only what changed since.
-- Why: that the lake has every event once is what an archive relies on, and what it does by itself nobody sees. Both sides are
--   counted by hour and tenant, PostgreSQL's up to a snapshot and the lake's file by file, since files never change; what differs is
--   looked at again row by row. What is to be put right is asked of the one writer of the lake.
-- Locks: none that anybody waits for.
-- Runs beside servers of the versions before, which put nothing right.

CREATE TABLE sheaf.reconciled_ranges (
    lower_bound timestamptz NOT NULL,
    upper_bound timestamptz NOT NULL,
    state text NOT NULL,
    snapshot pg_snapshot,
    taken_at timestamptz,
    cutoff timestamptz,
    file_node bigint,
    rows_added bigint,
    rows_changed bigint,
    late_added bigint,
    late_changed bigint,
    read_whole_at timestamptz,
    CONSTRAINT reconciled_ranges_pkey PRIMARY KEY (lower_bound),
    CONSTRAINT reconciled_ranges_bounds CHECK (lower_bound < upper_bound),
    CONSTRAINT reconciled_ranges_state CHECK (state IN ('reading', 'counted')),
    CONSTRAINT reconciled_ranges_counted CHECK (state = 'reading' OR (snapshot IS NOT NULL AND taken_at IS NOT NULL AND cutoff IS NOT NULL
        AND file_node IS NOT NULL AND rows_added IS NOT NULL AND rows_changed IS NOT NULL AND late_added IS NOT NULL AND late_changed IS NOT NULL AND read_whole_at IS NOT NULL))
);
COMMENT ON TABLE sheaf.reconciled_ranges IS 'The partitions of the history as they were last counted, with the late events of their time. What was counted of one that is gone stays.';
COMMENT ON COLUMN sheaf.reconciled_ranges.lower_bound IS 'The first instant of the partition.';
COMMENT ON COLUMN sheaf.reconciled_ranges.upper_bound IS 'The first instant after it.';
COMMENT ON COLUMN sheaf.reconciled_ranges.state IS 'counted; reading: what is in reconciled_hours of its events is not all.';
COMMENT ON COLUMN sheaf.reconciled_ranges.snapshot IS 'Which transactions were counted.';
COMMENT ON COLUMN sheaf.reconciled_ranges.taken_at IS 'When that was taken.';
COMMENT ON COLUMN sheaf.reconciled_ranges.cutoff IS 'Events that were received before this were counted, of those transactions.';
COMMENT ON COLUMN sheaf.reconciled_ranges.file_node IS 'Where the rows were; another one after a truncate or rewrite.';
COMMENT ON COLUMN sheaf.reconciled_ranges.rows_added IS 'How many rows the statistics of the partition said were inserted, before it was counted.';
COMMENT ON COLUMN sheaf.reconciled_ranges.rows_changed IS 'How many rows they said were updated or deleted, which nobody of ours does: then it is read whole.';
COMMENT ON COLUMN sheaf.reconciled_ranges.late_added IS 'The same of rows_added, of all late events.';
COMMENT ON COLUMN sheaf.reconciled_ranges.late_changed IS 'The same of rows_changed, of all late events.';
COMMENT ON COLUMN sheaf.reconciled_ranges.read_whole_at IS 'When it was last read whole.';

CREATE TABLE sheaf.reconciled_hours (
    tenant_id bigint NOT NULL,
    hour bigint NOT NULL,
    events_facts bigint NOT NULL DEFAULT 0,
    events_sum numeric(39, 0) NOT NULL DEFAULT 0,
    events_hidden_facts bigint NOT NULL DEFAULT 0,
    events_hidden_sum numeric(39, 0) NOT NULL DEFAULT 0,
    lake_facts bigint NOT NULL DEFAULT 0,
    lake_sum numeric(39, 0) NOT NULL DEFAULT 0,
    lake_hidden_facts bigint NOT NULL DEFAULT 0,
    lake_hidden_sum numeric(39, 0) NOT NULL DEFAULT 0,
    differs boolean GENERATED ALWAYS AS (events_facts <> lake_facts OR events_sum <> lake_sum
        OR events_hidden_facts <> lake_hidden_facts OR events_hidden_sum <> lake_hidden_sum) STORED,
    CONSTRAINT reconciled_hours_pkey PRIMARY KEY (tenant_id, hour)
);
-- Most hours are equal, and are not looked at one by one.
CREATE INDEX reconciled_hours_differing ON sheaf.reconciled_hours (tenant_id, hour) WHERE differs;
-- Those of a partition are begun anew.
CREATE INDEX reconciled_hours_hour ON sheaf.reconciled_hours (hour);
COMMENT ON TABLE sheaf.reconciled_hours IS 'How many facts each hour of each tenant has on both sides, and the sums of their hashes without what exceeds 128 bits.';
COMMENT ON COLUMN sheaf.reconciled_hours.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.reconciled_hours.hour IS 'Whole hours since 1970, of the time that facts are about.';
COMMENT ON COLUMN sheaf.reconciled_hours.events_facts IS 'Facts of the events in PostgreSQL.';
COMMENT ON COLUMN sheaf.reconciled_hours.events_sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.reconciled_hours.events_hidden_facts IS 'Those of them that later events of their instant hide.';
COMMENT ON COLUMN sheaf.reconciled_hours.events_hidden_sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.reconciled_hours.lake_facts IS 'Facts in the files of the lake that are in reconciled_files, of both tables.';
COMMENT ON COLUMN sheaf.reconciled_hours.lake_sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.reconciled_hours.lake_hidden_facts IS 'Those of them that are in facts_corrected.';
COMMENT ON COLUMN sheaf.reconciled_hours.lake_hidden_sum IS 'The sum of their hashes.';
COMMENT ON COLUMN sheaf.reconciled_hours.differs IS 'Whether the sides differ, by what was counted.';

CREATE TABLE sheaf.reconciled_files (
    location text COLLATE "C" NOT NULL,
    is_corrected boolean NOT NULL,
    tenants bigint[] NOT NULL,
    hours bigint[] NOT NULL,
    facts bigint[] NOT NULL,
    sums numeric(39, 0)[] NOT NULL,
    counted_at timestamptz NOT NULL,
    CONSTRAINT reconciled_files_pkey PRIMARY KEY (location),
    CONSTRAINT reconciled_files_parts CHECK (cardinality(tenants) = cardinality(hours) AND cardinality(tenants) = cardinality(facts)
        AND cardinality(tenants) = cardinality(sums))
);
-- Those that were read the longest ago are read again by and by.
CREATE INDEX reconciled_files_counted_at ON sheaf.reconciled_files (counted_at);
COMMENT ON TABLE sheaf.reconciled_files IS 'The files of the lake''s facts that were counted: each is read once and then taken for what it was, until it is its turn to be read again.';
COMMENT ON COLUMN sheaf.reconciled_files.location IS 'The file.';
COMMENT ON COLUMN sheaf.reconciled_files.is_corrected IS 'Whether it is of facts_corrected.';
COMMENT ON COLUMN sheaf.reconciled_files.tenants IS 'Whose facts are in it: a place for each tenant and hour.';
COMMENT ON COLUMN sheaf.reconciled_files.hours IS 'The hours of those places.';
COMMENT ON COLUMN sheaf.reconciled_files.facts IS 'How many facts those places have.';
COMMENT ON COLUMN sheaf.reconciled_files.sums IS 'The sums of their hashes.';
COMMENT ON COLUMN sheaf.reconciled_files.counted_at IS 'When it was last read.';

CREATE TABLE sheaf.reconcile_runs (
    only_row boolean NOT NULL DEFAULT true,
    ended_at timestamptz,
    outcome text,
    clean_at timestamptz,
    cutoff timestamptz,
    hours_differing bigint NOT NULL DEFAULT 0,
    missing bigint NOT NULL DEFAULT 0,
    extra bigint NOT NULL DEFAULT 0,
    changed bigint NOT NULL DEFAULT 0,
    shown bigint NOT NULL DEFAULT 0,
    hidden bigint NOT NULL DEFAULT 0,
    settled_tables text[],
    runner uuid,
    runs_until timestamptz,
    CONSTRAINT reconcile_runs_pkey PRIMARY KEY (only_row),
    CONSTRAINT reconcile_runs_only_row CHECK (only_row),
    CONSTRAINT reconcile_runs_lease CHECK ((runner IS NULL) = (runs_until IS NULL)),
    CONSTRAINT reconcile_runs_outcome CHECK (outcome IN ('clean', 'different', 'not_compared'))
);
COMMENT ON TABLE sheaf.reconcile_runs IS 'What the last look at both sides came to: one row.';
COMMENT ON COLUMN sheaf.reconcile_runs.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN sheaf.reconcile_runs.ended_at IS 'When it ended; null before the first.';
COMMENT ON COLUMN sheaf.reconcile_runs.outcome IS 'clean, different, or not_compared: the lake had not come as far.';
COMMENT ON COLUMN sheaf.reconcile_runs.clean_at IS 'When both sides were last found equal.';
COMMENT ON COLUMN sheaf.reconcile_runs.cutoff IS 'Events that were received before this were compared.';
COMMENT ON COLUMN sheaf.reconcile_runs.hours_differing IS 'Hours of tenants in which something differs.';
COMMENT ON COLUMN sheaf.reconcile_runs.missing IS 'Facts that the lake lacks.';
COMMENT ON COLUMN sheaf.reconcile_runs.extra IS 'Facts that only the lake has, or has once more.';
COMMENT ON COLUMN sheaf.reconcile_runs.changed IS 'Facts that both have, and not as the same.';
COMMENT ON COLUMN sheaf.reconcile_runs.shown IS 'Facts that count in the lake and that a later event hides.';
COMMENT ON COLUMN sheaf.reconcile_runs.hidden IS 'Facts that are hidden in the lake and that nothing hides.';
COMMENT ON COLUMN sheaf.reconcile_runs.settled_tables IS 'The descriptions of the tables of facts all of whose files are in reconciled_files; null where there are others.';
COMMENT ON COLUMN sheaf.reconcile_runs.runner IS 'Who looks now; null where nobody does.';
COMMENT ON COLUMN sheaf.reconcile_runs.runs_until IS 'Until when nobody else may, unless it is said again.';
INSERT INTO sheaf.reconcile_runs DEFAULT VALUES;

-- Events as the lake has to have them. Its writer takes out of its files what is there of them, and puts in what is here.
CREATE TABLE sheaf.lake_repairs (
    tenant_id bigint NOT NULL,
    entity_id bigint NOT NULL,
    observed_at timestamptz NOT NULL,
    seq smallint NOT NULL,
    catalog_name varchar(255) NOT NULL,
    op "char",
    batch_id uuid,
    ingested_at timestamptz,
    attrs jsonb,
    base_timeline bigint NOT NULL,
    base_lsn pg_lsn NOT NULL,
    asked_at timestamptz NOT NULL,
    CONSTRAINT lake_repairs_pkey PRIMARY KEY (tenant_id, entity_id, observed_at, seq, catalog_name),
    CONSTRAINT lake_repairs_op CHECK (op IN ('p', 'r', 'd', 'c')),
    CONSTRAINT lake_repairs_event CHECK ((op IS NULL) = (batch_id IS NULL) AND (op IS NULL) = (ingested_at IS NULL) AND (op IS NULL) = (attrs IS NULL))
);
-- They are done a day after the other.
CREATE INDEX lake_repairs_days ON sheaf.lake_repairs (catalog_name, observed_at, tenant_id, entity_id, seq);
COMMENT ON TABLE sheaf.lake_repairs IS 'Events that the lake was found to have otherwise than PostgreSQL, until its writer has put them right.';
COMMENT ON COLUMN sheaf.lake_repairs.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.lake_repairs.entity_id IS 'The entity.';
COMMENT ON COLUMN sheaf.lake_repairs.observed_at IS 'The instant that the event is about.';
COMMENT ON COLUMN sheaf.lake_repairs.seq IS 'Its place among the events of that instant.';
COMMENT ON COLUMN sheaf.lake_repairs.catalog_name IS 'The catalogue of the lake''s tables.';
COMMENT ON COLUMN sheaf.lake_repairs.op IS 'As in entity_events; null where there is no such event: the lake has to have none.';
COMMENT ON COLUMN sheaf.lake_repairs.batch_id IS 'The request that brought it.';
COMMENT ON COLUMN sheaf.lake_repairs.ingested_at IS 'When the server received it.';
COMMENT ON COLUMN sheaf.lake_repairs.attrs IS 'Attribute number to value; null is removed.';
COMMENT ON COLUMN sheaf.lake_repairs.base_timeline IS 'The timeline of base_lsn.';
COMMENT ON COLUMN sheaf.lake_repairs.base_lsn IS 'Which lake it is meant for: the position that its snapshot bears. One that began anew needs none of it.';
COMMENT ON COLUMN sheaf.lake_repairs.asked_at IS 'When it was asked for.';

DO $policies$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['reconciled_hours', 'lake_repairs']
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

GRANT SELECT, INSERT, UPDATE ON sheaf.reconciled_ranges, sheaf.reconciled_hours TO sheaf_cdc;
GRANT SELECT, INSERT, UPDATE, DELETE ON sheaf.reconciled_files TO sheaf_cdc;
GRANT SELECT, UPDATE ON sheaf.reconcile_runs TO sheaf_cdc;
GRANT SELECT, INSERT, UPDATE, DELETE ON sheaf.lake_repairs TO sheaf_cdc;
GRANT SELECT ON sheaf.detached_partitions TO sheaf_cdc;
