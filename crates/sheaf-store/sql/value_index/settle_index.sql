-- Purpose: end a move: filling becomes filled; emptying becomes none, or filling again where the attribute was pinned hot
--   meanwhile. If it is still the move that was seen. Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, the value_index and the row_version seen. Index: attributes_pkey. Locks: one row.
UPDATE sheaf.attributes
SET value_index = CASE WHEN $3 = 'filling' THEN 'filled' WHEN pin = 'hot' THEN 'filling' ELSE 'none' END
WHERE tenant_id = $1 AND attribute_id = $2 AND value_index = $3 AND xmin::text::bigint = $4
RETURNING attribute_id
