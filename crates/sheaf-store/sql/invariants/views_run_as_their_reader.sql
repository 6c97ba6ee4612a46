-- Purpose: views that read as their owner, whom row-level security shows everything; and materialised ones, which hold
--   the rows of all tenants.
-- Parameters: none. Index: the catalogue's own. Locks: none.
SELECT format('view %s does not run as its reader', c.relname)
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'sheaf'::regnamespace
    AND (c.relkind = 'm' OR c.relkind = 'v' AND NOT coalesce(c.reloptions @> ARRAY['security_invoker=true'], false))
LIMIT 100
