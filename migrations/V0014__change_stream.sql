-- The change stream: what it may read, the publication that it follows, and where its slot and its sinks are.
-- Why: events leave PostgreSQL through its own log. What a sink holds is told by its position in that log, which has to outlive
--   both the process and the slot, and a slot that somebody dropped or made anew shows only beside what is remembered of it.
-- Locks: ACCESS EXCLUSIVE on tenants, attributes, entities and entity_events for a policy each, which changes the catalogue
--   alone, for milliseconds after the transactions before it have ended.
-- Runs beside servers of the versions before, which follow no changes.

-- Waits behind the transactions of others only so long, because everybody else queues behind the wait.
SET LOCAL lock_timeout = '5s';

CREATE TABLE sheaf.change_slots (
    slot_name text COLLATE "C" NOT NULL,
    system_id bigint NOT NULL,
    timeline bigint NOT NULL,
    begins_at pg_lsn NOT NULL,
    promised_lsn pg_lsn NOT NULL,
    reader bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    CONSTRAINT change_slots_pkey PRIMARY KEY (slot_name),
    CONSTRAINT change_slots_promised_lsn CHECK (promised_lsn >= begins_at)
);
COMMENT ON TABLE sheaf.change_slots IS 'The replication slots of the change stream, as it made them. What PostgreSQL says of a slot of the same name is compared with this.';
COMMENT ON COLUMN sheaf.change_slots.slot_name IS 'The slot''s name, unique in the cluster.';
COMMENT ON COLUMN sheaf.change_slots.system_id IS 'The cluster that it was made on.';
COMMENT ON COLUMN sheaf.change_slots.timeline IS 'The timeline that it was made on.';
COMMENT ON COLUMN sheaf.change_slots.begins_at IS 'It shows every transaction that commits from here on, and none before.';
COMMENT ON COLUMN sheaf.change_slots.promised_lsn IS 'How far the slot may have been told that it can forget; written before it is told. A slot that is further was moved by somebody else, or is another one.';
COMMENT ON COLUMN sheaf.change_slots.reader IS 'The number of whoever follows it, one more each time; positions are taken from the last one alone.';
COMMENT ON COLUMN sheaf.change_slots.created_at IS 'When it was made.';

CREATE TABLE sheaf.change_sinks (
    slot_name text COLLATE "C" NOT NULL,
    sink_name text COLLATE "C" NOT NULL,
    snapshot pg_snapshot NOT NULL,
    snapshot_taken_at timestamptz NOT NULL,
    snapshot_timeline bigint NOT NULL,
    snapshot_base pg_lsn NOT NULL,
    snapshot_until pg_lsn NOT NULL,
    range_lowers timestamptz[] NOT NULL,
    range_uppers timestamptz[] NOT NULL,
    step text NOT NULL,
    step_range integer NOT NULL,
    after_tenant bigint NOT NULL,
    after_number bigint NOT NULL,
    after_time timestamptz,
    after_seq smallint NOT NULL,
    snapshot_ordinal bigint NOT NULL,
    timeline bigint,
    commit_lsn pg_lsn,
    ordinal bigint,
    stored_at timestamptz NOT NULL,
    CONSTRAINT change_sinks_pkey PRIMARY KEY (slot_name, sink_name),
    CONSTRAINT change_sinks_slot FOREIGN KEY (slot_name) REFERENCES sheaf.change_slots (slot_name),
    CONSTRAINT change_sinks_step CHECK (step IN ('tenants', 'attributes', 'entities', 'events', 'done')),
    CONSTRAINT change_sinks_ranges CHECK (cardinality(range_lowers) = cardinality(range_uppers)),
    CONSTRAINT change_sinks_position CHECK ((timeline IS NULL) = (commit_lsn IS NULL) AND (timeline IS NULL) = (ordinal IS NULL))
);
COMMENT ON TABLE sheaf.change_sinks IS 'How far each sink of the change stream durably is: in its snapshot, and in the stream. What it was sent after that is sent again.';
COMMENT ON COLUMN sheaf.change_sinks.slot_name IS 'The slot that it is fed from.';
COMMENT ON COLUMN sheaf.change_sinks.sink_name IS 'The sink.';
COMMENT ON COLUMN sheaf.change_sinks.snapshot IS 'What its snapshot sees. The stream leaves out the transactions that this sees.';
COMMENT ON COLUMN sheaf.change_sinks.snapshot_taken_at IS 'When the snapshot was taken.';
COMMENT ON COLUMN sheaf.change_sinks.snapshot_timeline IS 'The timeline that it was taken on.';
COMMENT ON COLUMN sheaf.change_sinks.snapshot_base IS 'The log position that the rows of the snapshot bear: before everything that the slot showed by then.';
COMMENT ON COLUMN sheaf.change_sinks.snapshot_until IS 'The end of the log when it was taken: what committed later it does not see.';
COMMENT ON COLUMN sheaf.change_sinks.range_lowers IS 'The first instants of the partitions that it reads, in order.';
COMMENT ON COLUMN sheaf.change_sinks.range_uppers IS 'The first instants after them.';
COMMENT ON COLUMN sheaf.change_sinks.step IS 'The table that it is in: tenants, attributes, entities, events, or done.';
COMMENT ON COLUMN sheaf.change_sinks.step_range IS 'The place of the partition that it is in, from 0.';
COMMENT ON COLUMN sheaf.change_sinks.after_tenant IS 'The tenant of the last row that the sink holds of the step; the next row follows it in the order of the primary key.';
COMMENT ON COLUMN sheaf.change_sinks.after_number IS 'The attribute or entity of that row.';
COMMENT ON COLUMN sheaf.change_sinks.after_time IS 'The instant of that row; null before the first.';
COMMENT ON COLUMN sheaf.change_sinks.after_seq IS 'The seq of that row.';
COMMENT ON COLUMN sheaf.change_sinks.snapshot_ordinal IS 'The place of that row in the snapshot, from 1.';
COMMENT ON COLUMN sheaf.change_sinks.timeline IS 'The timeline of the last change of the stream that the sink holds; null before the first.';
COMMENT ON COLUMN sheaf.change_sinks.commit_lsn IS 'Where its transaction was committed.';
COMMENT ON COLUMN sheaf.change_sinks.ordinal IS 'Its place in its transaction, from 1.';
COMMENT ON COLUMN sheaf.change_sinks.stored_at IS 'When this was last written.';

-- The rows of a table that commit while it is not published are never sent, so that a publication that had to be made or
-- mended makes what a slot sent before it incomplete: slots are forgotten in the same transaction, and whoever follows one then
-- makes it anew. As the owner: nobody else may publish its tables.
CREATE FUNCTION sheaf.ensure_change_publication() RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        -- The heartbeat beside the data: it says how old what follows it is, and moves the slot of an idle database.
        wanted CONSTANT regclass[] := ARRAY['sheaf.attributes'::regclass, 'sheaf.entities'::regclass, 'sheaf.entity_events'::regclass,
            'sheaf.replication_heartbeat'::regclass, 'sheaf.tenants'::regclass];
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
COMMENT ON FUNCTION sheaf.ensure_change_publication() IS 'Makes the publication that the change stream follows what it has to be: unchanged, created or mended. Where it was not, every slot is forgotten, because it lacks what was not published.';

-- A row's xmin is the low half of a transaction's number: the last one before the next number that ends like that.
CREATE FUNCTION sheaf.is_in_snapshot(row_xmin xid, next_number bigint, taken pg_snapshot) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    AS $$
        SELECT pg_visible_in_snapshot((CASE
            WHEN (next_number >> 32 << 32) + row_xmin::text::bigint < next_number THEN (next_number >> 32 << 32) + row_xmin::text::bigint
            ELSE (next_number >> 32 << 32) + row_xmin::text::bigint - 4294967296
        END)::text::xid8, taken)
    $$;
COMMENT ON FUNCTION sheaf.is_in_snapshot(xid, bigint, pg_snapshot) IS 'Whether a snapshot sees the transaction of a row''s xmin; next_number is the number that the next transaction gets.';

-- By the locks that writers take first. Only their number is secret from the change stream's role: it stands beside a key.
CREATE FUNCTION sheaf.lock_every_bucket() RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT pg_advisory_xact_lock(24239, b.bucket)
        FROM generate_series(0, (SELECT s.bucket_count FROM sheaf.settings s) - 1) AS b (bucket)
    $$;
COMMENT ON FUNCTION sheaf.lock_every_bucket() IS 'Keeps everybody from writing events until the transaction ends.';

DO $policies$
DECLARE
    published text;
BEGIN
    FOREACH published IN ARRAY ARRAY['tenants', 'attributes', 'entities', 'entity_events']
    LOOP
        EXECUTE format('CREATE POLICY cdc_reads ON sheaf.%I FOR SELECT TO sheaf_cdc USING (true)', published);
    END LOOP;
END
$policies$;

REVOKE ALL ON FUNCTION sheaf.ensure_change_publication(), sheaf.is_in_snapshot(xid, bigint, pg_snapshot), sheaf.lock_every_bucket()
    FROM PUBLIC;
GRANT USAGE ON SCHEMA sheaf TO sheaf_cdc;
GRANT SELECT ON sheaf.tenants, sheaf.attributes, sheaf.entities, sheaf.entity_events TO sheaf_cdc;
GRANT SELECT, INSERT, UPDATE ON sheaf.change_slots, sheaf.change_sinks TO sheaf_cdc;
GRANT DELETE ON sheaf.change_sinks TO sheaf_cdc;
GRANT EXECUTE ON FUNCTION sheaf.ensure_change_publication(), sheaf.is_in_snapshot(xid, bigint, pg_snapshot),
    sheaf.lock_every_bucket(), sheaf.list_attached_partitions() TO sheaf_cdc;
