-- Measures the storage settings that docs/decisions/0005-storage-settings.md chooses between. Needs a superuser and an
-- empty database of its own; makes and drops the schema measure. Variants take turns, so that other load meets all of them
-- alike; figures are medians over the turns. One section takes under a minute:
--   psql -v section=events|ranges|fillfactor|autovacuum|pending|compression|freezing -f scripts/measure_storage.sql
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS measure CASCADE;
CREATE SCHEMA measure;
SET search_path = measure, pg_catalog;
SET jit = off;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE result (variant text, turn int, figure text, value numeric);

CREATE PROCEDURE tell(told_variant text, told_turn int, told_figure text, told_value numeric) LANGUAGE sql
    AS $$ INSERT INTO measure.result VALUES (told_variant, told_turn, told_figure, told_value) $$;
CREATE FUNCTION ms_since(begun timestamptz) RETURNS numeric LANGUAGE sql VOLATILE
    AS $$ SELECT round((1000 * extract(epoch FROM clock_timestamp() - begun))::numeric, 2) $$;

-- Processor time of this connection's server process, which other load disturbs less; in steps of 10 ms.
CREATE FUNCTION cpu_ms() RETURNS numeric LANGUAGE sql VOLATILE AS $$
    SELECT 10 * (f[1]::numeric + f[2]::numeric) FROM regexp_match(pg_read_file('/proc/self/stat'), '\) (?:\S+ ){11}(\d+) (\d+)') f $$;

-- Milliseconds and 8 kB buffers of one query.
CREATE FUNCTION cost_of(query text, OUT ms numeric, OUT buffers numeric) LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING off, FORMAT json) ' || query INTO plan;
    ms := (plan -> 0 ->> 'Execution Time')::numeric;
    buffers := (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::numeric + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::numeric;
END $$;

-- Events as lanes write them: groups of 5,000 sorted by tenant, entity and time; 10 tenants, 400 entities each, one event
-- of ten values an entity every 10 s, the whole of it one minute a group and more.
CREATE PROCEDURE run_events(turns int, groups int) LANGUAGE plpgsql AS $$
DECLARE
    variant text; turn int; begun timestamptz; wal pg_lsn; cost record; definition text;
    heap text := '(tenant_id bigint NOT NULL, entity_id bigint NOT NULL, observed_at timestamptz NOT NULL, seq smallint NOT NULL,
        op "char" NOT NULL, batch_id uuid NOT NULL, ingested_at timestamptz NOT NULL, attrs jsonb NOT NULL)';
    entity_first text := 'PRIMARY KEY (tenant_id, entity_id, observed_at, seq)';
BEGIN
    FOR turn IN 1..turns LOOP
        FOREACH variant IN ARRAY ARRAY['entity first, brin 128', 'time first, brin 128', 'entity first, brin 8', 'entity first, brin 32',
            'entity first, no brin', 'entity first, fillfactor 90'] LOOP
            DROP TABLE IF EXISTS measure.events;
            definition := 'CREATE TABLE measure.events ' || heap || CASE WHEN variant LIKE '%fillfactor 90' THEN ' WITH (fillfactor = 90)' ELSE '' END;
            EXECUTE definition;
            EXECUTE 'ALTER TABLE measure.events ADD ' || CASE WHEN variant LIKE 'time first%'
                THEN 'PRIMARY KEY (tenant_id, observed_at, entity_id, seq)' ELSE entity_first END;
            IF variant NOT LIKE '%no brin' THEN
                EXECUTE format('CREATE INDEX ON measure.events USING brin (observed_at) WITH (pages_per_range = %s)',
                    coalesce(substring(variant FROM 'brin (\d+)'), '128'));
                EXECUTE format('CREATE INDEX ON measure.events USING brin (ingested_at) WITH (pages_per_range = %s)',
                    coalesce(substring(variant FROM 'brin (\d+)'), '128'));
            END IF;
            COMMIT;
            begun := clock_timestamp(); wal := pg_current_wal_insert_lsn();
            FOR g IN 0..groups - 1 LOOP
                INSERT INTO measure.events
                SELECT e % 10 + 1, e, timestamptz '2024-05-05Z' + (g * 5000 + n) / 4000 * interval '10 s', 0, 'p',
                    '00000000-0000-0000-0000-000000000001', timestamptz '2024-05-05Z' + g * interval '12.5 s',
                    '{"101":21.5,"102":1013.25,"103":0.42,"104":230.1,"105":4.75,"106":12.5,"107":99.1,"108":3.14,"109":2.71,"110":1.41}'
                FROM (SELECT n, (g * 5000 + n) % 4000 AS e FROM generate_series(0, 4999) n ORDER BY (g * 5000 + n) % 4000 % 10, 2, n) s;
                COMMIT;
            END LOOP;
            CALL measure.tell(variant, turn, '1 write ms', measure.ms_since(begun));
            CALL measure.tell(variant, turn, '2 wal MB', round((pg_current_wal_insert_lsn() - wal) / 1e6, 1));
            CALL measure.tell(variant, turn, '3 heap MB', round(pg_table_size('measure.events') / 1e6, 1));
            CALL measure.tell(variant, turn, '4 index MB', round(pg_indexes_size('measure.events') / 1e6, 1));
            COMMIT;
            ANALYZE measure.events;
            -- Warm, the second of two.
            FOR again IN 1..2 LOOP
                cost := measure.cost_of('SELECT * FROM measure.events WHERE tenant_id = 5 AND entity_id = 1234
                    AND observed_at >= ''2024-05-05 00:02Z'' AND observed_at < ''2024-05-05 00:07Z'' ORDER BY observed_at, seq');
            END LOOP;
            CALL measure.tell(variant, turn, '5 one entity, 30 rows: ms', cost.ms);
            CALL measure.tell(variant, turn, '5 one entity, 30 rows: buffers', cost.buffers);
            FOR again IN 1..2 LOOP
                cost := measure.cost_of('SELECT avg((attrs ->> ''101'')::float8) FROM measure.events WHERE tenant_id = 5
                    AND observed_at >= ''2024-05-05 00:04Z'' AND observed_at < ''2024-05-05 00:05Z''');
            END LOOP;
            CALL measure.tell(variant, turn, '6 one tenant, a minute: ms', cost.ms);
            CALL measure.tell(variant, turn, '6 one tenant, a minute: buffers', cost.buffers);
            COMMIT;
        END LOOP;
    END LOOP;
END $$;

-- One tenant's range of time in a partition of many: ten times the rows, BRIN made anew for each variant.
CREATE PROCEDURE run_ranges(turns int, groups int) LANGUAGE plpgsql AS $$
DECLARE variant text; turn int; cost record; span text;
BEGIN
    CREATE TABLE measure.events (tenant_id bigint NOT NULL, entity_id bigint NOT NULL, observed_at timestamptz NOT NULL, seq smallint NOT NULL,
        op "char" NOT NULL, batch_id uuid NOT NULL, ingested_at timestamptz NOT NULL, attrs jsonb NOT NULL);
    INSERT INTO measure.events
    SELECT e % 10 + 1, e, timestamptz '2024-05-05Z' + i / 4000 * interval '10 s', 0, 'p', '00000000-0000-0000-0000-000000000001',
        timestamptz '2024-05-05Z' + g * interval '12.5 s', '{"101":21.5,"102":1013.25,"103":0.42,"104":230.1}'
    FROM generate_series(0, groups - 1) g, LATERAL (SELECT g * 5000 + n AS i, (g * 5000 + n) % 4000 AS e FROM generate_series(0, 4999) n
        ORDER BY (g * 5000 + n) % 4000 % 10, 2, n) s;
    COMMIT;
    ALTER TABLE measure.events ADD PRIMARY KEY (tenant_id, entity_id, observed_at, seq);
    COMMIT;
    ANALYZE measure.events;
    COMMIT;
    FOR turn IN 1..turns LOOP
        FOREACH variant IN ARRAY ARRAY['no brin', 'brin 128', 'brin 32', 'brin 8'] LOOP
            DROP INDEX IF EXISTS measure.events_brin;
            IF variant <> 'no brin' THEN
                EXECUTE format('CREATE INDEX events_brin ON measure.events USING brin (observed_at) WITH (pages_per_range = %s)', substring(variant FROM '\d+'));
            END IF;
            COMMIT;
            FOREACH span IN ARRAY ARRAY['1 minute', '10 minutes'] LOOP
                FOR again IN 1..2 LOOP
                    cost := measure.cost_of(format('SELECT avg((attrs ->> ''101'')::float8) FROM measure.events WHERE tenant_id = 5
                        AND observed_at >= ''2024-05-05 01:00Z'' AND observed_at < timestamptz ''2024-05-05 01:00Z'' + interval %L', span));
                END LOOP;
                CALL measure.tell(variant, turn, 'one tenant, ' || span || ': ms', cost.ms);
                CALL measure.tell(variant, turn, 'one tenant, ' || span || ': buffers', cost.buffers);
                FOR again IN 1..2 LOOP
                    cost := measure.cost_of(format('SELECT count(*) FROM measure.events
                        WHERE observed_at >= ''2024-05-05 01:00Z'' AND observed_at < timestamptz ''2024-05-05 01:00Z'' + interval %L', span));
                END LOOP;
                CALL measure.tell(variant, turn, 'all tenants, ' || span || ': ms', cost.ms);
                CALL measure.tell(variant, turn, 'all tenants, ' || span || ': buffers', cost.buffers);
            END LOOP;
            IF variant <> 'no brin' THEN
                CALL measure.tell(variant, turn, 'one brin: kB', pg_relation_size('measure.events_brin') / 1000);
            END IF;
            COMMIT;
        END LOOP;
    END LOOP;
END $$;

-- Documents: ten cold values and two hot ones, or wide.
CREATE PROCEDURE make_documents(options text, documents int, attributes int) LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS measure.documents;
    EXECUTE 'CREATE TABLE measure.documents (tenant_id bigint NOT NULL, entity_id bigint NOT NULL, version bigint NOT NULL,
        newest timestamptz NOT NULL, hot_attrs jsonb NOT NULL, cold_attrs jsonb NOT NULL, present bigint[] NOT NULL, times jsonb NOT NULL,
        PRIMARY KEY (tenant_id, entity_id)) WITH (' || options || ')';
    INSERT INTO measure.documents
    SELECT 1, e, 1, '2024-05-05Z', jsonb_build_object('1', 'model' || e % 500, '2', e % 7),
        (SELECT jsonb_object_agg(a::text, round((a * e % 100000) / 7.0, 3)) FROM generate_series(101, 100 + attributes) a),
        array[1, 2] || array(SELECT a::bigint FROM generate_series(101, 100 + attributes) a), '{}'
    FROM generate_series(1, documents) e;
    CREATE INDEX documents_hot ON measure.documents USING gin (hot_attrs jsonb_path_ops);
    CREATE INDEX documents_present ON measure.documents USING gin (present);
    COMMIT;
END $$;

-- One merge of as many documents as given, chosen by chance as far as the seed goes: one cold value each, or a hot one.
CREATE PROCEDURE merge_documents(documents int, step int, chosen int, is_hot boolean) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE measure.documents d SET version = version + 1, newest = newest + interval '1 s',
        cold_attrs = CASE WHEN is_hot THEN cold_attrs ELSE cold_attrs || jsonb_build_object('105', step + 0.5) END,
        hot_attrs = CASE WHEN is_hot THEN hot_attrs || jsonb_build_object('1', 'model' || (d.entity_id * 31 + step * 7) % 500) ELSE hot_attrs END
    FROM (SELECT DISTINCT (hashint8(n::bigint * 1000003 + step) & 2147483647) % documents + 1 AS entity_id FROM generate_series(1, chosen) n) c
    WHERE d.tenant_id = 1 AND d.entity_id = c.entity_id;
END $$;

CREATE FUNCTION hot_share() RETURNS numeric LANGUAGE sql AS $$
    SELECT round(100.0 * pg_stat_get_tuples_hot_updated(oid) / nullif(pg_stat_get_tuples_updated(oid), 0), 1)
    FROM pg_class WHERE oid = to_regclass('measure.documents') $$;

-- What autovacuum and the counters see is told by top-level statements alone, so that these are generated and not a loop.
CREATE TABLE run (begun timestamptz, wal pg_lsn, heap_bytes bigint);
CREATE PROCEDURE begin_run(options text, documents int, attributes int) LANGUAGE plpgsql AS $$
BEGIN
    CALL measure.make_documents(options, documents, attributes);
    TRUNCATE measure.run;
    INSERT INTO measure.run VALUES (clock_timestamp(), pg_current_wal_insert_lsn(), pg_table_size('measure.documents'));
    COMMIT;
END $$;
CREATE PROCEDURE end_run(variant text, turn int) LANGUAGE sql AS $$
    INSERT INTO measure.result
    SELECT variant, turn, f.figure, f.value
    FROM measure.run r CROSS JOIN LATERAL (VALUES
        ('1 merge ms', measure.ms_since(r.begun)),
        ('2 wal MB', round((pg_current_wal_insert_lsn() - r.wal) / 1e6, 1)),
        ('3 HOT %', measure.hot_share()),
        ('4 heap MB before', round(r.heap_bytes / 1e6, 1)),
        ('5 heap MB after', round(pg_table_size(to_regclass('measure.documents')) / 1e6, 1)),
        ('6 index MB after', round(pg_indexes_size(to_regclass('measure.documents')) / 1e6, 1)),
        ('7 vacuums', pg_stat_get_autovacuum_count(to_regclass('measure.documents')))) AS f (figure, value)
$$;
CREATE FUNCTION statements(variants text[], turns int, steps int, documents int, chosen int, hot_every int)
    RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s.statement
    FROM generate_series(1, turns) turn, unnest(variants) WITH ORDINALITY v (variant, place), LATERAL (
        SELECT 0 AS step, format('CALL measure.begin_run(%L, %s, 10)', variant, documents) AS statement
        UNION ALL
        SELECT step, format('CALL measure.merge_documents(%s, %s, %s, %L)', documents, step, chosen, hot_every > 0 AND step % greatest(hot_every, 1) = 0)
        FROM generate_series(1, steps) step
        UNION ALL SELECT steps + 1, 'DO $d$ BEGIN PERFORM pg_stat_force_next_flush(); END $d$'
        UNION ALL SELECT steps + 2, format('CALL measure.end_run(%L, %s)', variant, turn)) s
    ORDER BY turn, place, s.step
$$;

-- Hot values that change, and a filter asked between merges.
CREATE PROCEDURE run_pending(turns int, steps int, documents int, chosen int) LANGUAGE plpgsql AS $$
DECLARE variant text; turn int; begun timestamptz; merged numeric; asked numeric; worst numeric; worst_merge numeric; one numeric; found bigint;
BEGIN
    FOR turn IN 1..turns LOOP
        FOREACH variant IN ARRAY ARRAY['fastupdate on, 4 MB', 'fastupdate off', 'fastupdate on, 256 kB', 'fastupdate on, 1 MB'] LOOP
            CALL measure.make_documents('fillfactor = 70, autovacuum_enabled = on', documents, 10);
            EXECUTE 'ALTER INDEX measure.documents_hot SET ' || CASE variant WHEN 'fastupdate off' THEN '(fastupdate = off)'
                WHEN 'fastupdate on, 256 kB' THEN '(gin_pending_list_limit = 256)'
                WHEN 'fastupdate on, 1 MB' THEN '(gin_pending_list_limit = 1024)' ELSE '(gin_pending_list_limit = 4096)' END;
            EXECUTE 'ALTER INDEX measure.documents_present SET ' || CASE variant WHEN 'fastupdate off' THEN '(fastupdate = off)'
                WHEN 'fastupdate on, 256 kB' THEN '(gin_pending_list_limit = 256)'
                WHEN 'fastupdate on, 1 MB' THEN '(gin_pending_list_limit = 1024)' ELSE '(gin_pending_list_limit = 4096)' END;
            COMMIT;
            merged := 0; asked := 0; worst := 0; worst_merge := 0;
            FOR step IN 1..steps LOOP
                begun := clock_timestamp();
                CALL measure.merge_documents(documents, step, chosen, true);
                COMMIT;
                one := measure.ms_since(begun); merged := merged + one; worst_merge := greatest(worst_merge, one);
                begun := clock_timestamp();
                EXECUTE format('SELECT count(*) FROM measure.documents WHERE hot_attrs @> ''{"1":"model%s"}''', step % 500) INTO found;
                one := measure.ms_since(begun); asked := asked + one; worst := greatest(worst, one);
                COMMIT;
            END LOOP;
            CALL measure.tell(variant, turn, '1 merges ms', merged);
            CALL measure.tell(variant, turn, '2 slowest merge ms', worst_merge);
            CALL measure.tell(variant, turn, '3 filter ms, mean', round(asked / steps, 3));
            CALL measure.tell(variant, turn, '4 filter ms, worst', worst);
            CALL measure.tell(variant, turn, '5 index MB after', round(pg_indexes_size('measure.documents') / 1e6, 1));
            COMMIT;
        END LOOP;
    END LOOP;
END $$;

-- Wide rows under pglz and lz4: events of 150 values, and documents of 150 attributes with one value changed.
CREATE PROCEDURE run_compression(turns int, attributes int) LANGUAGE plpgsql AS $$
DECLARE variant text; turn int; begun timestamptz; wal pg_lsn; cpu numeric;
BEGIN
    FOR turn IN 1..turns LOOP
        FOREACH variant IN ARRAY ARRAY['pglz', 'lz4'] LOOP
            EXECUTE format('SET default_toast_compression = %s', variant);
            DROP TABLE IF EXISTS measure.events;
            CREATE TABLE measure.events (entity_id bigint NOT NULL, observed_at timestamptz NOT NULL, attrs jsonb NOT NULL,
                PRIMARY KEY (entity_id, observed_at));
            COMMIT;
            DROP TABLE IF EXISTS measure.source;
            CREATE UNLOGGED TABLE measure.source AS SELECT e, (SELECT jsonb_object_agg(a::text, round((a::bigint * e * 7919 % 100000) / 7.0, 3))
                FROM generate_series(101, 100 + attributes) a)::text AS attrs FROM generate_series(1, 5000) e;
            COMMIT;
            begun := clock_timestamp(); wal := pg_current_wal_insert_lsn(); cpu := measure.cpu_ms();
            INSERT INTO measure.events SELECT e, '2024-05-05Z', attrs::jsonb FROM measure.source;
            COMMIT;
            CALL measure.tell(variant, turn, '1 events: write cpu ms', measure.cpu_ms() - cpu);
            CALL measure.tell(variant, turn, '1 events: write ms', measure.ms_since(begun));
            CALL measure.tell(variant, turn, '2 events: wal MB', round((pg_current_wal_insert_lsn() - wal) / 1e6, 1));
            CALL measure.tell(variant, turn, '3 events: MB', round(pg_total_relation_size('measure.events') / 1e6, 1));
            begun := clock_timestamp();
            PERFORM sum((attrs ->> '140')::float8) FROM measure.events;
            CALL measure.tell(variant, turn, '4 events: read one value ms', measure.ms_since(begun));
            CALL measure.make_documents('fillfactor = 70', 5000, attributes);
            begun := clock_timestamp(); wal := pg_current_wal_insert_lsn(); cpu := measure.cpu_ms();
            FOR step IN 1..20 LOOP
                CALL measure.merge_documents(5000, step, 1000, false);
                COMMIT;
            END LOOP;
            CALL measure.tell(variant, turn, '5 documents: merge cpu ms', measure.cpu_ms() - cpu);
            CALL measure.tell(variant, turn, '5 documents: merge ms', measure.ms_since(begun));
            CALL measure.tell(variant, turn, '6 documents: wal MB', round((pg_current_wal_insert_lsn() - wal) / 1e6, 1));
            CALL measure.tell(variant, turn, '7 documents: MB', round(pg_table_size('measure.documents') / 1e6, 1));
            COMMIT;
        END LOOP;
    END LOOP;
END $$;

SELECT :'section' = 'events' AS is_events, :'section' = 'ranges' AS is_ranges, :'section' = 'fillfactor' AS is_fillfactor, :'section' = 'autovacuum' AS is_autovacuum,
    :'section' = 'pending' AS is_pending, :'section' = 'compression' AS is_compression,
    :'section' = 'freezing' AS is_freezing \gset
\if :is_events
    CALL run_events(3, 60);
\endif
\if :is_ranges
    CALL run_ranges(3, 500);
\endif
\if :is_fillfactor
    SELECT statements(ARRAY['fillfactor = 70', 'fillfactor = 60', 'fillfactor = 80', 'fillfactor = 90'], 3, 40, 50000, 5000, 0) \gexec
\endif
\if :is_autovacuum
    SELECT statements(ARRAY['fillfactor = 70, autovacuum_vacuum_scale_factor = 0.2',
        'fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05',
        'fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02',
        'fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0',
        'fillfactor = 70, autovacuum_enabled = off'], 2, 40, 50000, 5000, 2) \gexec
\endif
\if :is_pending
    CALL run_pending(3, 40, 50000, 1000);
\endif
\if :is_compression
    CALL run_compression(4, 150);
\endif
\if :is_freezing
    -- The first vacuum after the inserts, and the one that wraparound asks for later; VACUUM runs in no procedure.
    CREATE TABLE history (entity_id bigint, observed_at timestamptz, attrs jsonb);
    CREATE FUNCTION steps(turns int) RETURNS SETOF text LANGUAGE sql AS $$
        SELECT s.statement FROM generate_series(1, turns) turn, unnest(ARRAY['freeze at once', 'freeze later']) WITH ORDINALITY v (variant, place),
        LATERAL (VALUES
            (1, 'TRUNCATE measure.history'),
            (2, 'INSERT INTO measure.history SELECT n, now(), ''{"101":21.5,"102":1013.25,"103":0.42,"104":230.1}'' FROM generate_series(1, 500000) n'),
            (3, 'CALL measure.begin_step()'),
            (4, 'SET vacuum_freeze_min_age = ' || CASE variant WHEN 'freeze at once' THEN '0' ELSE '50000000' END),
            (5, 'VACUUM measure.history'),
            (6, format('CALL measure.end_step(%L, %s, ''1 vacuum after the inserts'')', variant, turn)),
            (7, 'CALL measure.begin_step()'),
            (8, 'VACUUM (FREEZE) measure.history'),
            (9, format('CALL measure.end_step(%L, %s, ''2 vacuum against wraparound'')', variant, turn))) s (step, statement)
        ORDER BY turn, place, s.step $$;
    CREATE PROCEDURE begin_step() LANGUAGE sql AS $$
        DELETE FROM measure.run; INSERT INTO measure.run VALUES (clock_timestamp(), pg_current_wal_insert_lsn(), 0) $$;
    CREATE PROCEDURE end_step(variant text, turn int, step text) LANGUAGE sql AS $$
        INSERT INTO measure.result SELECT variant, turn, step || f.figure, f.value FROM measure.run r, LATERAL (VALUES
            (': ms', measure.ms_since(r.begun)), (': wal MB', round((pg_current_wal_insert_lsn() - r.wal) / 1e6, 1))) f (figure, value) $$;
    SELECT steps(3) \gexec
\endif
SELECT figure, variant, percentile_disc(0.5) WITHIN GROUP (ORDER BY value) AS median, min(value) AS least, max(value) AS most
FROM result GROUP BY figure, variant ORDER BY figure, variant;
DROP SCHEMA measure CASCADE;
