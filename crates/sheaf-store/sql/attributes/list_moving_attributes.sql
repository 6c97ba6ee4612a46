-- Purpose: attributes whose values are on their way between the two parts of the document, of every tenant.
--   Runs as sheaf_upkeep.
-- Parameters: none. Index: none; the catalogue is small. Locks: none.
SELECT tenant_id, attribute_id, temperature, xmin::text::bigint AS row_version
FROM sheaf.attributes
WHERE temperature IN ('warming', 'cooling')
ORDER BY tenant_id, attribute_id
LIMIT 1000
