-- Entities by their attributes for people in psql: the current documents, as a function.
-- Why: whoever looks into the database with SQL would otherwise have to know attribute numbers, the parts of documents and
--   which of them is right while values move.
-- Locks: only objects that this file creates. Runs beside servers of the versions before, which do not use it.

-- Runs as its caller: row-level security decides what he sees, and the tenant stands in every relation beside it. Literals
-- come into the statement by quote_literal alone; there is nothing else in it that anybody chose.
CREATE FUNCTION sheaf.find_entities_by_attributes(
    tenant_id bigint, filters jsonb, time_window interval DEFAULT NULL, limit_max int DEFAULT 100)
    RETURNS TABLE (entity_id bigint, entity_type text, external_id text, attributes jsonb)
    LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    AS $$
    #variable_conflict use_column
    DECLARE
        wanted_tenant CONSTANT bigint := $1;
        conditions text := '';
        asked record;
        attribute record;
        part record;
        value text;
        test text;
    BEGIN
        IF wanted_tenant <> sheaf.current_tenant() THEN
            RAISE EXCEPTION 'the transaction is of another tenant' USING ERRCODE = 'insufficient_privilege';
        END IF;
        IF jsonb_typeof($2) IS DISTINCT FROM 'object' THEN
            RAISE EXCEPTION 'filters must be an object such as {"seats":{">=":100}}' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF coalesce($4, 0) NOT BETWEEN 1 AND 10000 THEN
            RAISE EXCEPTION 'limit_max must be between 1 and 10000' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        FOR asked IN SELECT j.key AS name, j.value AS wanted FROM jsonb_each($2) j LOOP
            SELECT a.attribute_id::text AS key, a.type, a.temperature INTO attribute
                FROM sheaf.attributes a WHERE a.tenant_id = wanted_tenant AND a.name = normalize(asked.name, NFC);
            IF NOT FOUND THEN
                RAISE EXCEPTION 'unknown attribute %', quote_literal(asked.name) USING ERRCODE = 'undefined_object';
            END IF;
            -- While values move, the part that they move to is right where both have one.
            value := CASE attribute.temperature
                WHEN 'hot' THEN format('(d.hot_attrs -> %L)', attribute.key)
                WHEN 'cold' THEN format('(d.cold_attrs -> %L)', attribute.key)
                WHEN 'warming' THEN format('coalesce(d.hot_attrs -> %1$L, d.cold_attrs -> %1$L)', attribute.key)
                ELSE format('coalesce(d.cold_attrs -> %1$L, d.hot_attrs -> %1$L)', attribute.key) END;
            FOR part IN
                SELECT o.key AS operator, o.value AS wanted
                FROM jsonb_each(CASE jsonb_typeof(asked.wanted) WHEN 'object' THEN asked.wanted
                    ELSE jsonb_build_object('=', asked.wanted) END) o
            LOOP
                IF part.operator NOT IN ('=', '<>', '<', '<=', '>', '>=') THEN
                    RAISE EXCEPTION 'unknown operator % for %; there are = <> < <= > >=',
                        quote_literal(part.operator), asked.name USING ERRCODE = 'invalid_parameter_value';
                END IF;
                IF part.wanted = 'null' THEN
                    -- Null is no value: equal to it is who has none, other than it who has one.
                    test := CASE part.operator
                        WHEN '=' THEN format('NOT d.present @> ARRAY[%L]::bigint[]', attribute.key)
                        WHEN '<>' THEN format('d.present @> ARRAY[%L]::bigint[]', attribute.key) END;
                    IF test IS NULL THEN
                        RAISE EXCEPTION 'null has no order; % can be = or <> null', asked.name
                            USING ERRCODE = 'invalid_parameter_value';
                    END IF;
                ELSIF attribute.type IN ('int', 'float', 'decimal') THEN
                    IF jsonb_typeof(part.wanted) <> 'number'
                        AND NOT (attribute.type = 'decimal' AND jsonb_typeof(part.wanted) = 'string') THEN
                        RAISE EXCEPTION '% is %, not %', asked.name, attribute.type, jsonb_typeof(part.wanted)
                            USING ERRCODE = 'datatype_mismatch';
                    END IF;
                    test := format('(%s #>> ''{}'')::numeric %s %L::numeric', value, part.operator, part.wanted #>> '{}');
                ELSIF attribute.type = 'time' THEN
                    test := format('(%s #>> ''{}'')::timestamptz %s %L::timestamptz', value, part.operator, part.wanted #>> '{}');
                ELSIF attribute.type = 'text' AND jsonb_typeof(part.wanted) = 'string' THEN
                    test := format('(%s #>> ''{}'') COLLATE "C" %s %L', value, part.operator, part.wanted #>> '{}');
                ELSIF part.operator IN ('=', '<>')
                    AND (attribute.type = 'json' OR jsonb_typeof(part.wanted) = 'boolean' AND attribute.type = 'bool') THEN
                    test := format('%s %s %L::jsonb', value, part.operator, part.wanted);
                ELSE
                    RAISE EXCEPTION '% is %, which is not % %', asked.name, attribute.type, part.operator, jsonb_typeof(part.wanted)
                        USING ERRCODE = 'datatype_mismatch';
                END IF;
                conditions := conditions || ' AND ' || test;
                -- What the index on hot parts answers, where the caller's policies let it.
                IF part.operator = '=' AND attribute.temperature = 'hot' AND part.wanted <> 'null'
                    AND (attribute.type IN ('int', 'float', 'text', 'bool')
                        OR attribute.type = 'decimal' AND jsonb_typeof(part.wanted) = 'number') THEN
                    conditions := conditions || format(' AND d.hot_attrs @> %L::jsonb', jsonb_build_object(attribute.key, part.wanted));
                END IF;
            END LOOP;
        END LOOP;
        RETURN QUERY EXECUTE
            'SELECT f.entity_id, f.entity_type, f.external_id, coalesce((
                SELECT jsonb_object_agg(a.name, CASE WHEN a.temperature IN (''hot'', ''warming'')
                    THEN coalesce(f.hot_attrs -> a.attribute_id::text, f.cold_attrs -> a.attribute_id::text)
                    ELSE coalesce(f.cold_attrs -> a.attribute_id::text, f.hot_attrs -> a.attribute_id::text) END)
                FROM sheaf.attributes a WHERE a.tenant_id = $1 AND a.attribute_id = ANY (f.present)), ''{}'')
            FROM (
                SELECT d.entity_id, e.entity_type, e.external_id, d.hot_attrs, d.cold_attrs, d.present
                FROM sheaf.entity_jsonb d
                JOIN sheaf.entities e ON e.tenant_id = d.tenant_id AND e.entity_id = d.entity_id
                WHERE d.tenant_id = $1 AND e.tenant_id = $1 AND NOT d.deleted
                    AND ($2 IS NULL OR d.newest >= now() - $2)' || conditions || '
                ORDER BY e.entity_type, e.external_id
                LIMIT $3) f
            ORDER BY f.entity_type, f.external_id'
            USING wanted_tenant, $3, $4;
    END
    $$;
COMMENT ON FUNCTION sheaf.find_entities_by_attributes(bigint, jsonb, interval, int) IS 'The entities of a tenant whose attributes pass every filter, such as {"seats":{">=":100},"engine":"Turbo-fan"}, by type and id; with a window, only those observed within it. As its caller, under row-level security.';

REVOKE ALL ON FUNCTION sheaf.find_entities_by_attributes(bigint, jsonb, interval, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.find_entities_by_attributes(bigint, jsonb, interval, int) TO sheaf_app;
