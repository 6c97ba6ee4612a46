-- Purpose: one step of emptying a value index: up to rows_max rows of an attribute of type float after an entity, in order: what
--   lies before it was emptied by the steps before, and its dead rows are not met again. Gives back the last entity, null at
--   the end. Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, the entity before, rows_max. Index: entity_index_float_pkey. Locks: the rows, until the
--   commit.
WITH gone AS (
    DELETE FROM sheaf.entity_index_float
    WHERE tenant_id = $1 AND attribute_id = $2 AND entity_id = ANY (ARRAY(
        SELECT entity_id FROM sheaf.entity_index_float
        WHERE tenant_id = $1 AND attribute_id = $2 AND entity_id > $3
        ORDER BY entity_id
        LIMIT $4))
    RETURNING entity_id
)
SELECT max(entity_id) AS through FROM gone
