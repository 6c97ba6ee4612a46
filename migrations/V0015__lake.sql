-- The lake: where the newest state of each of its tables is, how far the change stream is in them, and what waits for a rewrite.
-- Why: the tables are files, and a table is what its newest metadata file says. Which one that is stands here, in the layout
--   that SQL catalogues of Apache Iceberg share, so that their readers open the tables by name. The position stands beside
--   it and moves in the same transaction: what the lake holds and what it says that it holds are never two things.
-- Locks: none on what was there before.
-- Runs beside servers of the versions before, which know no lake.

CREATE TABLE sheaf.iceberg_tables (
    catalog_name varchar(255) NOT NULL,
    table_namespace varchar(255) NOT NULL,
    table_name varchar(255) NOT NULL,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    CONSTRAINT iceberg_tables_pkey PRIMARY KEY (catalog_name, table_namespace, table_name)
);
COMMENT ON TABLE sheaf.iceberg_tables IS 'The tables of the lake. The layout is that of every SQL catalogue of Apache Iceberg, whose readers look here.';
COMMENT ON COLUMN sheaf.iceberg_tables.catalog_name IS 'The catalogue.';
COMMENT ON COLUMN sheaf.iceberg_tables.table_namespace IS 'The namespace.';
COMMENT ON COLUMN sheaf.iceberg_tables.table_name IS 'The table.';
COMMENT ON COLUMN sheaf.iceberg_tables.metadata_location IS 'The file that says what the table is. Whoever commits replaces the one that they began from, and nobody else''s.';
COMMENT ON COLUMN sheaf.iceberg_tables.previous_metadata_location IS 'The one before.';
COMMENT ON COLUMN sheaf.iceberg_tables.iceberg_type IS 'TABLE, or VIEW.';

CREATE TABLE sheaf.iceberg_namespace_properties (
    catalog_name varchar(255) NOT NULL,
    namespace varchar(255) NOT NULL,
    property_key varchar(255) NOT NULL,
    property_value varchar(1000) NOT NULL,
    CONSTRAINT iceberg_namespace_properties_pkey PRIMARY KEY (catalog_name, namespace, property_key)
);
COMMENT ON TABLE sheaf.iceberg_namespace_properties IS 'The namespaces of the lake, in the layout of every SQL catalogue of Apache Iceberg.';
COMMENT ON COLUMN sheaf.iceberg_namespace_properties.catalog_name IS 'The catalogue.';
COMMENT ON COLUMN sheaf.iceberg_namespace_properties.namespace IS 'The namespace.';
COMMENT ON COLUMN sheaf.iceberg_namespace_properties.property_key IS 'The name of a property; a namespace exists when it has any.';
COMMENT ON COLUMN sheaf.iceberg_namespace_properties.property_value IS 'Its value.';

CREATE TABLE sheaf.lake_positions (
    catalog_name varchar(255) NOT NULL,
    commit_number bigint NOT NULL DEFAULT 0,
    base_timeline bigint,
    base_lsn pg_lsn,
    snapshot_ordinal bigint NOT NULL DEFAULT 0,
    timeline bigint,
    commit_lsn pg_lsn,
    ordinal bigint,
    committed_at timestamptz NOT NULL,
    CONSTRAINT lake_positions_pkey PRIMARY KEY (catalog_name),
    CONSTRAINT lake_positions_base CHECK ((base_timeline IS NULL) = (base_lsn IS NULL)),
    CONSTRAINT lake_positions_position CHECK ((timeline IS NULL) = (commit_lsn IS NULL) AND (timeline IS NULL) = (ordinal IS NULL)),
    CONSTRAINT lake_positions_begun CHECK (base_lsn IS NOT NULL OR (snapshot_ordinal = 0 AND timeline IS NULL))
);
COMMENT ON TABLE sheaf.lake_positions IS 'How far the change stream is in the lake: the tables of the catalogue hold everything up to there, once, and nothing after it.';
COMMENT ON COLUMN sheaf.lake_positions.catalog_name IS 'The catalogue of the lake''s tables.';
COMMENT ON COLUMN sheaf.lake_positions.commit_number IS 'One more with each commit. A writer that began from another number commits nothing.';
COMMENT ON COLUMN sheaf.lake_positions.base_timeline IS 'The timeline of the snapshot that the lake began with; null before any.';
COMMENT ON COLUMN sheaf.lake_positions.base_lsn IS 'The log position that the rows of that snapshot bear.';
COMMENT ON COLUMN sheaf.lake_positions.snapshot_ordinal IS 'The place of the last row of the snapshot that it holds, from 1; 0 for none.';
COMMENT ON COLUMN sheaf.lake_positions.timeline IS 'The timeline of the last change of the stream that it holds; null for none.';
COMMENT ON COLUMN sheaf.lake_positions.commit_lsn IS 'Where the transaction of that change was committed.';
COMMENT ON COLUMN sheaf.lake_positions.ordinal IS 'The place of that change in its transaction, from 1.';
COMMENT ON COLUMN sheaf.lake_positions.committed_at IS 'When the lake was last committed, by the writer''s clock.';

-- A row of an instant that has rows already may say again what they say. Then the fact that it replaces is in a file, and
-- readers must not see both: it waits here, from the commit of the lake that would have had it, until one that rewrites that file.
CREATE TABLE sheaf.lake_corrections (
    tenant_id bigint NOT NULL,
    entity_id bigint NOT NULL,
    observed_at timestamptz NOT NULL,
    seq smallint NOT NULL,
    catalog_name varchar(255) NOT NULL,
    op "char" NOT NULL,
    batch_id uuid NOT NULL,
    ingested_at timestamptz NOT NULL,
    attrs jsonb NOT NULL,
    noted_at timestamptz NOT NULL,
    held_timeline bigint,
    held_lsn pg_lsn,
    CONSTRAINT lake_corrections_pkey PRIMARY KEY (tenant_id, entity_id, observed_at, seq, catalog_name),
    CONSTRAINT lake_corrections_seq CHECK (seq >= 0),
    CONSTRAINT lake_corrections_op CHECK (op IN ('p', 'r', 'd', 'c')),
    CONSTRAINT lake_corrections_held CHECK ((held_timeline IS NULL) = (held_lsn IS NULL))
);
-- They are applied a day after the other.
CREATE INDEX lake_corrections_days ON sheaf.lake_corrections (catalog_name, observed_at, tenant_id, entity_id, seq);
-- Whoever asks how far the lake is asks for the first of them.
CREATE INDEX lake_corrections_held ON sheaf.lake_corrections (catalog_name, held_timeline, held_lsn) WHERE held_lsn IS NOT NULL;
COMMENT ON TABLE sheaf.lake_corrections IS 'Events that replace what an earlier one of their instant says, on their way into the lake. Each is here or in its tables, never in both.';
COMMENT ON COLUMN sheaf.lake_corrections.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.lake_corrections.entity_id IS 'The entity.';
COMMENT ON COLUMN sheaf.lake_corrections.observed_at IS 'The instant that the event is about.';
COMMENT ON COLUMN sheaf.lake_corrections.seq IS 'Its place among the events of that instant.';
COMMENT ON COLUMN sheaf.lake_corrections.catalog_name IS 'The catalogue of the lake''s tables.';
COMMENT ON COLUMN sheaf.lake_corrections.op IS 'As in entity_events; a patch that comes after one that waits, waits as well.';
COMMENT ON COLUMN sheaf.lake_corrections.batch_id IS 'The request that brought it.';
COMMENT ON COLUMN sheaf.lake_corrections.ingested_at IS 'When the server received it.';
COMMENT ON COLUMN sheaf.lake_corrections.attrs IS 'Attribute number to value; null is removed.';
COMMENT ON COLUMN sheaf.lake_corrections.noted_at IS 'When the lake was committed with it waiting, by the writer''s clock.';
COMMENT ON COLUMN sheaf.lake_corrections.held_timeline IS 'The timeline of held_lsn.';
COMMENT ON COLUMN sheaf.lake_corrections.held_lsn IS 'While it waits the lake covers nothing beyond this position, below which it was not yet committed; null where it had been passed over before.';

-- All or nothing: the exceptions undo what was done before them. The position's row is taken first, so that of two writers
-- the later one waits there and then finds another number.
CREATE FUNCTION sheaf.commit_lake(catalog text, namespace text, from_number bigint, new_base_timeline bigint, new_base_lsn pg_lsn,
    new_snapshot_ordinal bigint, new_timeline bigint, new_commit_lsn pg_lsn, new_ordinal bigint, now_at timestamptz,
    changed_tables text[], from_locations text[], to_locations text[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        changed record;
    BEGIN
        UPDATE sheaf.lake_positions p
        SET commit_number = p.commit_number + 1, base_timeline = new_base_timeline, base_lsn = new_base_lsn,
            snapshot_ordinal = new_snapshot_ordinal, timeline = new_timeline, commit_lsn = new_commit_lsn, ordinal = new_ordinal,
            committed_at = now_at
        WHERE p.catalog_name = catalog AND p.commit_number = from_number;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'commit % of lake % was made by another writer', from_number + 1, catalog USING ERRCODE = 'serialization_failure';
        END IF;
        FOR changed IN
            SELECT t.name, t.from_location, t.to_location
            FROM unnest(changed_tables, from_locations, to_locations) AS t (name, from_location, to_location) ORDER BY t.name
        LOOP
            IF changed.from_location IS NULL THEN
                INSERT INTO sheaf.iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
                VALUES (catalog, namespace, changed.name, changed.to_location, 'TABLE')
                ON CONFLICT (catalog_name, table_namespace, table_name) DO NOTHING;
            ELSE
                UPDATE sheaf.iceberg_tables i
                SET metadata_location = changed.to_location, previous_metadata_location = changed.from_location
                WHERE i.catalog_name = catalog AND i.table_namespace = namespace AND i.table_name = changed.name
                    AND i.metadata_location = changed.from_location;
            END IF;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'table % of lake % was changed by another writer', changed.name, catalog
                    USING ERRCODE = 'serialization_failure';
            END IF;
        END LOOP;
        RETURN from_number + 1;
    END
    $$;
COMMENT ON FUNCTION sheaf.commit_lake(text, text, bigint, bigint, pg_lsn, bigint, bigint, pg_lsn, bigint, timestamptz, text[], text[], text[])
    IS 'Commits the lake: its position and the newest metadata of each changed table, from exactly what the writer began from. Gives back the number of the commit.';

REVOKE ALL ON FUNCTION sheaf.commit_lake(text, text, bigint, bigint, pg_lsn, bigint, bigint, pg_lsn, bigint, timestamptz, text[], text[], text[])
    FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE ON sheaf.iceberg_tables, sheaf.lake_positions TO sheaf_cdc;
GRANT SELECT, INSERT ON sheaf.iceberg_namespace_properties TO sheaf_cdc;
GRANT SELECT, INSERT, DELETE ON sheaf.lake_corrections TO sheaf_cdc;
GRANT EXECUTE ON FUNCTION sheaf.commit_lake(text, text, bigint, bigint, pg_lsn, bigint, bigint, pg_lsn, bigint, timestamptz, text[], text[], text[])
    TO sheaf_cdc;

ALTER TABLE sheaf.lake_corrections ENABLE ROW LEVEL SECURITY;
ALTER TABLE sheaf.lake_corrections FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON sheaf.lake_corrections TO sheaf_app
    USING (tenant_id = (SELECT sheaf.current_tenant())) WITH CHECK (tenant_id = (SELECT sheaf.current_tenant()));
CREATE POLICY owner_all ON sheaf.lake_corrections TO sheaf_owner USING (true) WITH CHECK (true);
CREATE POLICY cdc_all ON sheaf.lake_corrections TO sheaf_cdc USING (true) WITH CHECK (true);
