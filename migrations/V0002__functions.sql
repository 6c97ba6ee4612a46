-- What roles may do beyond their grants: functions of the owner, each for one purpose, and the typed view of the facts.
-- Locks: only objects that this file creates. Runs beside servers of the version before, which use none of it.

CREATE FUNCTION sheaf.find_api_key(wanted_key_id text)
    RETURNS TABLE (tenant_id bigint, tenant_name text, key_hash bytea, scopes text[], expires_at timestamptz, revoked_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$
        SELECT k.tenant_id, t.name, k.key_hash, k.scopes, k.expires_at, k.revoked_at
        FROM sheaf.api_keys k JOIN sheaf.tenants t ON t.tenant_id = k.tenant_id
        WHERE k.key_id = wanted_key_id
        UNION ALL
        SELECT NULL, NULL, a.key_hash, ARRAY['admin'], a.expires_at, a.revoked_at
        FROM sheaf.admin_keys a WHERE a.key_id = wanted_key_id
    $$;
COMMENT ON FUNCTION sheaf.find_api_key(text) IS 'The key with this public half, before its tenant is known; a null tenant is an administrator''s key.';

CREATE FUNCTION sheaf.create_tenant(
    new_name text, new_unknown_attributes text, new_observed_at_min timestamptz,
    new_observed_at_ahead_max_micros bigint, new_retention_micros bigint, new_line_protocol jsonb, new_created_at timestamptz)
    RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = ''
    AS $$
        INSERT INTO sheaf.tenants (name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros,
            retention_micros, line_protocol, created_at)
        VALUES (new_name, new_unknown_attributes, new_observed_at_min, new_observed_at_ahead_max_micros,
            new_retention_micros, new_line_protocol, new_created_at)
        ON CONFLICT (name) DO NOTHING
        RETURNING tenant_id
    $$;
COMMENT ON FUNCTION sheaf.create_tenant(text, text, timestamptz, bigint, bigint, jsonb, timestamptz) IS 'Creates a tenant; null where the name is taken.';

CREATE FUNCTION sheaf.update_tenant(
    wanted_tenant_id bigint, new_unknown_attributes text, new_observed_at_min timestamptz,
    new_observed_at_ahead_max_micros bigint, new_retention_micros bigint, new_line_protocol jsonb,
    seen_catalogue_version bigint)
    RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = ''
    AS $$
        UPDATE sheaf.tenants SET unknown_attributes = new_unknown_attributes, observed_at_min = new_observed_at_min,
            observed_at_ahead_max_micros = new_observed_at_ahead_max_micros, retention_micros = new_retention_micros,
            line_protocol = new_line_protocol,
            catalogue_version = catalogue_version + 1
        WHERE tenant_id = wanted_tenant_id AND catalogue_version = seen_catalogue_version
        RETURNING tenant_id
    $$;
COMMENT ON FUNCTION sheaf.update_tenant(bigint, text, timestamptz, bigint, bigint, jsonb, bigint) IS 'Changes a tenant''s policies; null where there is none, or where its catalogue has another version than was seen.';

CREATE FUNCTION sheaf.list_tenants(name_after text, tenants_max integer)
    RETURNS TABLE (tenant_id bigint, name text, unknown_attributes text, observed_at_min timestamptz,
        observed_at_ahead_max_micros bigint, retention_micros bigint, line_protocol jsonb, catalogue_version bigint, created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$
        SELECT t.tenant_id, t.name, t.unknown_attributes, t.observed_at_min, t.observed_at_ahead_max_micros,
            t.retention_micros, t.line_protocol, t.catalogue_version, t.created_at
        FROM sheaf.tenants t WHERE t.name > name_after ORDER BY t.name LIMIT tenants_max
    $$;
COMMENT ON FUNCTION sheaf.list_tenants(text, integer) IS 'Tenants in order of name, for administrators.';

CREATE FUNCTION sheaf.find_tenant(wanted_name text)
    RETURNS TABLE (tenant_id bigint, name text, unknown_attributes text, observed_at_min timestamptz,
        observed_at_ahead_max_micros bigint, retention_micros bigint, line_protocol jsonb, catalogue_version bigint, created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$
        SELECT t.tenant_id, t.name, t.unknown_attributes, t.observed_at_min, t.observed_at_ahead_max_micros,
            t.retention_micros, t.line_protocol, t.catalogue_version, t.created_at
        FROM sheaf.tenants t WHERE t.name = wanted_name
    $$;
COMMENT ON FUNCTION sheaf.find_tenant(text) IS 'The tenant with this name, for administrators.';

-- The partition that holds an instant, made where it is missing: a month, or a year where it is older than two years,
-- and never over the bounds of one that is there. LIKE and ATTACH: CREATE .. PARTITION OF would make readers queue.
CREATE FUNCTION sheaf.ensure_event_partition(instant timestamptz)
    RETURNS TABLE (partition_name text, lower_bound timestamptz, upper_bound timestamptz)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET timezone = 'UTC' SET lock_timeout = '2s'
    AS $$
    DECLARE
        span interval := CASE WHEN instant < now() - interval '2 years' THEN interval '1 year' ELSE interval '1 month' END;
        wanted_from timestamptz := date_trunc(CASE WHEN span = interval '1 year' THEN 'year' ELSE 'month' END, instant);
        wanted_to timestamptz := wanted_from + span;
        new_name text;
    BEGIN
        -- One creator at a time over all servers; the second finds what the first has made.
        PERFORM pg_advisory_xact_lock(24239, -1);
        RETURN QUERY SELECT p.partition_name, p.lower_bound, p.upper_bound FROM sheaf.event_partitions p
            WHERE p.lower_bound <= instant AND instant < p.upper_bound;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT greatest(wanted_from, max(p.upper_bound)) INTO wanted_from
            FROM sheaf.event_partitions p WHERE p.upper_bound <= instant;
        SELECT least(wanted_to, min(p.lower_bound)) INTO wanted_to
            FROM sheaf.event_partitions p WHERE p.lower_bound > instant;
        new_name := 'entity_events_' || to_char(wanted_from, 'YYYYMMDD') || '_' || to_char(wanted_to, 'YYYYMMDD');
        EXECUTE format('CREATE TABLE sheaf.%I (LIKE sheaf.entity_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', new_name);
        EXECUTE format('COMMENT ON TABLE sheaf.%I IS %L', new_name, 'Events observed in one span of time.');
        EXECUTE format('ALTER TABLE sheaf.entity_events ATTACH PARTITION sheaf.%I FOR VALUES FROM (%L) TO (%L)', new_name, wanted_from, wanted_to);
        EXECUTE format('GRANT INSERT ON sheaf.%I TO sheaf_writer', new_name);
        RETURN QUERY SELECT new_name, wanted_from, wanted_to;
    END
    $$;
COMMENT ON FUNCTION sheaf.ensure_event_partition(timestamptz) IS 'The partition of entity_events that holds an instant, made where it is missing.';

-- Bounds are known as text only, which the session's settings shape: with another DateStyle they name time zones by
-- abbreviations, which read back as other zones.
CREATE FUNCTION sheaf.list_event_partitions()
    RETURNS TABLE (partition_name text, lower_bound timestamptz, upper_bound timestamptz)
    LANGUAGE sql STABLE SET search_path = '' SET timezone = 'UTC' SET datestyle = 'ISO'
    AS $$
        SELECT c.relname::text,
            (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$FROM \('([^']+)'\)$r$))[1]::timestamptz,
            (regexp_match(pg_get_expr(c.relpartbound, c.oid), $r$TO \('([^']+)'\)$r$))[1]::timestamptz
        FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'sheaf.entity_events'::regclass
    $$;
COMMENT ON FUNCTION sheaf.list_event_partitions() IS 'The partitions of entity_events with their bounds, in any session.';

CREATE VIEW sheaf.event_partitions WITH (security_invoker = true) AS
    SELECT partition_name, lower_bound, upper_bound FROM sheaf.list_event_partitions();
COMMENT ON VIEW sheaf.event_partitions IS 'The partitions of entity_events with their bounds, as the database knows them.';
COMMENT ON COLUMN sheaf.event_partitions.partition_name IS 'The table in schema sheaf.';
COMMENT ON COLUMN sheaf.event_partitions.lower_bound IS 'The first instant that it holds.';
COMMENT ON COLUMN sheaf.event_partitions.upper_bound IS 'The first instant after it.';

CREATE VIEW sheaf.entity_values_ts WITH (security_invoker = true) AS
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
    FROM sheaf.entity_events e
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
            AND (l.op IN ('r', 'd') OR (f.key IS NOT NULL AND l.attrs ? f.key)));
COMMENT ON VIEW sheaf.entity_values_ts IS 'The facts: one typed value of one attribute of one entity at one instant, corrections applied. A replace or delete adds one row without attribute.';
DO $comments$
DECLARE
    described text[];
BEGIN
    FOREACH described SLICE 1 IN ARRAY ARRAY[
        ['tenant_id', 'The tenant.'], ['entity_id', 'The entity.'], ['entity_type', 'The entity''s type.'],
        ['external_id', 'The entity''s id within its type.'], ['attribute_id', 'The attribute''s number.'],
        ['attribute', 'The attribute''s name.'], ['type', 'The attribute''s type, which says which value column counts.'],
        ['observed_at', 'The instant.'], ['seq', 'The place of the event among those of its instant.'],
        ['op', 'patch, replace, delete or correct.'], ['batch_id', 'The request that brought it.'],
        ['ingested_at', 'When the server received it.'], ['value_int', 'The value of an int attribute.'],
        ['value_float', 'The value of a float attribute.'], ['value_decimal', 'The value of a decimal attribute.'],
        ['value_text', 'The value of a text attribute.'], ['value_bool', 'The value of a bool attribute.'],
        ['value_time', 'The value of a time attribute.'], ['value_json', 'The value of a json attribute.'],
        ['removed', 'Whether the attribute has no value from this instant on.']]
    LOOP
        EXECUTE format('COMMENT ON COLUMN sheaf.entity_values_ts.%I IS %L', described[1], described[2]);
    END LOOP;
END
$comments$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sheaf FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.find_api_key(text),
    sheaf.create_tenant(text, text, timestamptz, bigint, bigint, jsonb, timestamptz),
    sheaf.update_tenant(bigint, text, timestamptz, bigint, bigint, jsonb, bigint),
    sheaf.list_tenants(text, integer), sheaf.find_tenant(text) TO sheaf_app;
GRANT EXECUTE ON FUNCTION sheaf.ensure_event_partition(timestamptz) TO sheaf_writer;
GRANT EXECUTE ON FUNCTION sheaf.list_event_partitions() TO sheaf_app, sheaf_writer;
GRANT SELECT ON sheaf.event_partitions TO sheaf_app, sheaf_writer;
GRANT SELECT ON sheaf.entity_values_ts TO sheaf_app;
