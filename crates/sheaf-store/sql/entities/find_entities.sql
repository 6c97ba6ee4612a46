-- Purpose: the numbers of named entities; those that are not there give no row.
-- Parameters: tenant_id, types, ids. Index: entities_external_id_key. Locks: none.
SELECT n.place, e.entity_id
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS n (entity_type, external_id, place)
JOIN sheaf.entities e ON e.tenant_id = $1 AND e.entity_type = n.entity_type AND e.external_id = n.external_id
