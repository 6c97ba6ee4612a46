-- Purpose: one step of emptying a value index: up to rows_max rows of an attribute of type int. Runs as sheaf_upkeep.
-- Parameters: tenant_id, attribute_id, rows_max. Index: entity_index_int_pkey. Locks: the rows, until the commit.
DELETE FROM sheaf.entity_index_int
WHERE tenant_id = $1 AND attribute_id = $2 AND entity_id = ANY (ARRAY(
    SELECT entity_id FROM sheaf.entity_index_int
    WHERE tenant_id = $1 AND attribute_id = $2
    ORDER BY entity_id
    LIMIT $3))
RETURNING entity_id
