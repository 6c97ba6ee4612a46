-- Readers of the lake: where its tables are, and how far the change stream is in them.
-- Why: questions over the lake are answered by the servers of the interface, as sheaf_app. These rows name files, positions in the
--   log and how far snapshots are, and hold nothing that a tenant wrote.
-- Locks: none that anybody waits for.
-- Runs beside servers of the versions before, which do not read the lake.

GRANT SELECT ON sheaf.iceberg_tables, sheaf.lake_positions, sheaf.change_slots, sheaf.change_sinks TO sheaf_app;

-- The corrections that wait are rows of tenants. Of them all a reader needs to know one position.
CREATE FUNCTION sheaf.lake_held_until(catalog text) RETURNS TABLE (timeline bigint, lsn pg_lsn)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT c.held_timeline, c.held_lsn FROM sheaf.lake_corrections c
        WHERE c.catalog_name = catalog AND c.held_lsn IS NOT NULL
        ORDER BY c.held_timeline, c.held_lsn LIMIT 1
    $$;
COMMENT ON FUNCTION sheaf.lake_held_until(text) IS 'The position beyond which corrections wait that the tables of the lake do not have yet; no row where none does.';
REVOKE ALL ON FUNCTION sheaf.lake_held_until(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.lake_held_until(text) TO sheaf_app;
