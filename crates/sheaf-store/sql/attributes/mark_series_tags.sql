-- Purpose: attributes that lines carry as tags beside an id are known as such from now on. The transaction has locked
--   the tenant's row before, so that two servers cannot wait for each other. The catalogue's version moves only where
--   one was not known as such. By name: after a failover that lost it, its number may be another's.
-- Parameters: tenant_id, names. Index: attributes_name_key, tenants_pkey. Locks: these rows, the tenant's row.
WITH marked AS (
    UPDATE sheaf.attributes
    SET series_tag = true
    WHERE tenant_id = $1 AND name = ANY ($2::text[]) AND NOT series_tag
    RETURNING attribute_id
)
UPDATE sheaf.tenants SET catalogue_version = catalogue_version + 1
WHERE tenant_id = $1 AND EXISTS (SELECT FROM marked)
