-- Typed indexes of values: what ranges of attributes that are pinned hot, and orders by them, are answered from.
-- Why: a document has no order. An expression index would be a change of the schema for each attribute, and another
--   tenant's value could break it; one table a type, with the attribute in its keys, needs neither.
-- Locks: ACCESS EXCLUSIVE on attributes for a moment: a column with a constant default. Its index is over no row. Everything
--   else is made by this file.
-- Runs beside servers of the versions before, which keep no rows here: what was pinned before has none until its pin is set
--   anew, and no pin is set to hot while such a server writes. `sheaf doctor` finds what that has left out.

ALTER TABLE sheaf.attributes ADD COLUMN value_index text NOT NULL DEFAULT 'none';
ALTER TABLE sheaf.attributes ADD CONSTRAINT attributes_value_index CHECK (value_index IN ('none', 'filling', 'filled', 'emptying'));
COMMENT ON COLUMN sheaf.attributes.value_index IS 'Whether entity_index_<type> has its values. Writers keep it while filling and filled; filters and orders use it once filled.';
-- Flushes ask which tenants have any; most have none.
CREATE INDEX attributes_value_index_kept ON sheaf.attributes (tenant_id, attribute_id) WHERE value_index IN ('filling', 'filled');

-- A row is found by its entity, so that whoever writes needs to know nothing of the value before; and by its value, in whose
-- order an index-only scan gives the entities. Each key begins with what an equality always names: tenant, attribute.
-- Of a text the first 100 characters are kept: a key has at most a third of a page. Who reads compares longer ones whole.
DO $tables$
DECLARE
    kind text;
    value_type text;
    kept text;
BEGIN
    FOR kind, value_type, kept IN
        VALUES ('int', 'bigint', 'n.value::bigint'), ('float', 'double precision', 'n.value::double precision'),
            ('decimal', 'numeric', 'n.value::numeric'), ('text', 'text COLLATE "C"', 'left(n.value, 100)'),
            ('time', 'timestamptz', 'n.value::timestamptz')
    LOOP
        EXECUTE format('CREATE TABLE sheaf.entity_index_%s (
            tenant_id bigint NOT NULL,
            attribute_id bigint NOT NULL,
            entity_id bigint NOT NULL,
            value %s NOT NULL,
            CONSTRAINT entity_index_%1$s_pkey PRIMARY KEY (tenant_id, attribute_id, entity_id))', kind, value_type);
        EXECUTE format('CREATE INDEX entity_index_%1$s_value ON sheaf.entity_index_%1$s (tenant_id, attribute_id, value, entity_id)', kind);
        EXECUTE format('COMMENT ON TABLE sheaf.entity_index_%s IS %L', kind, format('The values that documents have of attributes of type %s with a value index.', kind));
        EXECUTE format('COMMENT ON COLUMN sheaf.entity_index_%s.tenant_id IS %L', kind, 'The tenant.');
        EXECUTE format('COMMENT ON COLUMN sheaf.entity_index_%s.attribute_id IS %L', kind, 'The attribute''s number.');
        EXECUTE format('COMMENT ON COLUMN sheaf.entity_index_%s.entity_id IS %L', kind, 'The entity.');
        EXECUTE format('COMMENT ON COLUMN sheaf.entity_index_%s.value IS %L', kind,
            CASE kind WHEN 'text' THEN 'The first 100 characters of the value in its document.' ELSE 'The value in its document.' END);
        EXECUTE format('ALTER TABLE sheaf.entity_index_%s ENABLE ROW LEVEL SECURITY', kind);
        EXECUTE format('ALTER TABLE sheaf.entity_index_%s FORCE ROW LEVEL SECURITY', kind);
        EXECUTE format('CREATE POLICY tenant_only ON sheaf.entity_index_%s TO sheaf_app
            USING (tenant_id = (SELECT sheaf.current_tenant()))
            WITH CHECK (tenant_id = (SELECT sheaf.current_tenant()))', kind);
        EXECUTE format('CREATE POLICY owner_all ON sheaf.entity_index_%s TO sheaf_owner USING (true) WITH CHECK (true)', kind);
        -- As of the documents: compiled filters name the tenant in every relation themselves.
        EXECUTE format('CREATE POLICY search_all ON sheaf.entity_index_%s FOR SELECT TO sheaf_search USING (true)', kind);
        EXECUTE format('GRANT SELECT ON sheaf.entity_index_%s TO sheaf_search, sheaf_app', kind);
        -- One probe a row, whatever the caller plans with and statistics say.
        EXECUTE format('CREATE FUNCTION sheaf.put_index_%1$s(tenants bigint[], attributes bigint[], entities bigint[], new_values text[])
            RETURNS void
            LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
            SET enable_nestloop = on SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off
            AS $put$
            BEGIN
                DELETE FROM sheaf.entity_index_%1$s i
                USING unnest(tenants, attributes, entities, new_values) AS n (tenant_id, attribute_id, entity_id, value)
                WHERE n.value IS NULL AND i.tenant_id = n.tenant_id AND i.attribute_id = n.attribute_id AND i.entity_id = n.entity_id;
                INSERT INTO sheaf.entity_index_%1$s AS i (tenant_id, attribute_id, entity_id, value)
                SELECT n.tenant_id, n.attribute_id, n.entity_id, %2$s
                FROM unnest(tenants, attributes, entities, new_values) AS n (tenant_id, attribute_id, entity_id, value)
                WHERE n.value IS NOT NULL
                ORDER BY n.tenant_id, n.attribute_id, n.entity_id
                ON CONFLICT (tenant_id, attribute_id, entity_id) DO UPDATE SET value = excluded.value
                WHERE i.value <> excluded.value;
            END
            $put$', kind, kept);
        EXECUTE format('COMMENT ON FUNCTION sheaf.put_index_%s(bigint[], bigint[], bigint[], text[]) IS %L', kind,
            'Brings rows of the value index to these values, as documents have them as text; null takes the row away. Under the buckets'' locks or those of the documents.');
        EXECUTE format('REVOKE ALL ON FUNCTION sheaf.put_index_%s(bigint[], bigint[], bigint[], text[]) FROM PUBLIC', kind);
        EXECUTE format('GRANT EXECUTE ON FUNCTION sheaf.put_index_%s(bigint[], bigint[], bigint[], text[]) TO sheaf_writer', kind);
    END LOOP;
END
$tables$;

GRANT UPDATE (value_index) ON sheaf.attributes TO sheaf_app;

CREATE FUNCTION sheaf.put_index(kind text, tenants bigint[], attributes bigint[], entities bigint[], new_values text[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        CASE kind
            WHEN 'int' THEN PERFORM sheaf.put_index_int(tenants, attributes, entities, new_values);
            WHEN 'float' THEN PERFORM sheaf.put_index_float(tenants, attributes, entities, new_values);
            WHEN 'decimal' THEN PERFORM sheaf.put_index_decimal(tenants, attributes, entities, new_values);
            WHEN 'text' THEN PERFORM sheaf.put_index_text(tenants, attributes, entities, new_values);
            WHEN 'time' THEN PERFORM sheaf.put_index_time(tenants, attributes, entities, new_values);
        END CASE;
    END
    $$;
COMMENT ON FUNCTION sheaf.put_index(text, bigint[], bigint[], bigint[], text[]) IS 'The put_index_<type> of a type.';

CREATE FUNCTION sheaf.index_documents(tenants bigint[], entities bigint[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        part record;
    BEGIN
        FOR part IN
            SELECT a.type AS kind, array_agg(n.tenant_id) AS tenants, array_agg(a.attribute_id) AS attributes,
                array_agg(n.entity_id) AS entities,
                array_agg(coalesce(d.hot_attrs ->> a.attribute_id::text, d.cold_attrs ->> a.attribute_id::text)) AS new_values
            FROM unnest(tenants, entities) AS n (tenant_id, entity_id)
            CROSS JOIN LATERAL (SELECT k.attribute_id, k.type FROM sheaf.attributes k
                WHERE k.tenant_id = n.tenant_id AND k.value_index IN ('filling', 'filled') OFFSET 0) a
            LEFT JOIN LATERAL (SELECT j.hot_attrs, j.cold_attrs FROM sheaf.entity_jsonb j
                WHERE j.tenant_id = n.tenant_id AND j.entity_id = n.entity_id OFFSET 0) d ON true
            GROUP BY a.type
        LOOP
            PERFORM sheaf.put_index(part.kind, part.tenants, part.attributes, part.entities, part.new_values);
        END LOOP;
    END
    $$;
COMMENT ON FUNCTION sheaf.index_documents(bigint[], bigint[]) IS 'Brings the value indexes to what documents hold. Under the buckets'' locks.';

-- A flush, and a rebuild of documents, write documents in SQL. What they did they still do; then the indexes follow.
ALTER FUNCTION sheaf.move_staged(bigint[], uuid[], bigint, boolean) RENAME TO move_staged_events;
CREATE FUNCTION sheaf.move_staged(taken_tenants bigint[], taken_batches uuid[], taken_events bigint, is_apart boolean,
        OUT batches bigint, OUT events bigint, OUT duplicates bigint, OUT merged bigint, OUT corrected bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        indexed_tenants bigint[];
        touched_tenants bigint[];
        touched_entities bigint[];
    BEGIN
        SELECT array_agg(DISTINCT a.tenant_id) INTO indexed_tenants FROM sheaf.attributes a
            WHERE a.tenant_id = ANY (taken_tenants) AND a.value_index IN ('filling', 'filled');
        IF indexed_tenants IS NOT NULL THEN
            SELECT array_agg(t.tenant_id), array_agg(t.entity_id) INTO touched_tenants, touched_entities
                FROM (SELECT DISTINCT i.tenant_id, i.entity_id FROM sheaf.entity_values_ingest i
                    WHERE i.batch_id = ANY (taken_batches) AND i.tenant_id = ANY (indexed_tenants)) t;
        END IF;
        SELECT m.batches, m.events, m.duplicates, m.merged, m.corrected INTO batches, events, duplicates, merged, corrected
            FROM sheaf.move_staged_events(taken_tenants, taken_batches, taken_events, is_apart) m;
        IF touched_entities IS NOT NULL THEN
            PERFORM sheaf.index_documents(touched_tenants, touched_entities);
        END IF;
    END
    $$;
COMMENT ON FUNCTION sheaf.move_staged(bigint[], uuid[], bigint, boolean) IS 'Moves staged batches into history, documents, value indexes and ledger; is_apart: event by event where it must be, since flushes with them have failed before.';

ALTER FUNCTION sheaf.upsert_hot_attrs(bigint, bigint[]) RENAME TO rebuild_documents;
CREATE FUNCTION sheaf.upsert_hot_attrs(of_tenant bigint, entity_ids bigint[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        rebuilt bigint;
        touched bigint[];
    BEGIN
        rebuilt := sheaf.rebuild_documents(of_tenant, entity_ids);
        SELECT array_agg(DISTINCT u.entity_id) INTO touched FROM unnest(entity_ids) AS u (entity_id);
        PERFORM sheaf.index_documents(array_fill(of_tenant, ARRAY[coalesce(cardinality(touched), 0)]), touched);
        RETURN rebuilt;
    END
    $$;
COMMENT ON FUNCTION sheaf.upsert_hot_attrs(bigint, bigint[]) IS 'Rebuilds documents of a tenant from their history, and their rows in the value indexes; gives back how many.';

REVOKE ALL ON FUNCTION sheaf.put_index(text, bigint[], bigint[], bigint[], text[]), sheaf.index_documents(bigint[], bigint[]),
    sheaf.move_staged(bigint[], uuid[], bigint, boolean), sheaf.upsert_hot_attrs(bigint, bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.put_index(text, bigint[], bigint[], bigint[], text[]) TO sheaf_writer;
