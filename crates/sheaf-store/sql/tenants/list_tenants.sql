-- Purpose: a page of tenants in order of name, for administrators.
-- Parameters: the name after which the page begins, tenants_max. Index: tenants_name_key. Locks: none.
SELECT tenant_id, name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros,
    line_protocol, catalogue_version, created_at
FROM sheaf.list_tenants($1, $2)
