-- Purpose: what was counted of some hours. Those of which nothing was are left out.
-- Parameters: tenants, hours. Index: reconciled_hours_pkey. Locks: none.
SELECT h.tenant_id, h.hour, h.events_facts, h.events_sum::text AS events_sum, h.events_hidden_facts,
    h.events_hidden_sum::text AS events_hidden_sum, h.lake_facts, h.lake_sum::text AS lake_sum, h.lake_hidden_facts,
    h.lake_hidden_sum::text AS lake_hidden_sum
FROM unnest($1::bigint[], $2::bigint[]) u (tenant_id, hour)
JOIN sheaf.reconciled_hours h ON h.tenant_id = u.tenant_id AND h.hour = u.hour
