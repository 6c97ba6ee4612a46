-- Purpose: the numbers of named entities; those that are not there give no row.
-- Parameters: tenant_id, types, ids. Index: entities_external_id_key, one probe a name. OFFSET 0 keeps the probe a probe:
--   as a plain join, an estimate of one row for a new tenant compares all its entities with all the names. Locks: none.
SELECT n.place, e.entity_id
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS n (entity_type, external_id, place)
CROSS JOIN LATERAL (
    SELECT i.entity_id
    FROM sheaf.entities i
    WHERE i.tenant_id = $1 AND i.entity_type = n.entity_type AND i.external_id = n.external_id
    OFFSET 0
) e
