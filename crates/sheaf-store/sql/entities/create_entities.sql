-- Purpose: entities that are not there yet, in order of name so that two servers cannot wait for each other;
--   each with its number. No row for a name that is there, or that another transaction has just made: its number is
--   found afterwards.
-- Parameters: tenant_id, types, ids, created_at. Index: entities_external_id_key. Locks: new rows.
INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
SELECT $1, n.entity_type, n.external_id, $4
FROM unnest($2::text[], $3::text[]) AS n (entity_type, external_id)
ORDER BY n.entity_type COLLATE "C", n.external_id COLLATE "C"
ON CONFLICT (tenant_id, entity_type, external_id) DO NOTHING
RETURNING entity_type, external_id, entity_id
