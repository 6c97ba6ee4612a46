-- Purpose: what attributes are called and what they hold. Neither ever changes.
-- Parameters: their tenants, their numbers, at the same places. Index: attributes_pkey. Locks: none.
SELECT a.tenant_id, a.attribute_id, a.name, a.type
FROM unnest($1::bigint[], $2::bigint[]) AS w (tenant_id, attribute_id)
JOIN sheaf.attributes a ON a.tenant_id = w.tenant_id AND a.attribute_id = w.attribute_id
