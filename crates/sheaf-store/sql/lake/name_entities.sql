-- Purpose: what entities are called. That never changes.
-- Parameters: their tenants, their numbers, at the same places. Index: entities_pkey. Locks: none.
SELECT e.tenant_id, e.entity_id, e.entity_type, e.external_id
FROM unnest($1::bigint[], $2::bigint[]) AS w (tenant_id, entity_id)
JOIN sheaf.entities e ON e.tenant_id = w.tenant_id AND e.entity_id = w.entity_id
