-- Partitions whose interval follows the rate, partitions that can be taken out and put back, and storage settings that
-- were measured (docs/decisions/0005-storage-settings.md).
-- Why: one interval for every rate makes either indexes that no longer fit in memory or hundreds of partitions.
-- Locks: SHARE UPDATE EXCLUSIVE on the two GIN indexes of entity_jsonb for their settings, which lets readers and writers
--   pass; ACCESS EXCLUSIVE on entity_events with its partitions and on entity_jsonb for the compression of their columns,
--   which changes the catalogue alone, for milliseconds after the transactions before it have ended.
-- Runs beside servers of the version before: they call the two functions that are replaced here by the same names, with
--   the same parameters and columns. To them a closed partition is a missing one; a COPY into it fails and stores nothing.

-- Waits behind the transactions of others only so long, because everybody else queues behind the wait.
SET LOCAL lock_timeout = '5s';

CREATE TABLE sheaf.partition_intervals (
    decision bigint NOT NULL,
    interval_name text NOT NULL,
    reason text NOT NULL,
    rows_per_second double precision,
    index_bytes_per_row double precision,
    memory_bytes bigint,
    decided_at timestamptz,
    CONSTRAINT partition_intervals_pkey PRIMARY KEY (decision),
    CONSTRAINT partition_intervals_interval_name CHECK (interval_name IN ('hour', 'six_hours', 'day', 'week', 'month'))
);
COMMENT ON TABLE sheaf.partition_intervals IS 'How wide new partitions of entity_events are: the last decision counts, those before it say why.';
COMMENT ON COLUMN sheaf.partition_intervals.decision IS 'The decision''s number, one more each time: of two servers that decide at once, one does.';
COMMENT ON COLUMN sheaf.partition_intervals.interval_name IS 'The interval of partitions near now: hour, six_hours, day, week or month.';
COMMENT ON COLUMN sheaf.partition_intervals.reason IS 'Why, for people.';
COMMENT ON COLUMN sheaf.partition_intervals.rows_per_second IS 'The rate that was measured; null for the first decision.';
COMMENT ON COLUMN sheaf.partition_intervals.index_bytes_per_row IS 'What the indexes of a row took; null for the first decision.';
COMMENT ON COLUMN sheaf.partition_intervals.memory_bytes IS 'What the indexes of the newest partition may take; null for the first decision.';
COMMENT ON COLUMN sheaf.partition_intervals.decided_at IS 'When; null for the first decision.';
INSERT INTO sheaf.partition_intervals (decision, interval_name, reason) VALUES (1, 'month', 'nothing was measured yet');

CREATE TABLE sheaf.detached_partitions (
    partition_name text COLLATE "C" NOT NULL,
    lower_bound timestamptz NOT NULL,
    upper_bound timestamptz NOT NULL,
    row_estimate bigint,
    closed_at timestamptz NOT NULL,
    CONSTRAINT detached_partitions_pkey PRIMARY KEY (partition_name),
    CONSTRAINT detached_partitions_bounds CHECK (lower_bound < upper_bound)
);
COMMENT ON TABLE sheaf.detached_partitions IS 'Partitions that were taken out of entity_events, or are on their way out. Their tables hold their rows until somebody drops them.';
COMMENT ON COLUMN sheaf.detached_partitions.partition_name IS 'The table in schema sheaf.';
COMMENT ON COLUMN sheaf.detached_partitions.lower_bound IS 'The first instant that it holds.';
COMMENT ON COLUMN sheaf.detached_partitions.upper_bound IS 'The first instant after it.';
COMMENT ON COLUMN sheaf.detached_partitions.row_estimate IS 'About how many events it holds; null where that was not known.';
COMMENT ON COLUMN sheaf.detached_partitions.closed_at IS 'When it was closed to writes.';

-- Bounds are known as text only, which the session's settings shape; as in list_event_partitions, which this replaces
-- underneath.
CREATE FUNCTION sheaf.list_attached_partitions()
    RETURNS TABLE (partition_name text, lower_bound timestamptz, upper_bound timestamptz, accepts_writes boolean)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
    AS $$
        SELECT c.relname::text,
            (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$FROM \('([^']+)'\)$r$))[1]::timestamptz,
            (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$TO \('([^']+)'\)$r$))[1]::timestamptz,
            has_table_privilege('sheaf_writer', c.oid, 'INSERT') AND NOT i.inhdetachpending
        FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'sheaf.entity_events'::regclass
    $$;
COMMENT ON FUNCTION sheaf.list_attached_partitions() IS 'The partitions of entity_events with their bounds, and whether sheaf_writer may write to them: not while they are taken out.';

CREATE OR REPLACE FUNCTION sheaf.list_event_partitions()
    RETURNS TABLE (partition_name text, lower_bound timestamptz, upper_bound timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
    AS $$
        SELECT p.partition_name, p.lower_bound, p.upper_bound FROM sheaf.list_attached_partitions() p WHERE p.accepts_writes
    $$;
COMMENT ON FUNCTION sheaf.list_event_partitions() IS 'The partitions of entity_events that can be written to, with their bounds, in any session.';
COMMENT ON VIEW sheaf.event_partitions IS 'The partitions of entity_events that can be written to, with their bounds, as the database knows them.';

-- Sizes through one function, which another back-end can answer in its own way.
CREATE FUNCTION sheaf.measure_event_partitions()
    RETURNS TABLE (partition_name text, lower_bound timestamptz, upper_bound timestamptz, accepts_writes boolean,
        row_estimate bigint, heap_bytes bigint, index_bytes bigint, invalid_indexes bigint, vacuumed_at timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT p.partition_name, p.lower_bound, p.upper_bound, p.accepts_writes,
            CASE WHEN pg_relation_size(c.oid) = 0 THEN 0
                ELSE nullif(greatest(c.reltuples::bigint, pg_stat_get_live_tuples(c.oid), 0), 0) END,
            pg_table_size(c.oid), pg_indexes_size(c.oid),
            (SELECT count(*) FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND NOT i.indisvalid),
            greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))
        FROM sheaf.list_attached_partitions() p
        JOIN pg_catalog.pg_class c ON c.relname = p.partition_name AND c.relnamespace = 'sheaf'::regnamespace
    $$;
COMMENT ON FUNCTION sheaf.measure_event_partitions() IS 'The partitions of entity_events with their sizes; rows are an estimate, and null where there is none.';

-- The rate decides as long as there is room for more partitions. How many there may be follows from what a read without
-- bounds and a look for late events cost: each locks a partition and its three indexes, and sixteen at once shall fit in the
-- server's table of locks; that makes 100 with its defaults. More than 400 are not planned in a bearable time, whatever
-- the table holds. Near the bound new ones get wider: an hour only below 64 % of it, six hours below 76 %, a day below 88 %, a
-- week below 96 %, and then months, of which there are few.
CREATE FUNCTION sheaf.new_partition_interval()
    RETURNS TABLE (decided_name text, bounded_name text, attached bigint, attached_max bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT d.interval_name, s.interval_name, b.attached, b.attached_max
        FROM (SELECT i.interval_name FROM sheaf.partition_intervals i ORDER BY i.decision DESC LIMIT 1) d
        CROSS JOIN (
            SELECT (SELECT count(*) FROM sheaf.list_attached_partitions()) AS attached,
                least(400, greatest(100, current_setting('max_locks_per_transaction')::bigint
                    * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)
                    / (4 * 16))) AS attached_max
        ) b
        CROSS JOIN LATERAL (
            SELECT n.interval_name
            FROM (VALUES (1, 'hour', 64), (2, 'six_hours', 76), (3, 'day', 88), (4, 'week', 96), (5, 'month', NULL))
                n (step, interval_name, below_percent)
            WHERE n.step >= array_position(ARRAY['hour', 'six_hours', 'day', 'week', 'month'], d.interval_name)
                AND (n.below_percent IS NULL OR b.attached * 100 < b.attached_max * n.below_percent)
            ORDER BY n.step LIMIT 1
        ) s
    $$;
COMMENT ON FUNCTION sheaf.new_partition_interval() IS 'The interval that was decided, the one that new partitions near now get, which is wider where too many are attached, and how many are and may be.';

-- Near now the interval of new partitions; further away wider ones, because times are sparse there; a year beyond two years.
-- Bounds are whole intervals in UTC, weeks from Monday, clipped by the neighbours. LIKE and ATTACH: CREATE .. PARTITION OF
-- would make readers queue. LIKE copies the compression of the parent's columns, and no other storage setting is needed.
CREATE OR REPLACE FUNCTION sheaf.ensure_event_partition(instant timestamptz)
    RETURNS TABLE (partition_name text, lower_bound timestamptz, upper_bound timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET lock_timeout = '2s'
    AS $$
    DECLARE
        names constant text[] := ARRAY['hour', 'six_hours', 'day', 'week', 'month', 'year'];
        spans constant interval[] := ARRAY['1 hour', '6 hours', '1 day', '7 days', '1 month', '1 year'];
        -- How far from now an instant may be for the interval: at most 16 hours of one, 16 days, and so on.
        reaches constant interval[] := ARRAY['16 hours', '4 days', '16 days', '112 days', '2 years'];
        there record;
        step integer;
        wanted_from timestamptz;
        wanted_to timestamptz;
        new_name text;
        suffix integer := 1;
    BEGIN
        -- One creator at a time over all servers; the second finds what the first has made.
        PERFORM pg_advisory_xact_lock(24239, -1);
        SELECT p.* INTO there FROM sheaf.list_attached_partitions() p
            WHERE p.lower_bound <= instant AND instant < p.upper_bound;
        IF FOUND AND NOT there.accepts_writes THEN
            RAISE EXCEPTION 'partition % is closed to writes', there.partition_name
                USING ERRCODE = 'lock_not_available',
                HINT = 'It is being detached, or sheaf_writer was not granted INSERT on it; sheaf partition attach opens it.';
        END IF;
        IF FOUND THEN
            RETURN QUERY SELECT there.partition_name, there.lower_bound, there.upper_bound;
            RETURN;
        END IF;
        SELECT array_position(names, n.bounded_name) INTO step FROM sheaf.new_partition_interval() n;
        WHILE step < 6 AND instant NOT BETWEEN now() - reaches[step] AND now() + reaches[step] LOOP
            step := step + 1;
        END LOOP;
        wanted_from := CASE WHEN names[step] IN ('week', 'month', 'year') THEN date_trunc(names[step], instant)
            ELSE date_bin(spans[step], instant, '2000-01-01T00:00:00Z') END;
        wanted_to := wanted_from + spans[step];
        SELECT greatest(wanted_from, max(p.upper_bound)) INTO wanted_from
            FROM sheaf.list_attached_partitions() p WHERE p.upper_bound <= instant;
        SELECT least(wanted_to, min(p.lower_bound)) INTO wanted_to
            FROM sheaf.list_attached_partitions() p WHERE p.lower_bound > instant;
        -- A day is 20240505, six o'clock of it 20240505t06; a bound that was made by hand may have seconds.
        SELECT 'entity_events_' || string_agg(to_char(bound, CASE WHEN bound = date_trunc('day', bound) THEN 'YYYYMMDD'
                WHEN bound = date_trunc('hour', bound) THEN 'YYYYMMDD"t"HH24' ELSE 'YYYYMMDD"t"HH24MISSUS' END), '_' ORDER BY bound)
            INTO new_name FROM unnest(ARRAY[wanted_from, wanted_to]) bound;
        -- A partition of these bounds that was taken out keeps its name.
        WHILE to_regclass(format('sheaf.%I', new_name)) IS NOT NULL LOOP
            suffix := suffix + 1;
            new_name := regexp_replace(new_name, '(_n\d+)?$', '_n' || suffix);
        END LOOP;
        EXECUTE format('CREATE TABLE sheaf.%I (LIKE sheaf.entity_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING COMPRESSION)', new_name);
        EXECUTE format('COMMENT ON TABLE sheaf.%I IS %L', new_name, 'Events observed in one span of time.');
        EXECUTE format('ALTER TABLE sheaf.entity_events ATTACH PARTITION sheaf.%I FOR VALUES FROM (%L) TO (%L)', new_name, wanted_from, wanted_to);
        EXECUTE format('GRANT INSERT ON sheaf.%I TO sheaf_writer', new_name);
        RETURN QUERY SELECT new_name, wanted_from, wanted_to;
    END
    $$;
COMMENT ON FUNCTION sheaf.ensure_event_partition(timestamptz) IS 'The partition of entity_events that holds an instant, made where it is missing.';

-- A partition is taken out in three steps, since DETACH .. CONCURRENTLY runs in no function: closed, so that whoever
-- remembers it is refused and does not write into a table that history no longer reads; detached, which waits for
-- everybody who wrote; kept. Each step can be run again.
CREATE FUNCTION sheaf.close_event_partition(closed_name text, new_closed_at timestamptz) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
    AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(24239, -1);
        INSERT INTO sheaf.detached_partitions (partition_name, lower_bound, upper_bound, row_estimate, closed_at)
            SELECT p.partition_name, p.lower_bound, p.upper_bound, p.row_estimate, new_closed_at
            FROM sheaf.measure_event_partitions() p WHERE p.partition_name = closed_name
            ON CONFLICT DO NOTHING;
        EXECUTE format('REVOKE INSERT ON sheaf.%I FROM sheaf_writer', closed_name);
    END
    $$;
COMMENT ON FUNCTION sheaf.close_event_partition(text, timestamptz) IS 'Closes a partition to writes, before it is detached.';

-- Detached it is a table like others, and guarded like them.
CREATE FUNCTION sheaf.guard_detached_partition(detached_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
    AS $$
    DECLARE
        described record;
    BEGIN
        EXECUTE format('ALTER TABLE sheaf.%I ENABLE ROW LEVEL SECURITY', detached_name);
        EXECUTE format('ALTER TABLE sheaf.%I FORCE ROW LEVEL SECURITY', detached_name);
        EXECUTE format('DROP POLICY IF EXISTS tenant_only ON sheaf.%I', detached_name);
        EXECUTE format('DROP POLICY IF EXISTS owner_all ON sheaf.%I', detached_name);
        EXECUTE format('CREATE POLICY tenant_only ON sheaf.%I TO sheaf_app
            USING (tenant_id = (SELECT sheaf.current_tenant()))
            WITH CHECK (tenant_id = (SELECT sheaf.current_tenant()))', detached_name);
        EXECUTE format('CREATE POLICY owner_all ON sheaf.%I TO sheaf_owner USING (true) WITH CHECK (true)', detached_name);
        EXECUTE format('COMMENT ON TABLE sheaf.%I IS %L', detached_name, 'Events that were taken out of the history.');
        FOR described IN SELECT a.attname, col_description(a.attrelid, a.attnum) AS said FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = 'sheaf.entity_events'::regclass AND a.attnum > 0 AND NOT a.attisdropped
        LOOP
            EXECUTE format('COMMENT ON COLUMN sheaf.%I.%I IS %L', detached_name, described.attname, described.said);
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION sheaf.guard_detached_partition(text) IS 'Gives a detached partition the policies and comments of a table of its own.';

CREATE FUNCTION sheaf.attach_event_partition(attached_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET lock_timeout = '2s'
    AS $$
    DECLARE
        kept record;
    BEGIN
        PERFORM pg_advisory_xact_lock(24239, -1);
        -- Closed and not detached: it is opened again.
        IF NOT EXISTS (SELECT FROM sheaf.list_attached_partitions() p WHERE p.partition_name = attached_name) THEN
            SELECT d.* INTO STRICT kept FROM sheaf.detached_partitions d WHERE d.partition_name = attached_name;
            EXECUTE format('DROP POLICY IF EXISTS tenant_only ON sheaf.%I', attached_name);
            EXECUTE format('DROP POLICY IF EXISTS owner_all ON sheaf.%I', attached_name);
            EXECUTE format('ALTER TABLE sheaf.%I NO FORCE ROW LEVEL SECURITY', attached_name);
            EXECUTE format('ALTER TABLE sheaf.%I DISABLE ROW LEVEL SECURITY', attached_name);
            EXECUTE format('ALTER TABLE sheaf.entity_events ATTACH PARTITION sheaf.%I FOR VALUES FROM (%L) TO (%L)',
                attached_name, kept.lower_bound, kept.upper_bound);
            EXECUTE format('COMMENT ON TABLE sheaf.%I IS %L', attached_name, 'Events observed in one span of time.');
        END IF;
        EXECUTE format('GRANT INSERT ON sheaf.%I TO sheaf_writer', attached_name);
        DELETE FROM sheaf.detached_partitions d WHERE d.partition_name = attached_name;
    END
    $$;
COMMENT ON FUNCTION sheaf.attach_event_partition(text) IS 'Puts a partition back into the history and opens it to writes.';

-- Writing wide events takes half, and merging wide documents seven tenths of the processor time; a server that was built
-- without lz4 goes on as it did.
DO $compression$
DECLARE
    history regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        RETURN;
    END IF;
    ALTER TABLE sheaf.entity_jsonb ALTER COLUMN hot_attrs SET COMPRESSION lz4, ALTER COLUMN cold_attrs SET COMPRESSION lz4,
        ALTER COLUMN times SET COMPRESSION lz4;
    FOR history IN SELECT t.relid FROM pg_catalog.pg_partition_tree('sheaf.entity_events') t LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN attrs SET COMPRESSION lz4', history);
    END LOOP;
END
$compression$;

-- Filters read the whole pending list of an index. At the server's 4 MB they took twice as long as without one; at 256 kB a
-- tenth more, while merges kept most of what the list saves them.
ALTER INDEX sheaf.entity_jsonb_hot_attrs SET (gin_pending_list_limit = 256);
ALTER INDEX sheaf.entity_jsonb_present SET (gin_pending_list_limit = 256);

REVOKE ALL ON FUNCTION sheaf.list_attached_partitions(), sheaf.measure_event_partitions(), sheaf.new_partition_interval(),
    sheaf.close_event_partition(text, timestamptz), sheaf.guard_detached_partition(text), sheaf.attach_event_partition(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.list_attached_partitions() TO sheaf_app, sheaf_writer;
