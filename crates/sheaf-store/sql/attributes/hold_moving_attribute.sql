-- Purpose: keep an attribute on its way while a step of its move runs; no row where it is not on that way any more.
--   Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, the temperature and the row_version seen; the latter is another one also where
--   the attribute has left the way and come back. Index: attributes_pkey. Locks: one row, shared, until the commit: a change
--   of the pin waits for the step.
SELECT attribute_id FROM sheaf.attributes
WHERE tenant_id = $1 AND attribute_id = $2 AND temperature = $3 AND xmin::text::bigint = $4
FOR SHARE
