-- The version of a tenant's catalogue for whoever searches documents.
-- Why: a filter is compiled for where the catalogue says that values lie, and sheaf_search does not see the catalogue, so that
--   a search was followed by a transaction of another role. With this, the search's own snapshot says which version it is of.
-- Locks: only an object that this file creates. Runs beside servers of the versions before, which do not use it.

CREATE FUNCTION sheaf.catalogue_version(of_tenant bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        RETURN (SELECT t.catalogue_version FROM sheaf.tenants t WHERE t.tenant_id = of_tenant);
    END
    $$;
COMMENT ON FUNCTION sheaf.catalogue_version(bigint) IS 'The version of a tenant''s catalogue in the snapshot of whoever asks; null where there is no such tenant.';
REVOKE ALL ON FUNCTION sheaf.catalogue_version(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.catalogue_version(bigint) TO sheaf_search;
