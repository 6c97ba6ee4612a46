-- Purpose: end a move: warming becomes hot, cooling becomes cold, if it is still the move that was seen.
--   Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, the temperature and the row_version seen. Index: attributes_pkey. Locks: one row.
UPDATE sheaf.attributes
SET temperature = CASE $3 WHEN 'warming' THEN 'hot' ELSE 'cold' END
WHERE tenant_id = $1 AND attribute_id = $2 AND temperature = $3 AND xmin::text::bigint = $4
RETURNING attribute_id
