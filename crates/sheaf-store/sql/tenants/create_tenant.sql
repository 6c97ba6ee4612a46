-- Purpose: a new tenant; null where the name is taken.
-- Parameters: name, unknown_attributes, observed_at_min, observed_at_ahead_max_micros, retention_micros, line_protocol,
--   created_at. Index: tenants_name_key. Locks: one row.
SELECT sheaf.create_tenant($1, $2, $3, $4, $5, $6, $7) AS tenant_id
