-- Purpose: attributes whose values are on their way into a value index or out of it, of every tenant.
--   Runs as sheaf_upkeep.
-- Parameters: none. Index: none; the catalogue is small. Locks: none.
SELECT tenant_id, attribute_id, type, value_index, xmin::text::bigint AS row_version
FROM sheaf.attributes
WHERE value_index IN ('filling', 'emptying')
ORDER BY tenant_id, attribute_id
LIMIT 1000
