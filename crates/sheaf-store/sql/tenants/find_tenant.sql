-- Purpose: a tenant by its name, for administrators.
-- Parameters: name. Index: tenants_name_key. Locks: none.
SELECT tenant_id, name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros,
    line_protocol, catalogue_version, created_at
FROM sheaf.find_tenant($1)
