-- Purpose: documents of entities that have no name. A foreign key says so too; damage and replication pass it by.
-- Parameters: none. Index: entities_pkey; reads every document. Locks: none.
SELECT format('tenant %s: document of entity %s, which has no name', d.tenant_id, d.entity_id)
FROM sheaf.entity_jsonb d
WHERE NOT EXISTS (SELECT FROM sheaf.entities n WHERE n.tenant_id = d.tenant_id AND n.entity_id = d.entity_id)
LIMIT 100
