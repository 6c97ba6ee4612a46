-- Purpose: keep an attribute's value index on its way while a step of it runs; no row where it is not on that way any more.
--   Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, the value_index and the row_version seen. Index: attributes_pkey. Locks: one row,
--   shared, until the commit: a change of the pin waits for the step.
SELECT attribute_id FROM sheaf.attributes
WHERE tenant_id = $1 AND attribute_id = $2 AND value_index = $3 AND xmin::text::bigint = $4
FOR SHARE
