-- The staged mode: rows that were acknowledged before they are durable, and the flush that makes them so.
-- Why: a request that needs no durability is answered after a copy into an UNLOGGED table; a flush then appends its events
--   and merges them into documents by the rules of the fold, many requests in one transaction.
-- Locks: ACCESS EXCLUSIVE on ingest_requests and rejections for a moment: nullable columns, and a wider check that is not
--   asked of rows which satisfied the narrower one. Everything else is made by this file.
-- Runs beside servers of the versions before: they stage nothing and leave these objects alone. A flush tells lanes that
--   remember documents that somebody else wrote, in bucket_writers; older ones read documents under the buckets' locks.

-- What is true of the UNLOGGED rows between two recoveries is an epoch. Recovery empties the canary with them, and a dump
-- takes it to another cluster, where neither numbers of transactions nor places in the log mean what they did.
CREATE TABLE sheaf.staging_epochs (
    epoch bigint NOT NULL,
    began_at timestamptz NOT NULL,
    confirmed_at timestamptz NOT NULL,
    confirmed_snapshot pg_snapshot,
    CONSTRAINT staging_epochs_pkey PRIMARY KEY (epoch)
) WITH (fillfactor = 50);
COMMENT ON TABLE sheaf.staging_epochs IS 'The times between two losses of everything that was staged; the last one is now.';
COMMENT ON COLUMN sheaf.staging_epochs.epoch IS 'The number of the epoch, from 1: one more is one loss.';
COMMENT ON COLUMN sheaf.staging_epochs.began_at IS 'When the loss before it was found.';
COMMENT ON COLUMN sheaf.staging_epochs.confirmed_at IS 'What had committed by then is on disk. A batch staged before is registered or was never staged.';
COMMENT ON COLUMN sheaf.staging_epochs.confirmed_snapshot IS 'Transactions that it shows are on disk; null: none is known to be.';
INSERT INTO sheaf.staging_epochs (epoch, began_at, confirmed_at) VALUES (1, now(), now());

CREATE UNLOGGED TABLE sheaf.staging_canary (
    only_row boolean PRIMARY KEY DEFAULT true,
    epoch bigint NOT NULL,
    system_identifier bigint NOT NULL,
    seen_at timestamptz,
    seen_snapshot pg_snapshot,
    seen_lsn pg_lsn,
    CONSTRAINT staging_canary_only_row CHECK (only_row)
) WITH (fillfactor = 50);
COMMENT ON TABLE sheaf.staging_canary IS 'One row that is lost with everything that is staged: while it is there, they are.';
COMMENT ON COLUMN sheaf.staging_canary.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN sheaf.staging_canary.epoch IS 'The epoch that it stands for.';
COMMENT ON COLUMN sheaf.staging_canary.system_identifier IS 'The cluster in which the epoch began. In another one it has ended.';
COMMENT ON COLUMN sheaf.staging_canary.seen_at IS 'When seen_snapshot was taken.';
COMMENT ON COLUMN sheaf.staging_canary.seen_snapshot IS 'Transactions that had committed by then.';
COMMENT ON COLUMN sheaf.staging_canary.seen_lsn IS 'Once the log is on disk up to here, so are they. Of no use after a recovery, and lost in it.';
INSERT INTO sheaf.staging_canary (epoch, system_identifier) SELECT 1, s.system_identifier FROM pg_control_system() s;

CREATE FUNCTION sheaf.staging_epoch() RETURNS bigint
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT c.epoch FROM sheaf.staging_canary c
        WHERE c.system_identifier = (SELECT s.system_identifier FROM pg_control_system() s)
    $$;
COMMENT ON FUNCTION sheaf.staging_epoch() IS 'The epoch now; null where everything that was staged is lost and nobody has said so yet.';

-- No key and no sequence of its own means anything later: recovery empties the table and would begin again at 1.
CREATE UNLOGGED TABLE sheaf.entity_values_ingest (
    tenant_id bigint NOT NULL,
    entity_id bigint NOT NULL,
    observed_at timestamptz,
    op "char" NOT NULL,
    batch_id uuid NOT NULL,
    ingested_at timestamptz NOT NULL,
    attrs jsonb NOT NULL,
    ordinal integer NOT NULL,
    bucket integer NOT NULL,
    value_count integer NOT NULL,
    value_bytes integer NOT NULL,
    series jsonb,
    beside bigint[]
);
CREATE INDEX entity_values_ingest_batch_id ON sheaf.entity_values_ingest (batch_id);
COMMENT ON TABLE sheaf.entity_values_ingest IS 'Events that are staged: acknowledged, neither durable nor readable yet. Lost in any recovery of PostgreSQL.';
COMMENT ON COLUMN sheaf.entity_values_ingest.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.entity_values_ingest.entity_id IS 'The entity.';
COMMENT ON COLUMN sheaf.entity_values_ingest.observed_at IS 'The instant that the event is about; null: the flush gives it one after the entity''s newest event.';
COMMENT ON COLUMN sheaf.entity_values_ingest.op IS 'p patch, r replace, d delete.';
COMMENT ON COLUMN sheaf.entity_values_ingest.batch_id IS 'The request that brought it.';
COMMENT ON COLUMN sheaf.entity_values_ingest.ingested_at IS 'When the server received it.';
COMMENT ON COLUMN sheaf.entity_values_ingest.attrs IS 'Attribute number to value; null is removed.';
COMMENT ON COLUMN sheaf.entity_values_ingest.ordinal IS 'The place of the event in its request, from 0: their order of commit.';
COMMENT ON COLUMN sheaf.entity_values_ingest.bucket IS 'The bucket of the entity, as servers compute it.';
COMMENT ON COLUMN sheaf.entity_values_ingest.value_count IS 'How many attributes the event names.';
COMMENT ON COLUMN sheaf.entity_values_ingest.value_bytes IS 'About how many bytes its values take.';
COMMENT ON COLUMN sheaf.entity_values_ingest.series IS 'Tags that are recorded where the event names its series: the first of an entity, the first after it was emptied, a late one.';
COMMENT ON COLUMN sheaf.entity_values_ingest.beside IS 'Attributes that are tags beside the id: two events of an instant that differ in one are two series, which is refused.';

CREATE TABLE sheaf.staged_batches (
    tenant_id bigint NOT NULL,
    batch_id uuid NOT NULL,
    request_key text COLLATE "C" NOT NULL,
    request_hash bytea NOT NULL,
    epoch bigint NOT NULL,
    status text NOT NULL DEFAULT 'staged',
    events integer NOT NULL,
    refused integer NOT NULL,
    staged_events integer NOT NULL,
    value_count bigint NOT NULL,
    buckets integer[] NOT NULL,
    received_at timestamptz NOT NULL,
    staged_at timestamptz NOT NULL,
    flush_failures integer NOT NULL DEFAULT 0,
    flush_after timestamptz,
    CONSTRAINT staged_batches_pkey PRIMARY KEY (tenant_id, batch_id),
    CONSTRAINT staged_batches_tenant FOREIGN KEY (tenant_id) REFERENCES sheaf.tenants (tenant_id),
    CONSTRAINT staged_batches_status CHECK (status IN ('staged', 'lost'))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- A key is taken while its batch is staged; after a loss the request may come again.
CREATE UNIQUE INDEX staged_batches_request_key ON sheaf.staged_batches (tenant_id, request_key) WHERE status = 'staged';
-- Batch ids begin with their time: flushes take the oldest first.
CREATE INDEX staged_batches_queue ON sheaf.staged_batches (staged_at, batch_id) WHERE status = 'staged';
COMMENT ON TABLE sheaf.staged_batches IS 'Requests that are staged or were lost. Their flush moves them into the ledger, with what they came to.';
COMMENT ON COLUMN sheaf.staged_batches.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.staged_batches.batch_id IS 'The request''s number.';
COMMENT ON COLUMN sheaf.staged_batches.request_key IS 'As in the ledger.';
COMMENT ON COLUMN sheaf.staged_batches.request_hash IS 'As in the ledger.';
COMMENT ON COLUMN sheaf.staged_batches.epoch IS 'The epoch in which it was staged: it is lost with it.';
COMMENT ON COLUMN sheaf.staged_batches.status IS 'Staged; or lost, once the loss was found.';
COMMENT ON COLUMN sheaf.staged_batches.events IS 'How many events the request held.';
COMMENT ON COLUMN sheaf.staged_batches.refused IS 'How many of them were refused before anything was staged.';
COMMENT ON COLUMN sheaf.staged_batches.staged_events IS 'How many rows it has in entity_values_ingest.';
COMMENT ON COLUMN sheaf.staged_batches.value_count IS 'How many values they name.';
COMMENT ON COLUMN sheaf.staged_batches.buckets IS 'The buckets of its entities, ascending.';
COMMENT ON COLUMN sheaf.staged_batches.received_at IS 'When the request arrived.';
COMMENT ON COLUMN sheaf.staged_batches.staged_at IS 'When it was staged, by the database''s clock.';
COMMENT ON COLUMN sheaf.staged_batches.flush_failures IS 'How many flushes that it was part of have failed by what they flushed.';
COMMENT ON COLUMN sheaf.staged_batches.flush_after IS 'No flush takes it before; null where none has failed.';

ALTER TABLE sheaf.ingest_requests ADD COLUMN flush_xid xid8;
COMMENT ON COLUMN sheaf.ingest_requests.flush_xid IS 'The flush that stored a staged request: it is durable once a confirmed snapshot shows this transaction.';
ALTER TABLE sheaf.ingest_requests ADD COLUMN flush_epoch bigint;
COMMENT ON COLUMN sheaf.ingest_requests.flush_epoch IS 'The epoch of that flush: whatever of it a later epoch finds, a recovery or a restore has kept.';
ALTER TABLE sheaf.ingest_requests ADD COLUMN staged_values bigint;
COMMENT ON COLUMN sheaf.ingest_requests.staged_values IS 'How many values a staged request was answered to hold, before its flush.';
ALTER TABLE sheaf.rejections ADD COLUMN refused_in_flush boolean;
COMMENT ON COLUMN sheaf.rejections.refused_in_flush IS 'True: its request was answered as staged before this was refused, so that no answer lists it. Null: the answer does.';
ALTER TABLE sheaf.ingest_requests DROP CONSTRAINT ingest_requests_ack;
ALTER TABLE sheaf.ingest_requests ADD CONSTRAINT ingest_requests_ack CHECK (ack IN ('durable', 'replicated', 'staged')) NOT VALID;

-- Functions of one expression have no search path of their own, since PostgreSQL would call them instead of writing them out
-- in the statement. Only the owner may call them, which is who calls the others.

-- Cells of a part of a document that are newer than a floor. A cell without a time of its own has the newest event's.
CREATE FUNCTION sheaf.cells_after(part jsonb, times jsonb, newest_micros bigint, floor_micros bigint) RETURNS jsonb
    LANGUAGE sql IMMUTABLE
    AS $$
        SELECT coalesce(jsonb_object_agg(c.key, c.value), '{}') FROM jsonb_each(part) c
        WHERE coalesce((times ->> c.key)::bigint, newest_micros) > floor_micros
    $$;
COMMENT ON FUNCTION sheaf.cells_after(jsonb, jsonb, bigint, bigint) IS 'What a replace or delete leaves of a part of a document.';

CREATE FUNCTION sheaf.micros_of(instant timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM instant) * 1000000)::bigint $$;
COMMENT ON FUNCTION sheaf.micros_of(timestamptz) IS 'Microseconds since 1970.';

-- The append of the fold, event by event: for an entity with late events, with several of one instant, without times, or
-- whose series has to be named. sheaf-model has the rule, this is its other form; a property test holds them together.
CREATE FUNCTION sheaf.append_staged(of_tenant bigint, of_entity bigint, document_newest timestamptz,
        document_floor timestamptz, held jsonb, events sheaf.entity_values_ingest[], flushed_at timestamptz)
    RETURNS TABLE (batch_id uuid, ordinal integer, bucket integer, ingested_at timestamptz, outcome text, value_count integer,
        observed_at timestamptz, seq smallint, op "char", attrs jsonb, code text, field bigint, reason text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        document_bytes_max constant integer := 16 * 1024 * 1024;
        seq_end constant integer := 16384;
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
                    FOR stored IN SELECT e.seq, e.op, e.attrs FROM sheaf.entity_events e
                        WHERE e.tenant_id = of_tenant AND e.entity_id = of_entity AND e.observed_at = append_staged.observed_at
                        ORDER BY e.seq
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

            seq := coalesce(last_seq + 1, 0);
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
            IF seq = seq_end THEN
                outcome := 'refused'; code := 'quota_exceeded'; seq := NULL;
                reason := format('the instant holds %s corrections, the most that are kept', seq_end);
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
COMMENT ON FUNCTION sheaf.append_staged(bigint, bigint, timestamptz, timestamptz, jsonb, sheaf.entity_values_ingest[], timestamptz)
    IS 'Which row each of an entity''s staged events becomes beside those that are there, by the rules of the fold.';

-- Which parts of documents values belong in. While attributes move, theirs are put in place with every write.
CREATE FUNCTION sheaf.temperatures_of(of_tenant bigint, OUT hot jsonb, OUT warming text[], OUT cooling text[])
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce(jsonb_object_agg(a.attribute_id, true) FILTER (WHERE a.temperature IN ('hot', 'warming')), '{}'),
            array_agg(a.attribute_id::text) FILTER (WHERE a.temperature = 'warming'),
            array_agg(a.attribute_id::text) FILTER (WHERE a.temperature = 'cooling')
        FROM sheaf.attributes a WHERE a.tenant_id = of_tenant AND a.temperature <> 'cold'
    $$;
COMMENT ON FUNCTION sheaf.temperatures_of(bigint) IS 'The attributes of a tenant that are written to the indexed part, and those that are moving.';

-- A number of the form of the servers' own: milliseconds first, so that later refusals sort later.
CREATE FUNCTION sheaf.next_rejection_id() RETURNS uuid
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT (left(t.millis, 8) || '-' || right(t.millis, 4) || '-7' || substr(gen_random_uuid()::text, 16))::uuid
        FROM (SELECT lpad(to_hex(sheaf.micros_of(clock_timestamp()) / 1000), 12, '0') AS millis) t
    $$;
COMMENT ON FUNCTION sheaf.next_rejection_id() IS 'A number for a refusal; later ones sort later.';

-- The event is kept once, with its first refusal. Here it is written anew: what was staged is all that there is of it.
CREATE FUNCTION sheaf.describe_refused(of_tenant bigint, of_batch uuid, of_index integer, of_entity bigint,
        of_time timestamptz, of_attrs jsonb, OUT ordinal integer, OUT entity_type text, OUT raw bytea, OUT format text,
        OUT "precision" text, OUT id_tags jsonb)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        external_id text;
    BEGIN
        SELECT r.ordinal + 1, r.entity_type, f.format, f.precision, f.id_tags
            INTO ordinal, entity_type, format, "precision", id_tags
            FROM sheaf.rejections r
            JOIN sheaf.rejections f ON f.tenant_id = r.tenant_id AND f.batch_id = r.batch_id AND f.event_index = r.event_index AND f.ordinal = 0
            WHERE r.tenant_id = of_tenant AND r.batch_id = of_batch AND r.event_index = of_index
            ORDER BY r.ordinal DESC LIMIT 1;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT n.entity_type, n.external_id INTO entity_type, external_id
            FROM sheaf.entities n WHERE n.tenant_id = of_tenant AND n.entity_id = of_entity;
        ordinal := 0;
        format := 'json';
        raw := convert_to(jsonb_strip_nulls(jsonb_build_object('type', entity_type, 'id', external_id,
                'observed_at', to_char(of_time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))::jsonb
            || jsonb_build_object('attributes', CASE WHEN jsonb_typeof(of_attrs) <> 'object' THEN of_attrs ELSE (
                SELECT coalesce(jsonb_object_agg(coalesce(a.name, c.key), c.value), '{}') FROM jsonb_each(of_attrs) c
                LEFT JOIN sheaf.attributes a ON a.tenant_id = of_tenant AND a.attribute_id::text = c.key) END)::text, 'UTF8');
    END
    $$;
COMMENT ON FUNCTION sheaf.describe_refused(bigint, uuid, integer, bigint, timestamptz, jsonb)
    IS 'What is kept of a staged event that is refused in the flush.';

CREATE FUNCTION sheaf.refuse_staged(refused sheaf.entity_values_ingest[], of_reason text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        INSERT INTO sheaf.rejections (tenant_id, rejection_id, batch_id, event_index, ordinal, entity_type, code, reason, raw,
            received_at, format, "precision", id_tags, refused_in_flush)
        SELECT e.tenant_id, sheaf.next_rejection_id(), e.batch_id, e.ordinal, k.ordinal, k.entity_type, 'schema_violation',
            of_reason, k.raw, e.ingested_at, k.format, k.precision, k.id_tags, true
        FROM (SELECT u.* FROM unnest(refused) u ORDER BY u.batch_id, u.ordinal) e
        CROSS JOIN LATERAL sheaf.describe_refused(e.tenant_id, e.batch_id, e.ordinal, e.entity_id, e.observed_at, e.attrs) k;
        INSERT INTO sheaf.ingest_parts (tenant_id, request_key, bucket, value_count, accepted, duplicates, merged, corrected, refused)
        SELECT e.tenant_id, q.request_key, e.bucket, 0, 0, 0, 0, 0, e.refused
        FROM (SELECT u.tenant_id, u.batch_id, u.bucket, count(*) AS refused FROM unnest(refused) u GROUP BY 1, 2, 3) e
        CROSS JOIN LATERAL (SELECT i.request_key FROM sheaf.ingest_requests i
            WHERE i.tenant_id = e.tenant_id AND i.batch_id = e.batch_id OFFSET 0) q
        ON CONFLICT (tenant_id, request_key, bucket) DO UPDATE SET refused = ingest_parts.refused + excluded.refused;
    END
    $$;
COMMENT ON FUNCTION sheaf.refuse_staged(sheaf.entity_values_ingest[], text) IS 'Keeps staged events as refusals, and counts them.';

-- The move of a batch's events into history and documents, in one statement. Under the buckets' locks.
CREATE FUNCTION sheaf.flush_events(batches uuid[], ordinal_from integer, ordinal_to integer, flushed_at timestamptz,
        OUT events bigint, OUT duplicates bigint, OUT merged bigint, OUT corrected bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        closed tstzmultirange;
        closed_to sheaf.entity_values_ingest[];
    BEGIN
        -- Its owner could write into a partition that is being taken out, which servers may not.
        IF EXISTS (SELECT FROM sheaf.detached_partitions) THEN
            SELECT range_agg(tstzrange(p.lower_bound, p.upper_bound)) INTO closed
                FROM sheaf.list_attached_partitions() p WHERE NOT p.accepts_writes;
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
                s.value_count, s.observed_at, 0::smallint AS seq, s.op, s.attrs,
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
            FROM decided r WHERE r.seq IS NOT NULL
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
COMMENT ON FUNCTION sheaf.flush_events(uuid[], integer, integer, timestamptz)
    IS 'Moves staged events of some batches, of a range of places in them, into history, documents and ledger.';

-- Who is to blame for what a flush failed with. The event: what the database refuses to store, and whatever it says of an
-- event again and again. The batch: what may come from too much of it at once, or from damage; it waits, and the others go
-- on. The database: what concerns every flush, or will be over soon; nothing is decided by it.
CREATE FUNCTION sheaf.blame_of_flush_fault(fault text, is_apart boolean) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE
            WHEN left(fault, 2) IN ('22', '23', '54') THEN 'event'
            -- A block that cannot be read, a file that is missing and a bound on temporary files are met by the batch
            -- that needs them, and would stop everybody if they were the database's.
            WHEN left(fault, 2) = '58' OR fault IN ('53200', '53400', '57014', 'XX001', 'XX002') THEN 'batch'
            WHEN left(fault, 2) IN ('08', '25', '40', '53', '57') OR fault = '55P03' THEN 'database'
            WHEN is_apart THEN 'event'
            ELSE 'batch'
        END
    $$;
COMMENT ON FUNCTION sheaf.blame_of_flush_fault(text, boolean) IS 'Whether an event, a batch or the database is to blame for the SQLSTATE that a flush failed with; is_apart: the batch is flushed by itself, since flushes with it have failed before.';

-- An event that PostgreSQL itself refuses is found by halves, kept as a refusal, and leaves the others alone.
CREATE FUNCTION sheaf.flush_apart(batch uuid, ordinal_from integer, ordinal_to integer, flushed_at timestamptz, is_apart boolean,
        OUT events bigint, OUT duplicates bigint, OUT merged bigint, OUT corrected bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        part record;
        poison sheaf.entity_values_ingest;
        middle integer;
        fault text;
    BEGIN
        BEGIN
            SELECT * INTO events, duplicates, merged, corrected
                FROM sheaf.flush_events(ARRAY[batch], ordinal_from, ordinal_to, flushed_at);
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS fault = RETURNED_SQLSTATE;
            IF sheaf.blame_of_flush_fault(fault, is_apart) <> 'event' THEN
                RAISE;
            END IF;
        END;
        SELECT count(*) AS staged, min(i.ordinal) AS first, max(i.ordinal) AS last INTO part FROM sheaf.entity_values_ingest i
            WHERE i.batch_id = batch AND i.ordinal >= ordinal_from AND i.ordinal < ordinal_to;
        IF part.staged > 1 THEN
            middle := part.first + (part.last - part.first + 1) / 2;
            SELECT sum(h.events), sum(h.duplicates), sum(h.merged), sum(h.corrected) INTO events, duplicates, merged, corrected
                FROM (VALUES (part.first, middle), (middle, part.last + 1)) AS v (first, after)
                CROSS JOIN LATERAL sheaf.flush_apart(batch, v.first, v.after, flushed_at, is_apart) h;
            RETURN;
        END IF;
        events := 1; duplicates := 0; merged := 0; corrected := 0;
        DELETE FROM sheaf.entity_values_ingest i WHERE i.batch_id = batch AND i.ordinal >= ordinal_from AND i.ordinal < ordinal_to
            RETURNING i.* INTO poison;
        PERFORM sheaf.refuse_staged(ARRAY[poison], format('the database refused to store the event (%s)', fault));
    END
    $$;
COMMENT ON FUNCTION sheaf.flush_apart(uuid, integer, integer, timestamptz, boolean)
    IS 'Moves what can be moved of a batch; an event that cannot is kept as a refusal.';

-- Whether everything that was staged is lost. If so, the batches say so and an epoch begins, in the caller's transaction.
CREATE FUNCTION sheaf.detect_staging_loss(OUT epoch bigint, OUT batches_lost bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        batches_lost := 0;
        epoch := sheaf.staging_epoch();
        IF epoch IS NOT NULL THEN
            RETURN;
        END IF;
        -- One finder at a time over all servers; the second finds what the first has begun.
        PERFORM pg_advisory_xact_lock(24239, -4);
        epoch := sheaf.staging_epoch();
        IF epoch IS NOT NULL THEN
            RETURN;
        END IF;
        -- No flush has been since the recovery, so that those which are there come from the disk.
        INSERT INTO sheaf.staging_epochs (epoch, began_at, confirmed_at, confirmed_snapshot)
            SELECT max(e.epoch) + 1, clock_timestamp(), clock_timestamp(), pg_current_snapshot() FROM sheaf.staging_epochs e
            RETURNING staging_epochs.epoch INTO epoch;
        UPDATE sheaf.staged_batches b SET status = 'lost' WHERE b.status = 'staged';
        GET DIAGNOSTICS batches_lost = ROW_COUNT;
        -- What is left of rows and canary comes from another cluster, or from somebody's hand. Where those rows were staged
        -- they are flushed.
        TRUNCATE sheaf.entity_values_ingest;
        DELETE FROM sheaf.staging_canary;
        INSERT INTO sheaf.staging_canary (epoch, system_identifier)
            SELECT detect_staging_loss.epoch, s.system_identifier FROM pg_control_system() s;
    END
    $$;
COMMENT ON FUNCTION sheaf.detect_staging_loss() IS 'The epoch now; where a recovery has emptied the staging table, or a dump was restored into another cluster, a new one, and how many batches are lost.';

-- A commit that did not wait for the disk is there once the log is there up to a place after it. What is seen now is
-- confirmed by a later call; what is seen lies in the canary, so that no recovery or other timeline is mistaken for it.
CREATE FUNCTION sheaf.confirm_staging(OUT seen_at timestamptz, OUT confirmed_at timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        canary record;
    BEGIN
        -- Of several that confirm at once, one does.
        SELECT c.epoch, c.seen_at, c.seen_snapshot, c.seen_lsn INTO canary FROM sheaf.staging_canary c
            WHERE c.epoch = (SELECT sheaf.staging_epoch()) FOR UPDATE SKIP LOCKED;
        IF FOUND AND canary.seen_lsn <= pg_current_wal_flush_lsn() THEN
            UPDATE sheaf.staging_epochs e SET confirmed_at = canary.seen_at, confirmed_snapshot = canary.seen_snapshot
                WHERE e.epoch = canary.epoch AND e.confirmed_at < canary.seen_at;
            canary.seen_lsn := NULL;
        END IF;
        IF canary.epoch IS NOT NULL AND canary.seen_lsn IS NULL THEN
            -- The snapshot is older than the place, so that all that it shows lies before it.
            UPDATE sheaf.staging_canary c SET seen_at = clock_timestamp(), seen_snapshot = pg_current_snapshot(),
                seen_lsn = pg_current_wal_insert_lsn();
        END IF;
        SELECT c.seen_at INTO seen_at FROM sheaf.staging_canary c WHERE c.epoch = (SELECT sheaf.staging_epoch());
        SELECT e.confirmed_at INTO confirmed_at FROM sheaf.staging_epochs e ORDER BY e.epoch DESC LIMIT 1;
    END
    $$;
COMMENT ON FUNCTION sheaf.confirm_staging() IS 'Confirms what was seen to have committed before, once it is on disk, and looks again. All before confirmed_at is durable.';

-- What a flush has chosen, with its ledger; whole, or it fails. Under the buckets' locks.
CREATE FUNCTION sheaf.move_staged(taken_tenants bigint[], taken_batches uuid[], taken_events bigint, is_apart boolean,
        OUT batches bigint, OUT events bigint, OUT duplicates bigint, OUT merged bigint, OUT corrected bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        flushed_at constant timestamptz := clock_timestamp();
        attempt integer := 0;
        is_moved boolean := false;
        batch record;
        part record;
    BEGIN
        batches := cardinality(taken_batches); events := 0; duplicates := 0; merged := 0; corrected := 0;
        -- A key that another request has taken meanwhile leaves the batch its own number.
        INSERT INTO sheaf.ingest_requests (tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused,
            received_at, durable_at, flush_xid, flush_epoch, staged_values)
        SELECT b.tenant_id, b.request_key, b.batch_id, b.request_hash, 'stored', 'staged', b.events, b.refused,
            b.received_at, flushed_at, pg_current_xact_id(), b.epoch, b.value_count
        FROM unnest(taken_tenants, taken_batches) AS t (tenant_id, batch_id)
        CROSS JOIN LATERAL (SELECT s.* FROM sheaf.staged_batches s WHERE s.tenant_id = t.tenant_id AND s.batch_id = t.batch_id OFFSET 0) b
        ORDER BY b.tenant_id, b.request_key
        ON CONFLICT (tenant_id, request_key) DO NOTHING;
        INSERT INTO sheaf.ingest_requests (tenant_id, request_key, batch_id, request_hash, outcome, ack, events, refused,
            received_at, durable_at, flush_xid, flush_epoch, staged_values)
        SELECT b.tenant_id, b.batch_id::text, b.batch_id, '', 'stored', 'staged', b.events, b.refused,
            b.received_at, flushed_at, pg_current_xact_id(), b.epoch, b.value_count
        FROM unnest(taken_tenants, taken_batches) AS t (tenant_id, batch_id)
        CROSS JOIN LATERAL (SELECT s.* FROM sheaf.staged_batches s WHERE s.tenant_id = t.tenant_id AND s.batch_id = t.batch_id OFFSET 0) b
        ON CONFLICT DO NOTHING;
        WHILE NOT is_moved AND NOT is_apart AND attempt < 2 LOOP
            attempt := attempt + 1;
            BEGIN
                SELECT f.events, f.duplicates, f.merged, f.corrected INTO events, duplicates, merged, corrected
                    FROM sheaf.flush_events(taken_batches, 0, 2147483647, flushed_at) f;
                is_moved := events = taken_events;
                IF NOT is_moved THEN
                    RAISE 'rows of staged batches are missing' USING ERRCODE = 'data_exception';
                END IF;
            EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                events := 0; duplicates := 0; merged := 0; corrected := 0;
                -- Staging makes the partitions that it needs; one may have gone since, or a time be the flush's own.
                IF attempt = 1 THEN
                    PERFORM sheaf.ensure_staged_partitions(taken_batches, flushed_at);
                END IF;
            END;
        END LOOP;
        IF is_apart THEN
            PERFORM sheaf.ensure_staged_partitions(taken_batches, flushed_at);
        END IF;
        IF NOT is_moved THEN
            FOR batch IN SELECT b.tenant_id, b.batch_id, b.staged_events, b.request_key
                FROM unnest(taken_tenants, taken_batches) AS t (tenant_id, batch_id)
                CROSS JOIN LATERAL (SELECT s.* FROM sheaf.staged_batches s WHERE s.tenant_id = t.tenant_id AND s.batch_id = t.batch_id OFFSET 0) b
                ORDER BY b.batch_id
            LOOP
                -- Less than was staged is not the batch: somebody has removed rows.
                IF batch.staged_events <> (SELECT count(*) FROM sheaf.entity_values_ingest i WHERE i.batch_id = batch.batch_id) THEN
                    DELETE FROM sheaf.entity_values_ingest i WHERE i.batch_id = batch.batch_id;
                    DELETE FROM sheaf.ingest_requests q WHERE q.tenant_id = batch.tenant_id AND q.batch_id = batch.batch_id;
                    UPDATE sheaf.staged_batches s SET status = 'lost' WHERE s.tenant_id = batch.tenant_id AND s.batch_id = batch.batch_id;
                    batches := batches - 1;
                    CONTINUE;
                END IF;
                SELECT f.events, f.duplicates, f.merged, f.corrected INTO part
                    FROM sheaf.flush_apart(batch.batch_id, 0, 2147483647, flushed_at, is_apart) f;
                events := events + part.events; duplicates := duplicates + part.duplicates;
                merged := merged + part.merged; corrected := corrected + part.corrected;
            END LOOP;
        END IF;
        DELETE FROM sheaf.staged_batches s USING unnest(taken_tenants, taken_batches) AS t (tenant_id, batch_id)
            WHERE s.tenant_id = t.tenant_id AND s.batch_id = ANY (taken_batches) AND s.batch_id = t.batch_id AND s.status = 'staged';
    END
    $$;
COMMENT ON FUNCTION sheaf.move_staged(bigint[], uuid[], bigint, boolean) IS 'Moves staged batches into history, documents and ledger; is_apart: event by event where it must be, since flushes with them have failed before.';

CREATE FUNCTION sheaf.stage_flush(events_max integer DEFAULT 10000,
        OUT batches bigint, OUT events bigint, OUT duplicates bigint, OUT merged bigint, OUT corrected bigint)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
    SET enable_nestloop = off SET enable_seqscan = off SET jit = off
    AS $$
    DECLARE
        staged_bytes_max constant bigint := 128 * 1024 * 1024;
        -- So often a flush fails together with what it chose before each batch is flushed by itself. As in the backlog.
        failures_together_max constant integer := 3;
        -- Of batches that are flushed by themselves, which may be a statement an event.
        events_apart_max constant integer := 1000;
        waiting CURSOR FOR
            SELECT b.tenant_id, b.batch_id, b.staged_events, b.buckets, least(b.flush_failures, failures_together_max) AS failures
            FROM sheaf.staged_batches b
            WHERE b.status = 'staged' AND (b.flush_after IS NULL OR b.flush_after <= clock_timestamp())
            ORDER BY b.staged_at, b.batch_id FOR UPDATE SKIP LOCKED;
        batch record;
        taken_batches uuid[] := '{}';
        taken_tenants bigint[] := '{}';
        taken_counts bigint[] := '{}';
        taken_events bigint := 0;
        taken_max bigint := events_max;
        taken_failures integer;
        touched_buckets integer[] := '{}';
        is_apart boolean;
        is_alone boolean := false;
        holds_order boolean := false;
        lock_timeout_before constant text := current_setting('lock_timeout');
        moved record;
        fault text;
        described text;
        -- What the next step moves: everything, or one batch.
        step_from integer := 1;
        step_to integer;
    BEGIN
        batches := 0; events := 0; duplicates := 0; merged := 0; corrected := 0;
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE 'stage_flush reads what commits before it: it needs READ COMMITTED' USING ERRCODE = 'feature_not_supported';
        END IF;
        PERFORM sheaf.detect_staging_loss();
        -- The table's lock before the buckets', here and in every flush. Alone, it can be emptied at the end: what is
        -- deleted takes room until then. It waits a moment for those who stage, who then wait for this flush.
        -- With batches that have failed it would wait in vain: they are flushed apart from the others, if at all.
        IF pg_relation_size('sheaf.entity_values_ingest') > staged_bytes_max
            AND NOT EXISTS (SELECT FROM sheaf.staged_batches s WHERE s.status = 'staged' AND s.flush_failures > 0)
        THEN
            BEGIN
                SET LOCAL lock_timeout = '100ms';
                LOCK TABLE sheaf.entity_values_ingest IN ACCESS EXCLUSIVE MODE;
                is_alone := true;
                -- It takes what has gathered, because only an empty table can be emptied.
                taken_max := greatest(events_max, 200000);
            EXCEPTION WHEN lock_not_available THEN
                NULL;
            END;
            PERFORM set_config('lock_timeout', lock_timeout_before, true);
        END IF;
        LOCK TABLE sheaf.entity_values_ingest IN ROW EXCLUSIVE MODE;
        -- Who chooses first has its buckets first: of two batches of one entity, the one that was staged first is flushed
        -- first, but for those that made a flush fail. Let go of as soon as the buckets are held, and whatever happens before.
        -- A lock of the session, and so noted in the same step as it is taken: nothing comes between.
        BEGIN
            holds_order := pg_advisory_lock(24239, -5) IS NOT NULL;
            OPEN waiting;
            LOOP
                EXIT WHEN taken_events >= taken_max AND cardinality(taken_batches) > 0;
                FETCH waiting INTO batch;
                EXIT WHEN NOT FOUND;
                -- Those that have failed are not mixed with those that have not.
                taken_failures := coalesce(taken_failures, batch.failures);
                EXIT WHEN batch.failures <> taken_failures;
                IF taken_failures = failures_together_max THEN
                    taken_max := events_apart_max;
                END IF;
                taken_events := taken_events + batch.staged_events;
                taken_batches := taken_batches || batch.batch_id;
                taken_tenants := taken_tenants || batch.tenant_id;
                taken_counts := taken_counts || batch.staged_events::bigint;
                touched_buckets := touched_buckets || batch.buckets;
            END LOOP;
            CLOSE waiting;
            -- In the order of everybody who writes.
            PERFORM pg_advisory_xact_lock(24239, b.bucket)
                FROM (SELECT DISTINCT u.bucket FROM unnest(touched_buckets) AS u (bucket) ORDER BY 1) b;
            holds_order := NOT pg_advisory_unlock(24239, -5);
        EXCEPTION WHEN OTHERS OR query_canceled THEN
            IF holds_order THEN
                PERFORM pg_advisory_unlock(24239, -5);
            END IF;
            RAISE;
        END;
        is_apart := taken_failures = failures_together_max;
        WHILE step_from <= cardinality(taken_batches) LOOP
            step_to := CASE WHEN is_apart THEN step_from ELSE cardinality(taken_batches) END;
            BEGIN
                SELECT m.batches, m.events, m.duplicates, m.merged, m.corrected INTO moved
                    FROM sheaf.move_staged(taken_tenants[step_from:step_to], taken_batches[step_from:step_to],
                        CASE WHEN is_apart THEN taken_counts[step_from] ELSE taken_events END, is_apart) m;
                batches := batches + moved.batches; events := events + moved.events;
                duplicates := duplicates + moved.duplicates; merged := merged + moved.merged;
                corrected := corrected + moved.corrected;
            EXCEPTION WHEN OTHERS OR query_canceled THEN
                GET STACKED DIAGNOSTICS fault = RETURNED_SQLSTATE, described = MESSAGE_TEXT;
                IF sheaf.blame_of_flush_fault(fault, is_apart) = 'database' THEN
                    RAISE;
                END IF;
                RAISE WARNING 'a flush of % staged batches failed and is put off: %', step_to - step_from + 1, described
                    USING ERRCODE = fault, DETAIL = format('The first is %s.', taken_batches[step_from]);
                UPDATE sheaf.staged_batches s SET flush_failures = s.flush_failures + 1,
                        flush_after = clock_timestamp() + least(interval '250 ms' * 2 ^ least(s.flush_failures, 20), interval '5 minutes')
                    FROM unnest(taken_tenants[step_from:step_to], taken_batches[step_from:step_to]) AS t (tenant_id, batch_id)
                    WHERE s.tenant_id = t.tenant_id AND s.batch_id = ANY (taken_batches[step_from:step_to]) AND s.batch_id = t.batch_id;
                -- The time of the statement is spent, or its memory: the others wait for the next flush.
                EXIT WHEN fault IN ('57014', '53200');
            END;
            step_from := step_to + 1;
        END LOOP;
        -- Lanes that remember documents of these buckets read them again.
        UPDATE sheaf.bucket_writers w SET written_by = NULL
            WHERE w.bucket = ANY (touched_buckets) AND w.written_by IS NOT NULL;
        IF is_alone AND NOT EXISTS (SELECT FROM sheaf.staged_batches s WHERE s.status = 'staged') THEN
            TRUNCATE sheaf.entity_values_ingest;
        END IF;
    END
    $$;
COMMENT ON FUNCTION sheaf.stage_flush(integer) IS 'Moves staged batches into history and documents, the oldest first: whole batches, also past events_max. Several run side by side. A batch that makes flushes fail is put aside. Its caller decides whether the commit waits for the disk.';

-- The partitions that staged events lack. After the buckets' locks, and no further one is taken after it.
CREATE FUNCTION sheaf.ensure_staged_partitions(batches uuid[], flushed_at timestamptz) RETURNS void
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
            WHERE NOT EXISTS (SELECT FROM attached a WHERE a.lower_bound <= t.observed_at AND t.observed_at < a.upper_bound);
            EXIT WHEN instant IS NULL;
            PERFORM sheaf.ensure_event_partition(instant);
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION sheaf.ensure_staged_partitions(uuid[], timestamptz) IS 'Makes the partitions that staged events lack.';

-- Documents anew from the whole history. The version moves, since readers may have seen another document.
CREATE FUNCTION sheaf.upsert_hot_attrs(of_tenant bigint, entity_ids bigint[]) RETURNS bigint
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
        WITH ranked AS (
            SELECT e.entity_id, r.observed_at, r.seq, r.op, r.attrs, r.op IN ('r', 'd') AS is_floor,
                row_number() OVER newest_first AS place,
                count(*) FILTER (WHERE r.op IN ('r', 'd')) OVER newest_first AS floors
            FROM (SELECT DISTINCT u.entity_id FROM unnest(entity_ids) AS u (entity_id)) e
            CROSS JOIN LATERAL (SELECT i.observed_at, i.seq, i.op, i.attrs FROM sheaf.entity_events i
                WHERE i.tenant_id = of_tenant AND i.entity_id = e.entity_id OFFSET 0) r
            WINDOW newest_first AS (PARTITION BY e.entity_id ORDER BY r.observed_at DESC, r.seq DESC)
        ), folded AS (
            SELECT r.entity_id, max(r.observed_at) AS newest, max(r.observed_at) FILTER (WHERE r.is_floor) AS floor_at,
                bool_or(r.op = 'd') FILTER (WHERE r.place = 1) AS deleted
            FROM ranked r GROUP BY r.entity_id
        ), cells AS MATERIALIZED (
            SELECT DISTINCT ON (r.entity_id, c.key) r.entity_id, c.key, c.value, r.observed_at
            FROM ranked r CROSS JOIN LATERAL jsonb_each(r.attrs) c
            WHERE r.floors = r.is_floor::integer
            ORDER BY r.entity_id, c.key, r.observed_at DESC, r.seq DESC
        ), parts AS (
            SELECT c.entity_id, array_agg(c.key::bigint ORDER BY c.key::bigint) FILTER (WHERE c.value <> 'null') AS present,
                jsonb_object_agg(c.key, c.value) FILTER (WHERE c.value <> 'null' AND t.hot ? c.key) AS hot,
                jsonb_object_agg(c.key, c.value) FILTER (WHERE c.value <> 'null' AND NOT t.hot ? c.key) AS cold,
                jsonb_object_agg(c.key, sheaf.micros_of(c.observed_at)) FILTER (WHERE c.value = 'null' OR c.observed_at <> f.newest) AS times
            FROM cells c JOIN folded f ON f.entity_id = c.entity_id
            CROSS JOIN sheaf.temperatures_of(of_tenant) t
            GROUP BY c.entity_id
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
COMMENT ON FUNCTION sheaf.upsert_hot_attrs(bigint, bigint[]) IS 'Rebuilds documents of a tenant from their history; gives back how many.';

-- The staging table has no policy, since COPY into a table with one is refused: sheaf_writer may add to it, and nobody
-- may do anything else. The others are guarded as every table of tenants.
ALTER TABLE sheaf.staged_batches ENABLE ROW LEVEL SECURITY;
ALTER TABLE sheaf.staged_batches FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON sheaf.staged_batches TO sheaf_app
    USING (tenant_id = (SELECT sheaf.current_tenant())) WITH CHECK (tenant_id = (SELECT sheaf.current_tenant()));
CREATE POLICY owner_all ON sheaf.staged_batches TO sheaf_owner USING (true) WITH CHECK (true);
CREATE POLICY writer_all ON sheaf.staged_batches TO sheaf_writer USING (true) WITH CHECK (true);

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sheaf FROM PUBLIC;
GRANT INSERT ON sheaf.entity_values_ingest TO sheaf_writer;
GRANT SELECT, INSERT ON sheaf.staged_batches TO sheaf_writer;
GRANT SELECT ON sheaf.staging_epochs, sheaf.staging_canary TO sheaf_writer, sheaf_app;
GRANT SELECT ON sheaf.staged_batches TO sheaf_app;
GRANT EXECUTE ON FUNCTION sheaf.staging_epoch() TO sheaf_writer, sheaf_app;
GRANT EXECUTE ON FUNCTION sheaf.stage_flush(integer), sheaf.detect_staging_loss(), sheaf.confirm_staging() TO sheaf_writer;
