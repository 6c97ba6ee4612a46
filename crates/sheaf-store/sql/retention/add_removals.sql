-- Purpose: counts facts that a commit takes out of the lake.
-- Parameters: tenants, hours, whether late; facts, sums, hidden facts, hidden sums. Each hour of a tenant at most once late and once not.
--   Index: lake_removals_pkey. Locks: the rows, in the order of the key.
INSERT INTO sheaf.lake_removals AS r (tenant_id, hour, is_late, facts, sum, hidden_facts, hidden_sum)
SELECT u.* FROM unnest($1::bigint[], $2::bigint[], $3::boolean[], $4::bigint[], $5::text[]::numeric[], $6::bigint[],
    $7::text[]::numeric[]) u (tenant_id, hour, is_late) ORDER BY u.tenant_id, u.hour, u.is_late
ON CONFLICT (tenant_id, hour, is_late) DO UPDATE SET
    facts = r.facts + excluded.facts,
    sum = mod(r.sum + excluded.sum, 340282366920938463463374607431768211456),
    hidden_facts = r.hidden_facts + excluded.hidden_facts,
    hidden_sum = mod(r.hidden_sum + excluded.hidden_sum, 340282366920938463463374607431768211456)
