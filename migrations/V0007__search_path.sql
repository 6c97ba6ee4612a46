-- Nobody can put a type or a table of his own in the place of one that the owner's functions name.
-- Why: with an empty search path PostgreSQL looks into the caller's temporary schema first. A domain pg_temp.text, whose
--   check calls a function of the caller's, would make that function run as the owner.
-- Locks: none but the functions' own rows, and the database's. Runs beside servers of the versions before: the functions
--   do what they did. Their `sheaf doctor` takes the new path for a fault; ask that of this version.

-- pg_temp named last is searched last. Later files set the same path when they make a function; those of earlier ones that
-- were replaced since have it already.
ALTER FUNCTION sheaf.find_api_key(text) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION sheaf.create_tenant(text, text, timestamptz, bigint, bigint, jsonb, timestamptz) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION sheaf.update_tenant(bigint, text, timestamptz, bigint, bigint, jsonb, bigint) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION sheaf.list_tenants(text, integer) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION sheaf.find_tenant(text) SET search_path = pg_catalog, pg_temp;

-- Nothing of ours makes temporary objects. The right is the database's, which the owner of the tables does not own: it is
-- taken by whoever migrates, where he may. A database whose owner somebody else is keeps it, and is safe by the path.
DO $closing$
BEGIN
    RESET ROLE;
    IF (SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_catalog.pg_database d WHERE d.datname = current_database()) THEN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    END IF;
    SET ROLE sheaf_owner;
END
$closing$;
