-- The archive: history that is left to the lake, and what arrives for it later.
-- Why: history of years belongs into files. A period is closed to writes, then answered from the lake, then taken out and
--   dropped, each step once the lake provably holds it; what is reported for it afterwards has a table of its own.
-- Locks: ACCESS EXCLUSIVE on change_sinks for a moment, for a wider check; SHARE UPDATE EXCLUSIVE on the publication's new tables,
--   which are empty. Nothing else that was there before is locked for longer than a change of the catalogue.
-- Runs beside servers of the versions before as long as no period is closed: they would refuse what is late, and their
--   change stream would leave it out.

-- Waits behind the transactions of others only so long, because everybody else queues behind the wait.
SET LOCAL lock_timeout = '5s';

CREATE TABLE sheaf.history_boundaries (
    only_row boolean NOT NULL DEFAULT true,
    closed_before timestamptz,
    archived_before timestamptz,
    CONSTRAINT history_boundaries_pkey PRIMARY KEY (only_row),
    CONSTRAINT history_boundaries_only_row CHECK (only_row),
    CONSTRAINT history_boundaries_order CHECK (archived_before IS NULL OR coalesce(closed_before >= archived_before, false))
);
COMMENT ON TABLE sheaf.history_boundaries IS 'Up to where history is closed to writes, and up to where it is answered from the lake: one row.';
COMMENT ON COLUMN sheaf.history_boundaries.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN sheaf.history_boundaries.closed_before IS 'What was observed before this is late when it arrives, and goes to entity_events_late; null: nothing is closed. It moves under the locks of all buckets.';
COMMENT ON COLUMN sheaf.history_boundaries.archived_before IS 'Events before this are read from the lake, with the late ones from here; null: all are here. A read takes it from the snapshot of its rows.';
INSERT INTO sheaf.history_boundaries DEFAULT VALUES;

CREATE TABLE sheaf.entity_events_late (
    LIKE sheaf.entity_events INCLUDING COMMENTS INCLUDING COMPRESSION,
    CONSTRAINT entity_events_late_pkey PRIMARY KEY (tenant_id, entity_id, observed_at, seq),
    CONSTRAINT entity_events_late_seq CHECK (seq >= 16384),
    CONSTRAINT entity_events_late_op CHECK (op IN ('p', 'r', 'd', 'c'))
);
COMMENT ON TABLE sheaf.entity_events_late IS 'Events that were reported for a period which was closed to writes. Rows are only ever added, and stay.';
COMMENT ON COLUMN sheaf.entity_events_late.seq IS 'The row''s place among the late ones of its instant, from 16384: after every other row of it.';
COMMENT ON COLUMN sheaf.entity_events_late.op IS 'p patch, r replace, d delete, c correct. What an archived row says is not looked up, so that a patch may correct one.';

CREATE TABLE sheaf.entity_keyframes (
    tenant_id bigint NOT NULL,
    entity_id bigint NOT NULL,
    at timestamptz NOT NULL,
    newest timestamptz NOT NULL,
    floor_at timestamptz,
    deleted boolean NOT NULL,
    attrs jsonb NOT NULL,
    times jsonb NOT NULL,
    CONSTRAINT entity_keyframes_pkey PRIMARY KEY (tenant_id, entity_id, at)
);
COMMENT ON TABLE sheaf.entity_keyframes IS 'What the events of an entity before the end of an archived period come to: the newest of each entity. The lake has them all. Late events from there on are folded into it by whoever reads.';
COMMENT ON COLUMN sheaf.entity_keyframes.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.entity_keyframes.entity_id IS 'The entity.';
COMMENT ON COLUMN sheaf.entity_keyframes.at IS 'The first instant after the period.';
COMMENT ON COLUMN sheaf.entity_keyframes.newest IS 'The time of the newest event before it.';
COMMENT ON COLUMN sheaf.entity_keyframes.floor_at IS 'The time of the last replace or delete; nothing older enters.';
COMMENT ON COLUMN sheaf.entity_keyframes.deleted IS 'Whether the newest event is a delete.';
COMMENT ON COLUMN sheaf.entity_keyframes.attrs IS 'Attribute number to value; null is a removal that is not older than floor_at.';
COMMENT ON COLUMN sheaf.entity_keyframes.times IS 'Attribute number to microseconds since 1970: when each of attrs became so.';
DO $compression$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE sheaf.entity_keyframes ALTER COLUMN attrs SET COMPRESSION lz4, ALTER COLUMN times SET COMPRESSION lz4;
    END IF;
END
$compression$;

CREATE TABLE sheaf.partition_archives (
    partition_name text COLLATE "C" NOT NULL,
    lower_bound timestamptz NOT NULL,
    upper_bound timestamptz NOT NULL,
    state text NOT NULL,
    keyframe_tenant bigint NOT NULL DEFAULT -9223372036854775808,
    keyframe_entity bigint NOT NULL DEFAULT -9223372036854775808,
    keyframes bigint NOT NULL DEFAULT 0,
    events bigint,
    facts bigint,
    digest text,
    waiting_timeline bigint,
    waiting_lsn pg_lsn,
    closed_at timestamptz NOT NULL,
    keyframed_at timestamptz,
    behind_boundary_at timestamptz,
    detached_at timestamptz,
    verified_at timestamptz,
    dropped_at timestamptz,
    restored_at timestamptz,
    failure text,
    failed_at timestamptz,
    CONSTRAINT partition_archives_pkey PRIMARY KEY (partition_name),
    CONSTRAINT partition_archives_bounds CHECK (lower_bound < upper_bound),
    CONSTRAINT partition_archives_state CHECK (state IN ('closed', 'keyframed', 'behind_boundary', 'detached', 'verified', 'dropped', 'restored')),
    CONSTRAINT partition_archives_waiting CHECK ((waiting_timeline IS NULL) = (waiting_lsn IS NULL)),
    CONSTRAINT partition_archives_verified CHECK (state IN ('closed', 'keyframed', 'restored') OR (events IS NOT NULL AND facts IS NOT NULL AND digest IS NOT NULL))
);
COMMENT ON TABLE sheaf.partition_archives IS 'How far each partition that is archived has come. Each step is run again until it is done, one partition after the other.';
COMMENT ON COLUMN sheaf.partition_archives.partition_name IS 'The table in schema sheaf, which is no more once it is dropped.';
COMMENT ON COLUMN sheaf.partition_archives.lower_bound IS 'The first instant that it holds.';
COMMENT ON COLUMN sheaf.partition_archives.upper_bound IS 'The first instant after it.';
COMMENT ON COLUMN sheaf.partition_archives.state IS 'The last step that was done: closed to writes, keyframed, behind_boundary (read from the lake), detached, verified (both sides compared after that), dropped; or restored: here again, and closed.';
COMMENT ON COLUMN sheaf.partition_archives.keyframe_tenant IS 'The tenant of the last entity whose keyframe is written.';
COMMENT ON COLUMN sheaf.partition_archives.keyframe_entity IS 'That entity.';
COMMENT ON COLUMN sheaf.partition_archives.keyframes IS 'How many keyframes are written.';
COMMENT ON COLUMN sheaf.partition_archives.events IS 'How many events both sides had when they were compared; null before.';
COMMENT ON COLUMN sheaf.partition_archives.facts IS 'How many facts these are in the lake.';
COMMENT ON COLUMN sheaf.partition_archives.digest IS 'The sum of their hashes, in hexadecimal.';
COMMENT ON COLUMN sheaf.partition_archives.waiting_timeline IS 'The timeline of waiting_lsn.';
COMMENT ON COLUMN sheaf.partition_archives.waiting_lsn IS 'A position after the step, which the lake has to cover before the next one; null until somebody has looked.';
COMMENT ON COLUMN sheaf.partition_archives.closed_at IS 'When it was closed to writes.';
COMMENT ON COLUMN sheaf.partition_archives.keyframed_at IS 'When the last keyframe was written.';
COMMENT ON COLUMN sheaf.partition_archives.behind_boundary_at IS 'When reads began to ask the lake.';
COMMENT ON COLUMN sheaf.partition_archives.detached_at IS 'When it was taken out.';
COMMENT ON COLUMN sheaf.partition_archives.verified_at IS 'When both sides were found equal for the last time.';
COMMENT ON COLUMN sheaf.partition_archives.dropped_at IS 'When it was dropped.';
COMMENT ON COLUMN sheaf.partition_archives.restored_at IS 'When it was put back.';
COMMENT ON COLUMN sheaf.partition_archives.failure IS 'Why the step after state was not done when it was last tried; null where it was not tried, or is done.';
COMMENT ON COLUMN sheaf.partition_archives.failed_at IS 'When that was.';

ALTER TABLE sheaf.change_sinks DROP CONSTRAINT change_sinks_step;
ALTER TABLE sheaf.change_sinks ADD CONSTRAINT change_sinks_step
    CHECK (step IN ('tenants', 'attributes', 'entities', 'events', 'late', 'keyframes', 'done')) NOT VALID;
COMMENT ON COLUMN sheaf.change_sinks.step IS 'The table that it is in: tenants, attributes, entities, events, late, keyframes, or done.';

-- The facts with the late ones. Two probes for what hides a row, since one over both tables would be none.
CREATE OR REPLACE VIEW sheaf.entity_values_ts WITH (security_invoker = true) AS
    SELECT e.tenant_id, e.entity_id, n.entity_type, n.external_id, a.attribute_id, a.name AS attribute, a.type,
        e.observed_at, e.seq,
        CASE e.op WHEN 'p' THEN 'patch' WHEN 'r' THEN 'replace' WHEN 'd' THEN 'delete' ELSE 'correct' END AS op,
        e.batch_id, e.ingested_at,
        CASE WHEN a.type = 'int' THEN (f.value #>> '{}')::bigint END AS value_int,
        CASE WHEN a.type = 'float' THEN (f.value #>> '{}')::double precision END AS value_float,
        CASE WHEN a.type = 'decimal' THEN (f.value #>> '{}')::numeric END AS value_decimal,
        CASE WHEN a.type = 'text' THEN f.value #>> '{}' END AS value_text,
        CASE WHEN a.type = 'bool' THEN (f.value #>> '{}')::boolean END AS value_bool,
        CASE WHEN a.type = 'time' THEN (f.value #>> '{}')::timestamptz END AS value_time,
        CASE WHEN a.type = 'json' AND f.value <> 'null' THEN f.value END AS value_json,
        coalesce(f.value = 'null', false) AS removed
    FROM (
        SELECT tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs FROM sheaf.entity_events
        UNION ALL
        SELECT tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs FROM sheaf.entity_events_late
    ) e
    JOIN sheaf.entities n ON n.tenant_id = e.tenant_id AND n.entity_id = e.entity_id
    CROSS JOIN LATERAL (
        SELECT j.key, j.value FROM jsonb_each(e.attrs) j
        UNION ALL
        SELECT NULL AS key, NULL AS value WHERE e.op IN ('r', 'd')
    ) f
    LEFT JOIN sheaf.attributes a ON a.tenant_id = e.tenant_id AND a.attribute_id = f.key::bigint
    -- A later row of the same instant hides what it says again, and everything if it replaces or deletes.
    WHERE NOT EXISTS (
        SELECT FROM sheaf.entity_events l
        WHERE l.tenant_id = e.tenant_id AND l.entity_id = e.entity_id AND l.observed_at = e.observed_at AND l.seq > e.seq
            AND (l.op IN ('r', 'd') OR (f.key IS NOT NULL AND l.attrs ? f.key)))
    AND NOT EXISTS (
        SELECT FROM sheaf.entity_events_late l
        WHERE l.tenant_id = e.tenant_id AND l.entity_id = e.entity_id AND l.observed_at = e.observed_at AND l.seq > e.seq
            AND (l.op IN ('r', 'd') OR (f.key IS NOT NULL AND l.attrs ? f.key)));
COMMENT ON VIEW sheaf.entity_values_ts IS 'The facts that are here, late ones with them: one typed value of one attribute of one entity at one instant, corrections applied. A replace or delete adds one row without attribute. Those before archived_before of history_boundaries are in the lake.';

-- What the history of entities before an instant comes to, from their newest keyframe on. That is what all before it come to but for late
-- events, which may have arrived after it was written: those are folded in, again or for the first time, which comes to the same.
CREATE FUNCTION sheaf.fold_history(tenants bigint[], entities bigint[], before timestamptz)
    RETURNS TABLE (tenant_id bigint, entity_id bigint, newest timestamptz, floor_at timestamptz, deleted boolean, attrs jsonb, times jsonb)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        WITH entity AS MATERIALIZED (
            SELECT n.tenant_id, n.entity_id, k.at, k.newest, k.floor_at, k.deleted, k.attrs, k.times
            FROM (SELECT DISTINCT u.tenant_id, u.entity_id FROM unnest(tenants, entities) AS u (tenant_id, entity_id)) n
            LEFT JOIN LATERAL (
                SELECT i.at, i.newest, i.floor_at, i.deleted, i.attrs, i.times FROM sheaf.entity_keyframes i
                WHERE i.tenant_id = n.tenant_id AND i.entity_id = n.entity_id AND i.at < before
                ORDER BY i.at DESC LIMIT 1
            ) k ON true
        ), ranked AS MATERIALIZED (
            SELECT e.tenant_id, e.entity_id, r.observed_at, r.seq, r.op, r.attrs, r.op IN ('r', 'd') AS is_floor,
                row_number() OVER newest_first AS place,
                count(*) FILTER (WHERE r.op IN ('r', 'd')) OVER newest_first AS floors
            FROM entity e
            CROSS JOIN LATERAL (
                SELECT i.observed_at, i.seq, i.op, i.attrs FROM sheaf.entity_events i
                WHERE i.tenant_id = e.tenant_id AND i.entity_id = e.entity_id
                    AND i.observed_at >= coalesce(e.at, '-infinity') AND i.observed_at < before
                UNION ALL
                SELECT l.observed_at, l.seq, l.op, l.attrs FROM sheaf.entity_events_late l
                WHERE l.tenant_id = e.tenant_id AND l.entity_id = e.entity_id AND l.observed_at < before
                OFFSET 0
            ) r
            WINDOW newest_first AS (PARTITION BY e.tenant_id, e.entity_id ORDER BY r.observed_at DESC, r.seq DESC)
        ), fresh AS MATERIALIZED (
            SELECT r.tenant_id, r.entity_id, max(r.observed_at) AS newest, max(r.observed_at) FILTER (WHERE r.is_floor) AS floor_at,
                bool_or(r.op = 'd') FILTER (WHERE r.place = 1) AS deleted
            FROM ranked r GROUP BY r.tenant_id, r.entity_id
        ), cells AS (
            -- A row is later than the keyframe's cell of the same time, or is what that came from.
            SELECT DISTINCT ON (c.tenant_id, c.entity_id, c.key) c.tenant_id, c.entity_id, c.key, c.value, c.micros
            FROM (
                SELECT r.tenant_id, r.entity_id, j.key, j.value, sheaf.micros_of(r.observed_at) AS micros, r.seq
                FROM ranked r
                JOIN entity e ON e.tenant_id = r.tenant_id AND e.entity_id = r.entity_id
                CROSS JOIN LATERAL jsonb_each(r.attrs) j
                WHERE r.floors = r.is_floor::integer AND (e.floor_at IS NULL OR r.observed_at >= e.floor_at)
                UNION ALL
                SELECT e.tenant_id, e.entity_id, j.key, j.value, (e.times ->> j.key)::bigint, -1
                FROM entity e
                LEFT JOIN fresh f ON f.tenant_id = e.tenant_id AND f.entity_id = e.entity_id
                CROSS JOIN LATERAL jsonb_each(e.attrs) j
                WHERE f.floor_at IS NULL OR (e.times ->> j.key)::bigint > sheaf.micros_of(f.floor_at)
            ) c
            ORDER BY c.tenant_id, c.entity_id, c.key, c.micros DESC, c.seq DESC
        ), folded AS (
            SELECT c.tenant_id, c.entity_id, jsonb_object_agg(c.key, c.value) AS attrs, jsonb_object_agg(c.key, c.micros) AS times
            FROM cells c GROUP BY c.tenant_id, c.entity_id
        )
        SELECT e.tenant_id, e.entity_id, greatest(e.newest, f.newest), greatest(e.floor_at, f.floor_at),
            CASE WHEN f.newest IS NULL OR e.newest > f.newest THEN e.deleted ELSE f.deleted END,
            coalesce(c.attrs, '{}'), coalesce(c.times, '{}')
        FROM entity e
        LEFT JOIN fresh f ON f.tenant_id = e.tenant_id AND f.entity_id = e.entity_id
        LEFT JOIN folded c ON c.tenant_id = e.tenant_id AND c.entity_id = e.entity_id
        WHERE e.newest IS NOT NULL OR f.newest IS NOT NULL
    $$;
COMMENT ON FUNCTION sheaf.fold_history(bigint[], bigint[], timestamptz) IS 'What the events of some entities before an instant come to, by the rules of the fold, from their newest keyframes on.';

-- The steps of an archive. Buckets are locked before partitions, as in a flush.
CREATE FUNCTION sheaf.close_period(closed_name text, now_at timestamptz) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
    AS $$
    DECLARE
        oldest record;
    BEGIN
        -- Whoever writes has read the boundary under the lock of a bucket, and is done before this has them all.
        PERFORM sheaf.lock_every_bucket();
        PERFORM pg_advisory_xact_lock(24239, -1);
        IF EXISTS (SELECT FROM sheaf.partition_archives a WHERE a.partition_name = closed_name) THEN
            RETURN false;
        END IF;
        IF EXISTS (SELECT FROM sheaf.partition_archives a WHERE a.state <> 'dropped') THEN
            RAISE EXCEPTION 'another partition is being archived' USING ERRCODE = 'object_in_use';
        END IF;
        SELECT p.partition_name, p.lower_bound, p.upper_bound INTO oldest
            FROM sheaf.list_attached_partitions() p ORDER BY p.lower_bound LIMIT 1;
        IF oldest.partition_name IS DISTINCT FROM closed_name THEN
            RAISE EXCEPTION 'the oldest partition is %, not %', oldest.partition_name, closed_name
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        IF oldest.upper_bound > now() THEN
            RAISE EXCEPTION 'partition % takes writes until %', closed_name, oldest.upper_bound
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        PERFORM sheaf.close_event_partition(closed_name, now_at);
        INSERT INTO sheaf.partition_archives (partition_name, lower_bound, upper_bound, state, closed_at)
            VALUES (closed_name, oldest.lower_bound, oldest.upper_bound, 'closed', now_at);
        UPDATE sheaf.history_boundaries b SET closed_before = oldest.upper_bound;
        RETURN true;
    END
    $$;
COMMENT ON FUNCTION sheaf.close_period(text, timestamptz) IS 'Closes the time up to the end of the oldest partition to writes, so that the partition can be archived. False where that was done before.';

-- Entities that are told anew have theirs already, from before the partition was restored.
CREATE FUNCTION sheaf.write_keyframes(archived_name text, entities_max integer, now_at timestamptz) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        archive sheaf.partition_archives;
        tenants bigint[];
        entities bigint[];
    BEGIN
        SELECT a.* INTO STRICT archive FROM sheaf.partition_archives a WHERE a.partition_name = archived_name FOR UPDATE;
        IF archive.state <> 'closed' THEN
            RETURN 0;
        END IF;
        EXECUTE format('SELECT array_agg(n.tenant_id), array_agg(n.entity_id) FROM (
                SELECT DISTINCT e.tenant_id, e.entity_id FROM sheaf.%I e WHERE (e.tenant_id, e.entity_id) > ($1, $2)
                ORDER BY e.tenant_id, e.entity_id LIMIT $3) n', archived_name)
            INTO tenants, entities USING archive.keyframe_tenant, archive.keyframe_entity, entities_max;
        IF entities IS NULL THEN
            UPDATE sheaf.partition_archives a SET state = 'keyframed', keyframed_at = now_at, waiting_timeline = NULL, waiting_lsn = NULL,
                    failure = NULL, failed_at = NULL
                WHERE a.partition_name = archived_name;
            RETURN 0;
        END IF;
        INSERT INTO sheaf.entity_keyframes (tenant_id, entity_id, at, newest, floor_at, deleted, attrs, times)
            SELECT f.tenant_id, f.entity_id, archive.upper_bound, f.newest, f.floor_at, f.deleted, f.attrs, f.times
            FROM sheaf.fold_history(tenants, entities, archive.upper_bound) f
            ORDER BY f.tenant_id, f.entity_id
            ON CONFLICT (tenant_id, entity_id, at) DO NOTHING;
        -- The lake has those of before; it holds them as long as what they come from.
        DELETE FROM sheaf.entity_keyframes k USING unnest(tenants, entities) AS n (tenant_id, entity_id)
            WHERE k.tenant_id = n.tenant_id AND k.entity_id = n.entity_id AND k.at < archive.upper_bound;
        UPDATE sheaf.partition_archives a SET keyframes = a.keyframes + cardinality(entities),
                keyframe_tenant = tenants[cardinality(tenants)], keyframe_entity = entities[cardinality(entities)]
            WHERE a.partition_name = archived_name;
        RETURN cardinality(entities);
    END
    $$;
COMMENT ON FUNCTION sheaf.write_keyframes(text, integer, timestamptz) IS 'Writes the keyframes of some further entities of a partition that is closed; 0 once all are written.';

-- The lake that was compared is the one that keeps the period from here on: one that has begun anew since does not know that it has to.
-- It takes the same row first, and looks at the boundary after that.
CREATE FUNCTION sheaf.pass_boundary(archived_name text, catalog text, compared_timeline bigint, compared_base pg_lsn,
        compared_events bigint, compared_facts bigint, compared_digest text, now_at timestamptz) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
    AS $$
    DECLARE
        archive sheaf.partition_archives;
    BEGIN
        PERFORM FROM sheaf.lake_positions p
            WHERE p.catalog_name = catalog AND p.base_timeline = compared_timeline AND p.base_lsn = compared_base FOR UPDATE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'lake % has begun anew since it was compared', catalog USING ERRCODE = 'serialization_failure';
        END IF;
        SELECT a.* INTO STRICT archive FROM sheaf.partition_archives a WHERE a.partition_name = archived_name FOR UPDATE;
        IF archive.state <> 'keyframed' THEN
            RETURN false;
        END IF;
        UPDATE sheaf.partition_archives a SET state = 'behind_boundary', behind_boundary_at = now_at, events = compared_events,
                facts = compared_facts, digest = compared_digest, waiting_timeline = NULL, waiting_lsn = NULL, failure = NULL, failed_at = NULL
            WHERE a.partition_name = archived_name;
        UPDATE sheaf.history_boundaries b SET archived_before = archive.upper_bound;
        RETURN true;
    END
    $$;
COMMENT ON FUNCTION sheaf.pass_boundary(text, text, bigint, pg_lsn, bigint, bigint, text, timestamptz) IS 'Reads of a partition''s time ask the lake from here on, which was found to hold all of it.';

CREATE FUNCTION sheaf.require_archived_before(wanted timestamptz) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        IF (SELECT b.archived_before IS DISTINCT FROM wanted FROM sheaf.history_boundaries b) THEN
            RAISE EXCEPTION 'more or less history is archived by now' USING ERRCODE = 'serialization_failure';
        END IF;
    END
    $$;
COMMENT ON FUNCTION sheaf.require_archived_before(timestamptz) IS 'Fails where archived_before is another one: for a lake that begins anew and keeps what is before it. After the row of its position.';

CREATE FUNCTION sheaf.drop_archived_partition(archived_name text, now_at timestamptz) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
    AS $$
    DECLARE
        archive sheaf.partition_archives;
    BEGIN
        PERFORM pg_advisory_xact_lock(24239, -1);
        SELECT a.* INTO STRICT archive FROM sheaf.partition_archives a WHERE a.partition_name = archived_name FOR UPDATE;
        IF archive.state <> 'verified' THEN
            RETURN false;
        END IF;
        IF (SELECT b.archived_before < archive.upper_bound FROM sheaf.history_boundaries b) IS NOT FALSE
            OR EXISTS (SELECT FROM sheaf.list_attached_partitions() p WHERE p.partition_name = archived_name)
        THEN
            RAISE EXCEPTION 'partition % is still read', archived_name USING ERRCODE = 'object_in_use';
        END IF;
        EXECUTE format('DROP TABLE IF EXISTS sheaf.%I', archived_name);
        DELETE FROM sheaf.detached_partitions d WHERE d.partition_name = archived_name;
        UPDATE sheaf.partition_archives a SET state = 'dropped', dropped_at = now_at, waiting_timeline = NULL, waiting_lsn = NULL,
                failure = NULL, failed_at = NULL
            WHERE a.partition_name = archived_name;
        RETURN true;
    END
    $$;
COMMENT ON FUNCTION sheaf.drop_archived_partition(text, timestamptz) IS 'Drops a partition that was detached and found equal to what the lake holds of its time.';

-- By its name: detached it is no part of the history any more.
CREATE FUNCTION sheaf.read_archived_partition(archived_name text, after_tenant bigint, after_entity bigint, after_time timestamptz,
        after_seq smallint, events_max bigint)
    RETURNS TABLE (tenant_id bigint, entity_id bigint, observed_at timestamptz, seq smallint, op "char", batch_id uuid,
        ingested_at timestamptz, attrs jsonb)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        RETURN QUERY EXECUTE format('SELECT e.tenant_id, e.entity_id, e.observed_at, e.seq, e.op, e.batch_id, e.ingested_at, e.attrs
            FROM sheaf.%I e WHERE (e.tenant_id, e.entity_id, e.observed_at, e.seq) > ($1, $2, $3, $4)
            ORDER BY e.tenant_id, e.entity_id, e.observed_at, e.seq LIMIT $5', archived_name)
            USING after_tenant, after_entity, after_time, after_seq, events_max;
    END
    $$;
COMMENT ON FUNCTION sheaf.read_archived_partition(text, bigint, bigint, timestamptz, smallint, bigint) IS 'The events of a partition, attached or not, after one of them in the order of its key.';

-- A table for what comes back from the lake. Whatever an attempt before it has left in it goes.
CREATE FUNCTION sheaf.prepare_restored_partition(restored_name text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
    AS $$
    DECLARE
        archive sheaf.partition_archives;
    BEGIN
        PERFORM pg_advisory_xact_lock(24239, -1);
        SELECT a.* INTO STRICT archive FROM sheaf.partition_archives a WHERE a.partition_name = restored_name FOR UPDATE;
        IF archive.state <> 'dropped' THEN
            RETURN false;
        END IF;
        EXECUTE format('DROP TABLE IF EXISTS sheaf.%I', restored_name);
        EXECUTE format('CREATE TABLE sheaf.%I (LIKE sheaf.entity_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING COMPRESSION)', restored_name);
        PERFORM sheaf.guard_detached_partition(restored_name);
        RETURN true;
    END
    $$;
COMMENT ON FUNCTION sheaf.prepare_restored_partition(text) IS 'An empty table of a dropped partition''s name and form. False where the partition''s own is still there.';

CREATE FUNCTION sheaf.finish_restore(restored_name text, now_at timestamptz) RETURNS boolean
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
        -- It stays closed to writes: what arrives for it is late, as before.
        INSERT INTO sheaf.detached_partitions (partition_name, lower_bound, upper_bound, row_estimate, closed_at)
            VALUES (restored_name, archive.lower_bound, archive.upper_bound, archive.events, archive.closed_at) ON CONFLICT DO NOTHING;
        UPDATE sheaf.partition_archives a SET state = 'restored', restored_at = now_at, waiting_timeline = NULL, waiting_lsn = NULL,
                failure = NULL, failed_at = NULL
            WHERE a.partition_name = restored_name;
        RETURN true;
    END
    $$;
COMMENT ON FUNCTION sheaf.finish_restore(text, timestamptz) IS 'Puts the partition that is archived last back into the history, from where it is read again, or stops its archive. False where that was done before.';

-- What follows replaces functions of earlier files: V0004 staging, V0006 partitions, V0014 the publication. What is new in them is
-- the boundary, and the two tables.

CREATE OR REPLACE FUNCTION sheaf.append_staged(of_tenant bigint, of_entity bigint, document_newest timestamptz,
        document_floor timestamptz, held jsonb, events sheaf.entity_values_ingest[], flushed_at timestamptz)
    RETURNS TABLE (batch_id uuid, ordinal integer, bucket integer, ingested_at timestamptz, outcome text, value_count integer,
        observed_at timestamptz, seq smallint, op "char", attrs jsonb, code text, field bigint, reason text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        document_bytes_max constant integer := 16 * 1024 * 1024;
        -- What is observed before it is late: a row of its own numbers, compared with those alone.
        closed_before constant timestamptz := (SELECT b.closed_before FROM sheaf.history_boundaries b);
        is_late boolean;
        event record;
        stored record;
        tag bigint;
        place integer;
        -- The newest instant that was seen, which times follow, and that of the newest row.
        newest_seen timestamptz := document_newest;
        newest timestamptz := document_newest;
        -- The newest row is a replace or delete, so that the series has to be named again.
        emptied boolean := coalesce(document_floor = document_newest, false);
        -- An instant has a place, so that no event looks through those before it: times that are given theirs in order, the
        -- others further ones. One that a flush gives can meet a given one, which is looked for among those ahead.
        places integer;
        places_behind integer;
        ahead timestamptz[];
        next_ahead integer := 1;
        -- By place: what the rows of the instant fold to, whether one replaced, the last row (no seq where there is none),
        -- and the tags beside the id of this flush's lines. As long as they will be, since growing copies them.
        is_seen boolean[] := array_fill(NULL::boolean, ARRAY[cardinality(events)]);
        all_cells jsonb[] := array_fill(NULL::jsonb, ARRAY[cardinality(events)]);
        all_replaced boolean[] := is_seen;
        all_last_seq integer[] := array_fill(NULL::integer, ARRAY[cardinality(events)]);
        all_last_op "char"[] := array_fill(NULL::"char", ARRAY[cardinality(events)]);
        all_last_attrs jsonb[] := all_cells;
        all_beside jsonb[] := all_cells;
        -- The same of the event's instant. An element is changed in place only where no array is read for it.
        cells jsonb;
        replaced boolean;
        last_seq integer;
        last_op "char";
        last_attrs jsonb;
        beside_cells jsonb;
        -- How many bytes the document takes as text, and each of its values: the whole of it is written out once.
        held_bytes bigint;
        held_lengths jsonb;
        growth bigint;
        grown jsonb;
    BEGIN
        SELECT count(*), count(*) FILTER (WHERE t.observed_at < flushed_at),
                array_agg(t.observed_at ORDER BY t.observed_at) FILTER (WHERE t.observed_at >= flushed_at)
            INTO places, places_behind, ahead
            FROM (SELECT DISTINCT e.observed_at FROM unnest(events) e WHERE e.observed_at IS NOT NULL) t;
        IF held IS NOT NULL THEN
            -- Each takes two quotes, a colon, a comma and two spaces beside its name and value.
            SELECT coalesce(sum(octet_length(c.key) + 6 + octet_length(c.value::text)), 0),
                    coalesce(jsonb_object_agg(c.key, octet_length(c.value::text)), '{}')
                INTO held_bytes, held_lengths FROM jsonb_each(held) c;
        END IF;
        FOR event IN
            SELECT e.*, CASE WHEN e.observed_at IS NOT NULL THEN dense_rank() OVER (ORDER BY e.observed_at) END AS given_place
            FROM unnest(events) e ORDER BY e.batch_id, e.ordinal
        LOOP
            batch_id := event.batch_id; ordinal := event.ordinal; bucket := event.bucket; ingested_at := event.ingested_at;
            op := event.op; attrs := event.attrs; value_count := event.value_count;
            seq := NULL; code := NULL; field := NULL; reason := NULL;
            observed_at := coalesce(event.observed_at, greatest(flushed_at, newest_seen + interval '1 microsecond'));
            newest_seen := greatest(newest_seen, observed_at);
            is_late := coalesce(observed_at < closed_before, false);

            place := event.given_place;
            IF place IS NULL THEN
                -- Each such time is later than the one before it.
                WHILE ahead[next_ahead] < observed_at LOOP
                    next_ahead := next_ahead + 1;
                END LOOP;
                IF ahead[next_ahead] = observed_at THEN
                    place := places_behind + next_ahead;
                ELSE
                    places := places + 1;
                    place := places;
                END IF;
            END IF;
            IF is_seen[place] THEN
                cells := all_cells[place]; replaced := all_replaced[place]; beside_cells := all_beside[place];
                last_seq := all_last_seq[place]; last_op := all_last_op[place]; last_attrs := all_last_attrs[place];
            ELSE
                cells := '{}'; replaced := false; beside_cells := NULL;
                last_seq := NULL; last_op := NULL; last_attrs := NULL;
                -- What is newer than the newest event cannot be stored yet.
                IF observed_at <= document_newest THEN
                    FOR stored IN
                        SELECT e.seq, e.op, e.attrs FROM sheaf.entity_events e
                        WHERE NOT is_late AND e.tenant_id = of_tenant AND e.entity_id = of_entity
                            AND e.observed_at = append_staged.observed_at
                        UNION ALL
                        SELECT e.seq, e.op, e.attrs FROM sheaf.entity_events_late e
                        WHERE is_late AND e.tenant_id = of_tenant AND e.entity_id = of_entity
                            AND e.observed_at = append_staged.observed_at
                        ORDER BY 1
                    LOOP
                        IF stored.op IN ('r', 'd') THEN
                            replaced := true; cells := '{}';
                        END IF;
                        cells := cells || stored.attrs;
                        last_seq := stored.seq; last_op := stored.op; last_attrs := stored.attrs;
                    END LOOP;
                END IF;
                is_seen[place] := true;
                all_cells[place] := cells; all_replaced[place] := replaced;
                all_last_seq[place] := last_seq; all_last_op[place] := last_op; all_last_attrs[place] := last_attrs;
            END IF;

            IF event.series IS NOT NULL AND (newest IS NULL OR observed_at <= newest OR emptied)
                AND (last_seq IS NULL OR replaced) THEN
                attrs := event.series || attrs;
                SELECT count(*) INTO value_count FROM jsonb_object_keys(attrs);
            END IF;
            IF event.beside IS NOT NULL THEN
                IF last_seq IS NOT NULL THEN
                    -- A tag that another line of this flush has beside the id and this one lacks, or one that differs.
                    SELECT k.key::bigint INTO field FROM jsonb_object_keys(beside_cells) AS k (key)
                        WHERE k.key::bigint <> ALL (event.beside) ORDER BY 1 LIMIT 1;
                    IF field IS NULL THEN
                        FOREACH tag IN ARRAY event.beside LOOP
                            IF attrs ? tag::text AND (NOT cells ? tag::text
                                OR attrs -> tag::text <> cells -> tag::text
                                    AND 'null' NOT IN (attrs -> tag::text, cells -> tag::text)) THEN
                                field := tag;
                                EXIT;
                            END IF;
                        END LOOP;
                    END IF;
                    IF field IS NOT NULL THEN
                        outcome := 'refused'; code := 'series_conflict';
                        reason := 'another series wrote to this entity and instant: a tag beside the id differs';
                        RETURN NEXT;
                        CONTINUE;
                    END IF;
                END IF;
                beside_cells := (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}')
                    FROM jsonb_each(attrs) c WHERE c.key::bigint = ANY (event.beside));
                all_beside[place] := beside_cells;
            END IF;

            IF held IS NOT NULL THEN
                SELECT coalesce(sum(CASE WHEN held_lengths ? c.key THEN c.bytes - (held_lengths ->> c.key)::bigint
                            ELSE octet_length(c.key) + 6 + c.bytes END), 0), coalesce(jsonb_object_agg(c.key, c.bytes), '{}')
                    INTO growth, grown
                    FROM (SELECT a.key, octet_length(a.value::text) AS bytes FROM jsonb_each(attrs) a OFFSET 0) c;
                IF growth > 0 AND held_bytes + growth > document_bytes_max THEN
                    outcome := 'refused'; code := 'quota_exceeded';
                    reason := format('the document of an entity has at most %s bytes', document_bytes_max);
                    RETURN NEXT;
                    CONTINUE;
                END IF;
                held_bytes := held_bytes + growth;
                held_lengths := held_lengths || grown;
            END IF;

            seq := coalesce(last_seq + 1, CASE WHEN is_late THEN 16384 ELSE 0 END);
            IF last_seq IS NULL THEN
                outcome := 'accepted';
            ELSIF op IN ('r', 'd') THEN
                outcome := CASE WHEN last_op = op AND last_attrs = attrs THEN 'duplicate' ELSE 'corrected' END;
            ELSE
                SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') INTO attrs FROM jsonb_each(attrs) c
                    WHERE (cells -> c.key) IS DISTINCT FROM c.value;
                IF attrs = '{}' THEN
                    outcome := 'duplicate';
                ELSIF EXISTS (SELECT FROM jsonb_object_keys(attrs) k (key) WHERE cells ? k.key) THEN
                    outcome := 'corrected'; op := 'c';
                ELSE
                    outcome := 'merged'; op := 'p';
                END IF;
            END IF;
            IF outcome = 'duplicate' THEN
                seq := NULL;
                RETURN NEXT;
                CONTINUE;
            END IF;
            -- What it is beside an archived row nobody looks up: to its request it is new.
            IF is_late THEN
                outcome := 'accepted';
            END IF;
            IF seq = (CASE WHEN is_late THEN 32767 ELSE 16384 END) THEN
                outcome := 'refused'; code := 'quota_exceeded'; seq := NULL;
                reason := 'the instant holds as many corrections as are kept';
                RETURN NEXT;
                CONTINUE;
            END IF;

            newest := greatest(newest, observed_at);
            IF newest = observed_at THEN
                emptied := op IN ('r', 'd');
            END IF;
            IF op IN ('r', 'd') THEN
                replaced := true; cells := '{}';
            END IF;
            cells := cells || attrs;
            all_cells[place] := cells; all_replaced[place] := replaced;
            all_last_seq[place] := seq; all_last_op[place] := op; all_last_attrs[place] := attrs;
            RETURN NEXT;
        END LOOP;
    END
    $$;
CREATE OR REPLACE FUNCTION sheaf.flush_events(batches uuid[], ordinal_from integer, ordinal_to integer, flushed_at timestamptz,
        OUT events bigint, OUT duplicates bigint, OUT merged bigint, OUT corrected bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        closed tstzmultirange;
        -- Under the buckets' locks it stays where it is.
        late_before constant timestamptz := coalesce((SELECT b.closed_before FROM sheaf.history_boundaries b), '-infinity');
        closed_to sheaf.entity_values_ingest[];
    BEGIN
        -- Its owner could write into a partition that is being taken out, which servers may not.
        IF EXISTS (SELECT FROM sheaf.detached_partitions) THEN
            SELECT range_agg(tstzrange(p.lower_bound, p.upper_bound)) INTO closed
                FROM sheaf.list_attached_partitions() p WHERE NOT p.accepts_writes AND p.lower_bound >= late_before;
        END IF;
        IF closed IS NOT NULL THEN
            WITH gone AS (
                DELETE FROM sheaf.entity_values_ingest i
                WHERE i.batch_id = ANY (batches) AND i.ordinal >= ordinal_from AND i.ordinal < ordinal_to
                    AND closed @> coalesce(i.observed_at, greatest(flushed_at, (SELECT j.newest + interval '1 microsecond'
                        FROM sheaf.entity_jsonb j WHERE j.tenant_id = i.tenant_id AND j.entity_id = i.entity_id)))
                RETURNING i AS event
            )
            SELECT array_agg(g.event) INTO closed_to FROM gone g;
        END IF;
        IF closed_to IS NOT NULL THEN
            PERFORM sheaf.refuse_staged(closed_to, 'the period of the event is closed to writes');
        END IF;
        WITH staged AS (
            DELETE FROM sheaf.entity_values_ingest i
            WHERE i.batch_id = ANY (batches) AND i.ordinal >= ordinal_from AND i.ordinal < ordinal_to
            RETURNING i.tenant_id, i.entity_id, i.observed_at, i.op, i.batch_id, i.ingested_at, i.attrs, i.ordinal, i.bucket,
                i.value_count, i.value_bytes, i.series, i.beside
        ), touched AS MATERIALIZED (
            SELECT s.tenant_id, s.entity_id, min(s.observed_at) AS oldest, sum(s.value_bytes) AS value_bytes,
                coalesce(bool_and(s.observed_at > s.before), true) AND bool_and(s.observed_at IS NOT NULL) AS is_in_order,
                bool_or(s.has_series) AS has_series, bool_or(s.is_floor) AS has_floor
            FROM (
                SELECT i.tenant_id, i.entity_id, i.observed_at, i.value_bytes, i.series IS NOT NULL AS has_series, i.op <> 'p' AS is_floor,
                    lag(i.observed_at) OVER (PARTITION BY i.tenant_id, i.entity_id ORDER BY i.batch_id, i.ordinal) AS before
                FROM staged i
            ) s
            GROUP BY s.tenant_id, s.entity_id
        ), entity AS MATERIALIZED (
            -- A probe an entity, whatever is thought of their number. Compressed values can be 256 times as large.
            SELECT t.tenant_id, t.entity_id, d.version, d.newest, d.floor_at, d.deleted, d.updated_at, d.hot_attrs,
                d.cold_attrs, d.present, d.times,
                t.value_bytes + 256 * (coalesce(pg_column_size(d.hot_attrs), 0) + coalesce(pg_column_size(d.cold_attrs), 0))
                    > 16 * 1024 * 1024 AS may_be_full,
                t.is_in_order AND (d.newest IS NULL OR t.oldest > d.newest)
                    AND NOT (t.has_series AND (t.has_floor OR d.newest IS NULL OR coalesce(d.floor_at = d.newest, false)))
                    AS is_plain
            FROM touched t
            LEFT JOIN LATERAL (
                SELECT j.version, j.newest, j.floor_at, j.deleted, j.updated_at, j.hot_attrs, j.cold_attrs, j.present, j.times
                FROM sheaf.entity_jsonb j WHERE j.tenant_id = t.tenant_id AND j.entity_id = t.entity_id OFFSET 0
            ) d ON true
        ), decided AS MATERIALIZED (
            -- Newer than everything that is there, and each than the one before it: each is a row as it is.
            SELECT s.tenant_id, s.entity_id, s.batch_id, s.ordinal, s.bucket, s.ingested_at, 'accepted' AS outcome,
                s.value_count, s.observed_at,
                CASE WHEN s.observed_at < late_before THEN 16384 ELSE 0 END::smallint AS seq, s.op, s.attrs,
                NULL::text AS code, NULL::bigint AS field, NULL::text AS reason
            FROM staged s JOIN entity e ON e.tenant_id = s.tenant_id AND e.entity_id = s.entity_id
            WHERE e.is_plain AND NOT e.may_be_full
            UNION ALL
            SELECT l.tenant_id, l.entity_id, a.batch_id, a.ordinal, a.bucket, a.ingested_at, a.outcome, a.value_count,
                a.observed_at, a.seq, a.op, a.attrs, a.code, a.field, a.reason
            FROM (
                SELECT e.tenant_id, e.entity_id, e.newest, e.floor_at,
                    CASE WHEN e.may_be_full THEN coalesce(e.hot_attrs || e.cold_attrs, '{}') END AS held,
                    s.events
                FROM entity e
                JOIN (
                    SELECT s.tenant_id, s.entity_id, array_agg(ROW (s.tenant_id, s.entity_id, s.observed_at, s.op, s.batch_id,
                        s.ingested_at, s.attrs, s.ordinal, s.bucket, s.value_count, s.value_bytes, s.series, s.beside
                        )::sheaf.entity_values_ingest ORDER BY s.batch_id, s.ordinal) AS events
                    FROM staged s JOIN entity e ON e.tenant_id = s.tenant_id AND e.entity_id = s.entity_id
                    WHERE NOT e.is_plain OR e.may_be_full
                    GROUP BY s.tenant_id, s.entity_id
                ) s ON s.tenant_id = e.tenant_id AND s.entity_id = e.entity_id
            ) l
            CROSS JOIN LATERAL sheaf.append_staged(l.tenant_id, l.entity_id, l.newest, l.floor_at, l.held, l.events, flushed_at) a
        ), appended AS (
            INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
            SELECT r.tenant_id, r.entity_id, r.observed_at, r.seq, r.op, r.batch_id, r.ingested_at, r.attrs
            FROM decided r WHERE r.seq < 16384
            ORDER BY r.tenant_id, r.entity_id, r.observed_at, r.seq
        ), appended_late AS (
            INSERT INTO sheaf.entity_events_late (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
            SELECT r.tenant_id, r.entity_id, r.observed_at, r.seq, r.op, r.batch_id, r.ingested_at, r.attrs
            FROM decided r WHERE r.seq >= 16384
            ORDER BY r.tenant_id, r.entity_id, r.observed_at, r.seq
        ), counted AS (
            INSERT INTO sheaf.ingest_parts (tenant_id, request_key, bucket, value_count, accepted, duplicates, merged, corrected, refused)
            SELECT r.tenant_id, q.request_key, r.bucket, coalesce(sum(r.value_count) FILTER (WHERE r.outcome <> 'refused'), 0),
                count(*) FILTER (WHERE r.outcome = 'accepted'), count(*) FILTER (WHERE r.outcome = 'duplicate'),
                count(*) FILTER (WHERE r.outcome = 'merged'), count(*) FILTER (WHERE r.outcome = 'corrected'),
                count(*) FILTER (WHERE r.outcome = 'refused')
            FROM decided r
            -- One probe a batch.
            JOIN (
                SELECT n.batch_id, n.tenant_id, q.request_key
                FROM (SELECT DISTINCT d.tenant_id, d.batch_id FROM decided d) n
                CROSS JOIN LATERAL (SELECT i.request_key FROM sheaf.ingest_requests i
                    WHERE i.tenant_id = n.tenant_id AND i.batch_id = n.batch_id OFFSET 0) q
            ) q ON q.tenant_id = r.tenant_id AND q.batch_id = r.batch_id
            GROUP BY r.tenant_id, q.request_key, r.bucket
            ON CONFLICT (tenant_id, request_key, bucket) DO UPDATE
            SET value_count = ingest_parts.value_count + excluded.value_count,
                accepted = ingest_parts.accepted + excluded.accepted,
                duplicates = ingest_parts.duplicates + excluded.duplicates,
                merged = ingest_parts.merged + excluded.merged,
                corrected = ingest_parts.corrected + excluded.corrected,
                refused = ingest_parts.refused + excluded.refused
        ), refused AS (
            INSERT INTO sheaf.rejections (tenant_id, rejection_id, batch_id, event_index, ordinal, entity_type, field, code,
                reason, raw, received_at, format, "precision", id_tags, refused_in_flush)
            SELECT r.tenant_id, sheaf.next_rejection_id(), r.batch_id, r.ordinal, k.ordinal, k.entity_type,
                (SELECT a.name FROM sheaf.attributes a WHERE a.tenant_id = r.tenant_id AND a.attribute_id = r.field),
                r.code, r.reason, k.raw, r.ingested_at, k.format, k.precision, k.id_tags, true
            FROM decided r
            CROSS JOIN LATERAL sheaf.describe_refused(r.tenant_id, r.batch_id, r.ordinal, r.entity_id, r.observed_at, r.attrs) k
            WHERE r.outcome = 'refused'
        ), ranked AS MATERIALIZED (
            -- The rows that count: a replace or delete hides those of the entity that come before it.
            SELECT r.tenant_id, r.entity_id, r.observed_at, r.seq, r.op, r.attrs, r.op IN ('r', 'd') AS is_floor,
                row_number() OVER newest_first AS place,
                count(*) FILTER (WHERE r.op IN ('r', 'd')) OVER newest_first AS floors
            FROM decided r WHERE r.seq IS NOT NULL
            WINDOW newest_first AS (PARTITION BY r.tenant_id, r.entity_id ORDER BY r.observed_at DESC, r.seq DESC)
        ), state AS MATERIALIZED (
            SELECT e.tenant_id, e.entity_id, e.version, e.newest, e.floor_at, e.deleted, e.updated_at, e.hot_attrs,
                e.cold_attrs, e.present, e.times, e.is_plain AND NOT e.may_be_full AS is_plain,
                sheaf.micros_of(e.newest) AS newest_micros, sheaf.micros_of(f.floor_at) AS fresh_floor_micros,
                f.newest AS fresh_newest, f.floor_at AS fresh_floor, f.deleted AS fresh_deleted, f.rows,
                greatest(e.newest, f.newest) AS newest_after, sheaf.micros_of(greatest(e.newest, f.newest)) AS newest_after_micros,
                sheaf.micros_of(e.floor_at) AS floor_micros
            FROM entity e
            JOIN (
                SELECT r.tenant_id, r.entity_id, max(r.observed_at) AS newest,
                    max(r.observed_at) FILTER (WHERE r.is_floor) AS floor_at, bool_or(r.op = 'd') FILTER (WHERE r.place = 1) AS deleted,
                    count(*) FILTER (WHERE r.floors = r.is_floor::integer) AS rows
                FROM ranked r GROUP BY r.tenant_id, r.entity_id
            ) f ON f.tenant_id = e.tenant_id AND f.entity_id = e.entity_id
        ), fresh AS MATERIALIZED (
            -- What the rows come to, with the time of each cell where there are several rows.
            SELECT r.tenant_id, r.entity_id, r.attrs, NULL::jsonb AS times, sheaf.micros_of(r.observed_at) AS micros
            FROM ranked r JOIN state s ON s.tenant_id = r.tenant_id AND s.entity_id = r.entity_id AND s.rows = 1
            WHERE r.floors = r.is_floor::integer
            UNION ALL
            SELECT c.tenant_id, c.entity_id, jsonb_object_agg(c.key, c.value), jsonb_object_agg(c.key, c.micros), NULL
            FROM (
                SELECT DISTINCT ON (r.tenant_id, r.entity_id, c.key) r.tenant_id, r.entity_id, c.key, c.value, r.micros
                FROM (
                    SELECT r.tenant_id, r.entity_id, r.observed_at, r.seq, r.attrs, sheaf.micros_of(r.observed_at) AS micros
                    FROM ranked r JOIN state s ON s.tenant_id = r.tenant_id AND s.entity_id = r.entity_id AND s.rows > 1
                    WHERE r.floors = r.is_floor::integer OFFSET 0
                ) r
                CROSS JOIN LATERAL jsonb_each(r.attrs) c
                ORDER BY r.tenant_id, r.entity_id, c.key, r.observed_at DESC, r.seq DESC
            ) c
            GROUP BY c.tenant_id, c.entity_id
        ), temperature AS MATERIALIZED (
            SELECT t.tenant_id, a.hot, a.warming, a.cooling
            FROM (SELECT DISTINCT tenant_id FROM touched) t CROSS JOIN LATERAL sheaf.temperatures_of(t.tenant_id) a
        ), entered AS MATERIALIZED (
            -- What is not older than what the document holds of the attribute, nor than its floor.
            SELECT f.tenant_id, f.entity_id, g.keys, g.set_ids, g.removed_ids, g.hot, g.cold, g.times
            FROM fresh f
            JOIN state s ON s.tenant_id = f.tenant_id AND s.entity_id = f.entity_id
            JOIN temperature t ON t.tenant_id = f.tenant_id
            CROSS JOIN LATERAL (
                SELECT array_agg(c.key) AS keys, array_agg(c.id) FILTER (WHERE NOT c.is_removed) AS set_ids,
                    array_agg(c.id) FILTER (WHERE c.is_removed) AS removed_ids,
                    jsonb_object_agg(c.key, c.value) FILTER (WHERE NOT c.is_removed AND c.is_hot) AS hot,
                    jsonb_object_agg(c.key, c.value) FILTER (WHERE NOT c.is_removed AND NOT c.is_hot) AS cold,
                    jsonb_object_agg(c.key, c.micros) FILTER (WHERE c.is_removed OR c.micros <> s.newest_after_micros) AS times
                FROM (
                    SELECT j.key, j.value, j.key::bigint AS id, j.value = 'null' AS is_removed, t.hot ? j.key AS is_hot,
                        CASE WHEN f.times IS NULL THEN f.micros ELSE (f.times ->> j.key)::bigint END AS micros
                    FROM jsonb_each(f.attrs) j OFFSET 0
                ) c
                WHERE s.is_plain OR s.newest IS NULL
                    OR c.micros >= greatest(s.floor_micros, (s.times ->> c.key)::bigint,
                        CASE WHEN c.id = ANY (s.present) AND NOT s.times ? c.key THEN s.newest_micros END, -9223372036854775808)
            ) g
            WHERE g.keys IS NOT NULL
        ), left_over AS MATERIALIZED (
            -- The document without what the flush's replaces and deletes dropped.
            SELECT s.tenant_id, s.entity_id,
                CASE WHEN s.fresh_floor >= s.newest OR s.newest IS NULL THEN '{}' WHEN s.fresh_floor IS NULL THEN s.hot_attrs
                    ELSE sheaf.cells_after(s.hot_attrs, s.times, s.newest_micros, s.fresh_floor_micros) END AS hot,
                CASE WHEN s.fresh_floor >= s.newest OR s.newest IS NULL THEN '{}' WHEN s.fresh_floor IS NULL THEN s.cold_attrs
                    ELSE sheaf.cells_after(s.cold_attrs, s.times, s.newest_micros, s.fresh_floor_micros) END AS cold,
                CASE WHEN s.fresh_floor >= s.newest OR s.newest IS NULL THEN '{}' WHEN s.fresh_floor IS NULL THEN s.times
                    ELSE sheaf.cells_after(s.times, s.times, s.newest_micros, s.fresh_floor_micros) END AS times,
                CASE WHEN s.fresh_floor >= s.newest OR s.newest IS NULL THEN '{}' WHEN s.fresh_floor IS NULL THEN s.present
                    ELSE ARRAY(SELECT p.id FROM unnest(s.present) AS p (id)
                        WHERE coalesce((s.times ->> p.id::text)::bigint, s.newest_micros) > s.fresh_floor_micros) END AS present
            FROM state s
        ), merged AS MATERIALIZED (
            SELECT s.tenant_id, s.entity_id, s.version, s.newest, s.floor_at, s.deleted, s.updated_at, s.hot_attrs, s.cold_attrs,
                s.times AS times_before, s.newest_after, greatest(s.floor_at, s.fresh_floor) AS floor_after,
                CASE WHEN s.newest > s.fresh_newest THEN s.deleted ELSE s.fresh_deleted END AS deleted_after,
                s.fresh_floor IS NOT NULL AND (l.times <> s.times OR l.present <> s.present) AS has_dropped,
                -- A part that nothing enters or leaves stays the very datum, so that its index is left alone.
                CASE WHEN e.hot IS NULL AND (e.keys IS NULL OR NOT l.hot ?| e.keys) THEN l.hot
                    ELSE (l.hot - e.keys) || coalesce(e.hot, '{}') END AS hot,
                CASE WHEN e.cold IS NULL AND (e.keys IS NULL OR NOT l.cold ?| e.keys) THEN l.cold
                    ELSE (l.cold - e.keys) || coalesce(e.cold, '{}') END AS cold,
                CASE WHEN e.removed_ids IS NULL AND (e.set_ids IS NULL OR l.present @> e.set_ids) THEN l.present
                    ELSE ARRAY(SELECT p.id FROM unnest(l.present) AS p (id) WHERE p.id <> ALL (coalesce(e.removed_ids, '{}'))
                        UNION SELECT unnest(e.set_ids) ORDER BY 1) END AS present,
                -- What was of the newest event and is not any more gets the time that it had.
                (CASE WHEN e.keys IS NULL THEN l.times ELSE l.times - e.keys END)
                    || CASE WHEN s.newest_after > s.newest AND NOT l.present <@ coalesce(e.set_ids, '{}')
                        THEN (SELECT coalesce(jsonb_object_agg(p.id, s.newest_micros), '{}') FROM unnest(l.present) AS p (id)
                            WHERE p.id::text <> ALL (coalesce(e.keys, '{}')) AND NOT l.times ? p.id::text)
                        ELSE '{}' END
                    || coalesce(e.times, '{}') AS times,
                t.warming, t.cooling
            FROM state s
            JOIN left_over l ON l.tenant_id = s.tenant_id AND l.entity_id = s.entity_id
            JOIN temperature t ON t.tenant_id = s.tenant_id
            LEFT JOIN entered e ON e.tenant_id = s.tenant_id AND e.entity_id = s.entity_id
        ), compared AS MATERIALIZED (
            SELECT m.tenant_id, m.entity_id, m.version, m.newest_after, m.floor_after, m.deleted_after, m.updated_at, m.times,
                m.present, m.has_dropped OR m.version IS NULL OR m.newest_after > m.newest OR m.deleted_after <> m.deleted
                    OR m.floor_after IS DISTINCT FROM m.floor_at OR m.times <> m.times_before AS is_written,
                CASE WHEN m.version IS NULL THEN true
                    WHEN m.warming IS NULL AND m.cooling IS NULL THEN m.hot <> m.hot_attrs OR m.cold <> m.cold_attrs
                    ELSE m.hot || m.cold <> m.hot_attrs || m.cold_attrs END AS is_changed,
                CASE WHEN m.warming IS NULL AND m.cooling IS NULL THEN m.hot
                    ELSE (m.hot - coalesce(m.cooling, '{}')) || (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}')
                        FROM jsonb_each(m.cold) c WHERE c.key = ANY (m.warming)) END AS hot,
                CASE WHEN m.warming IS NULL AND m.cooling IS NULL THEN m.cold
                    ELSE (m.cold - coalesce(m.warming, '{}')) || (SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}')
                        FROM jsonb_each(m.hot) c WHERE c.key = ANY (m.cooling)) END AS cold
            FROM merged m
        ), written AS (
            -- The whole document, always: what another transaction moved between its parts meanwhile is moved again.
            INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs,
                cold_attrs, present, times)
            SELECT c.tenant_id, c.entity_id, coalesce(c.version, 0) + 1, c.newest_after, c.floor_after, c.deleted_after,
                CASE WHEN c.is_changed THEN flushed_at ELSE c.updated_at END, c.hot, c.cold, c.present, c.times
            FROM compared c WHERE c.is_written OR c.is_changed
            ORDER BY c.tenant_id, c.entity_id
            ON CONFLICT (tenant_id, entity_id) DO UPDATE
            SET version = excluded.version, newest = excluded.newest, floor_at = excluded.floor_at, deleted = excluded.deleted,
                updated_at = excluded.updated_at, hot_attrs = excluded.hot_attrs, cold_attrs = excluded.cold_attrs,
                present = excluded.present, times = excluded.times
        )
        SELECT count(*), count(*) FILTER (WHERE r.outcome = 'duplicate'), count(*) FILTER (WHERE r.outcome = 'merged'),
            count(*) FILTER (WHERE r.outcome = 'corrected')
        INTO events, duplicates, merged, corrected
        FROM decided r;
        events := events + coalesce(cardinality(closed_to), 0);
    END
    $$;
CREATE OR REPLACE FUNCTION sheaf.ensure_staged_partitions(batches uuid[], flushed_at timestamptz) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        instant timestamptz;
    BEGIN
        LOOP
            WITH attached AS MATERIALIZED (
                SELECT p.lower_bound, p.upper_bound FROM sheaf.list_attached_partitions() p
            )
            SELECT min(t.observed_at) INTO instant
            FROM (
                SELECT coalesce(i.observed_at, greatest(flushed_at, (SELECT j.newest + interval '1 microsecond'
                    FROM sheaf.entity_jsonb j WHERE j.tenant_id = i.tenant_id AND j.entity_id = i.entity_id))) AS observed_at
                FROM sheaf.entity_values_ingest i WHERE i.batch_id = ANY (batches)
            ) t
            -- One that is closed to writes is there; its events are refused.
            WHERE NOT EXISTS (SELECT FROM attached a WHERE a.lower_bound <= t.observed_at AND t.observed_at < a.upper_bound)
                AND NOT EXISTS (SELECT FROM sheaf.history_boundaries b WHERE t.observed_at < b.closed_before);
            EXIT WHEN instant IS NULL;
            PERFORM sheaf.ensure_event_partition(instant);
        END LOOP;
    END
    $$;
-- Documents anew, from the newest keyframes where there are any. The version moves, since readers may have seen another document.
CREATE OR REPLACE FUNCTION sheaf.rebuild_documents(of_tenant bigint, entity_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET enable_seqscan = off SET jit = off
    AS $$
    DECLARE
        touched_buckets integer[];
        rebuilt bigint;
    BEGIN
        -- Which bucket an entity is in, only servers compute: so all of them, in the order of everybody who writes.
        SELECT array_agg(b.bucket ORDER BY b.bucket) INTO touched_buckets
            FROM sheaf.settings s CROSS JOIN LATERAL generate_series(0, s.bucket_count - 1) AS b (bucket);
        PERFORM pg_advisory_xact_lock(24239, b.bucket) FROM unnest(touched_buckets) AS b (bucket);
        WITH folded AS MATERIALIZED (
            SELECT f.entity_id, f.newest, f.floor_at, f.deleted, f.attrs, f.times FROM sheaf.fold_history(
                (SELECT array_agg(of_tenant) FROM unnest(entity_ids)), entity_ids, 'infinity') f
        ), parts AS (
            SELECT f.entity_id, array_agg(c.key::bigint ORDER BY c.key::bigint) FILTER (WHERE c.value <> 'null') AS present,
                jsonb_object_agg(c.key, c.value) FILTER (WHERE c.value <> 'null' AND t.hot ? c.key) AS hot,
                jsonb_object_agg(c.key, c.value) FILTER (WHERE c.value <> 'null' AND NOT t.hot ? c.key) AS cold,
                jsonb_object_agg(c.key, f.times -> c.key)
                    FILTER (WHERE c.value = 'null' OR (f.times ->> c.key)::bigint <> sheaf.micros_of(f.newest)) AS times
            FROM folded f CROSS JOIN LATERAL jsonb_each(f.attrs) c
            CROSS JOIN sheaf.temperatures_of(of_tenant) t
            GROUP BY f.entity_id
        ), written AS (
            INSERT INTO sheaf.entity_jsonb AS d (tenant_id, entity_id, version, newest, floor_at, deleted, updated_at, hot_attrs,
                cold_attrs, present, times)
            SELECT of_tenant, f.entity_id, 1, f.newest, f.floor_at, f.deleted, clock_timestamp(), coalesce(p.hot, '{}'),
                coalesce(p.cold, '{}'), coalesce(p.present, '{}'), coalesce(p.times, '{}')
            FROM folded f LEFT JOIN parts p ON p.entity_id = f.entity_id
            ORDER BY f.entity_id
            ON CONFLICT (tenant_id, entity_id) DO UPDATE
            SET version = d.version + 1, newest = excluded.newest, floor_at = excluded.floor_at, deleted = excluded.deleted,
                updated_at = CASE WHEN d.hot_attrs || d.cold_attrs = excluded.hot_attrs || excluded.cold_attrs THEN d.updated_at
                    ELSE excluded.updated_at END,
                hot_attrs = excluded.hot_attrs, cold_attrs = excluded.cold_attrs, present = excluded.present, times = excluded.times
            RETURNING 1
        )
        SELECT count(*) INTO rebuilt FROM written;
        UPDATE sheaf.bucket_writers w SET written_by = NULL WHERE w.written_by IS NOT NULL;
        RETURN rebuilt;
    END
    $$;
-- A period that is closed gets no partition any more, and none reaches into it.
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
        closed_until timestamptz;
    BEGIN
        -- One creator at a time over all servers; the second finds what the first has made.
        PERFORM pg_advisory_xact_lock(24239, -1);
        SELECT p.* INTO there FROM sheaf.list_attached_partitions() p
            WHERE p.lower_bound <= instant AND instant < p.upper_bound;
        SELECT b.closed_before INTO closed_until FROM sheaf.history_boundaries b;
        IF instant < closed_until THEN
            RAISE EXCEPTION 'the history is closed to writes before %', closed_until
                USING ERRCODE = 'lock_not_available', HINT = 'What arrives for it goes to entity_events_late.';
        END IF;
        IF there.partition_name IS NOT NULL AND NOT there.accepts_writes THEN
            RAISE EXCEPTION 'partition % is closed to writes', there.partition_name
                USING ERRCODE = 'lock_not_available',
                HINT = 'It is being detached, or sheaf_writer was not granted INSERT on it; sheaf partition attach opens it.';
        END IF;
        IF there.partition_name IS NOT NULL THEN
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
        SELECT greatest(wanted_from, closed_until, max(p.upper_bound)) INTO wanted_from
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
-- An archive closes and detaches by its own steps; a partition that reads still ask must not be taken out between them.
CREATE OR REPLACE FUNCTION sheaf.close_event_partition(closed_name text, new_closed_at timestamptz) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s'
    AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(24239, -1);
        IF EXISTS (SELECT FROM sheaf.partition_archives a
            WHERE a.partition_name = closed_name AND a.state NOT IN ('behind_boundary', 'detached'))
        THEN
            RAISE EXCEPTION 'partition % is being archived, and reads ask it still', closed_name
                USING ERRCODE = 'object_in_use', HINT = 'sheaf partition archive goes on with it.';
        END IF;
        INSERT INTO sheaf.detached_partitions (partition_name, lower_bound, upper_bound, row_estimate, closed_at)
            SELECT p.partition_name, p.lower_bound, p.upper_bound, p.row_estimate, new_closed_at
            FROM sheaf.measure_event_partitions() p WHERE p.partition_name = closed_name
            ON CONFLICT DO NOTHING;
        EXECUTE format('REVOKE INSERT ON sheaf.%I FROM sheaf_writer', closed_name);
    END
    $$;
CREATE OR REPLACE FUNCTION sheaf.attach_event_partition(attached_name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET lock_timeout = '2s'
    AS $$
    DECLARE
        kept record;
    BEGIN
        PERFORM pg_advisory_xact_lock(24239, -1);
        SELECT p.lower_bound INTO kept FROM (
            SELECT d.partition_name, d.lower_bound FROM sheaf.detached_partitions d
            UNION ALL SELECT a.partition_name, a.lower_bound FROM sheaf.partition_archives a
        ) p WHERE p.partition_name = attached_name LIMIT 1;
        IF kept.lower_bound < (SELECT b.closed_before FROM sheaf.history_boundaries b) THEN
            RAISE EXCEPTION 'partition % is of a time that is closed to writes', attached_name
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'sheaf partition restore puts an archived one back.';
        END IF;
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
CREATE OR REPLACE FUNCTION sheaf.ensure_change_publication() RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        -- The heartbeat beside the data: it says how old what follows it is, and moves the slot of an idle database.
        wanted CONSTANT regclass[] := ARRAY['sheaf.attributes'::regclass, 'sheaf.entities'::regclass, 'sheaf.entity_events'::regclass,
            'sheaf.entity_events_late'::regclass, 'sheaf.entity_keyframes'::regclass, 'sheaf.replication_heartbeat'::regclass,
            'sheaf.tenants'::regclass];
        there record;
        is_right boolean;
    BEGIN
        PERFORM pg_advisory_xact_lock(24239, -6);
        SELECT p.oid, NOT p.puballtables AND p.pubinsert AND p.pubupdate AND NOT p.pubdelete AND NOT p.pubtruncate AND p.pubviaroot AS is_right
            INTO there FROM pg_publication p WHERE p.pubname = 'sheaf_events';
        is_right := there.is_right
            AND (SELECT array_agg(r.prrelid ORDER BY r.prrelid) FROM pg_publication_rel r WHERE r.prpubid = there.oid)
                = (SELECT array_agg(w.relation::oid ORDER BY w.relation::oid) FROM unnest(wanted) AS w (relation))
            AND NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = there.oid AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL))
            AND NOT EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = there.oid);
        IF is_right THEN
            RETURN 'unchanged';
        END IF;
        IF there.oid IS NOT NULL THEN
            DROP PUBLICATION sheaf_events;
        END IF;
        DELETE FROM sheaf.change_sinks;
        DELETE FROM sheaf.change_slots;
        -- By the root, so that a partition that is made, detached or dropped changes nothing. No deletes and no truncates:
        -- what retention removes here stays where it was sent.
        EXECUTE format('CREATE PUBLICATION sheaf_events FOR TABLE %s WITH (publish = %L, publish_via_partition_root = true)',
            (SELECT string_agg(w.relation::text, ', ') FROM unnest(wanted) AS w (relation)), 'insert, update');
        RETURN CASE WHEN there.oid IS NULL THEN 'created' ELSE 'mended' END;
    END
    $$;
-- They are empty, and so nothing of them was left out: a publication that is there is not made anew for them.
DO $publication$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_publication p WHERE p.pubname = 'sheaf_events' AND NOT p.puballtables) THEN
        ALTER PUBLICATION sheaf_events ADD TABLE sheaf.entity_events_late, sheaf.entity_keyframes;
    END IF;
END
$publication$;

DO $policies$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['entity_events_late', 'entity_keyframes']
    LOOP
        EXECUTE format('ALTER TABLE sheaf.%I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE sheaf.%I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY tenant_only ON sheaf.%I TO sheaf_app
            USING (tenant_id = (SELECT sheaf.current_tenant()))
            WITH CHECK (tenant_id = (SELECT sheaf.current_tenant()))', tenant_table);
        EXECUTE format('CREATE POLICY owner_all ON sheaf.%I TO sheaf_owner USING (true) WITH CHECK (true)', tenant_table);
        EXECUTE format('CREATE POLICY cdc_reads ON sheaf.%I FOR SELECT TO sheaf_cdc USING (true)', tenant_table);
    END LOOP;
END
$policies$;
CREATE POLICY writer_all ON sheaf.entity_events_late TO sheaf_writer USING (true) WITH CHECK (true);

REVOKE ALL ON FUNCTION sheaf.fold_history(bigint[], bigint[], timestamptz), sheaf.close_period(text, timestamptz),
    sheaf.write_keyframes(text, integer, timestamptz),
    sheaf.pass_boundary(text, text, bigint, pg_lsn, bigint, bigint, text, timestamptz),
    sheaf.require_archived_before(timestamptz),
    sheaf.read_archived_partition(text, bigint, bigint, timestamptz, smallint, bigint),
    sheaf.drop_archived_partition(text, timestamptz), sheaf.prepare_restored_partition(text), sheaf.finish_restore(text, timestamptz) FROM PUBLIC;
GRANT SELECT ON sheaf.history_boundaries TO sheaf_app, sheaf_writer, sheaf_cdc;
GRANT SELECT ON sheaf.entity_events_late, sheaf.entity_keyframes TO sheaf_app, sheaf_cdc;
GRANT SELECT, INSERT ON sheaf.entity_events_late TO sheaf_writer;
GRANT SELECT ON sheaf.partition_archives TO sheaf_cdc;
GRANT EXECUTE ON FUNCTION sheaf.require_archived_before(timestamptz) TO sheaf_cdc;
