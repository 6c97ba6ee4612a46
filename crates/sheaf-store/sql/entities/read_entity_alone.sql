-- Purpose: one entity with its document and the server's position before and after, as a statement that is a transaction.
-- Parameters: tenant_id, type, id. Index: entities_external_id_key, entity_jsonb_pkey. Locks: none.
SELECT * FROM sheaf.read_entity($1, $2, $3)
