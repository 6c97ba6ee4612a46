-- A tenant's number is given out once, also where a failover loses the tenant.
-- Why: servers remember for seconds which tenant a key opens. A standby that is promoted without the last commits would
--   give the number of a tenant that was lost to the next one, and a remembered key would open that.
-- Locks: none but the function's own row. Runs beside servers of the versions before.

CREATE OR REPLACE FUNCTION sheaf.create_tenant(
    new_name text, new_unknown_attributes text, new_observed_at_min timestamptz,
    new_observed_at_ahead_max_micros bigint, new_retention_micros bigint, new_line_protocol jsonb, new_created_at timestamptz)
    RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        -- Above bit 40 the timeline, which every promotion and every restore to a point in time moves; below it the sequence.
        INSERT INTO sheaf.tenants (tenant_id, name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros,
            retention_micros, line_protocol, created_at)
        OVERRIDING SYSTEM VALUE
        VALUES (((('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint - 1) << 40)
                + nextval(pg_get_serial_sequence('sheaf.tenants', 'tenant_id')),
            new_name, new_unknown_attributes, new_observed_at_min, new_observed_at_ahead_max_micros,
            new_retention_micros, new_line_protocol, new_created_at)
        ON CONFLICT (name) DO NOTHING
        RETURNING tenant_id
    $$;
COMMENT ON FUNCTION sheaf.create_tenant(text, text, timestamptz, bigint, bigint, jsonb, timestamptz) IS 'Creates a tenant; null where the name is taken.';
COMMENT ON COLUMN sheaf.tenants.tenant_id IS 'The number in every key. Its upper bits are the timeline that it was given out on, less one, so that no number is given out twice.';
