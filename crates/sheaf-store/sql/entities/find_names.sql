-- Purpose: the names of numbered entities; those that are not there give no row.
-- Parameters: tenant_id, numbers. Index: entities_pkey, one probe a number. OFFSET 0 keeps the probe a probe: as a condition, an
--   estimate of few rows reads all entities of the tenant and compares them with all the numbers. Locks: none.
SELECT n.entity_id, e.entity_type, e.external_id
FROM unnest($2::bigint[]) AS n (entity_id)
CROSS JOIN LATERAL (
    SELECT i.entity_type, i.external_id
    FROM sheaf.entities i
    WHERE i.tenant_id = $1::bigint AND i.entity_id = n.entity_id
    OFFSET 0
) e
