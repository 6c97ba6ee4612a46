-- Purpose: forgets files that no table has any more, and what was counted of them.
-- Parameters: locations. Index: reconciled_files_pkey, reconciled_hours_pkey. Locks: their rows, and those of their hours.
WITH gone AS (
    DELETE FROM sheaf.reconciled_files f WHERE f.location = ANY ($1::text[])
    RETURNING f.is_corrected, f.tenants, f.hours, f.facts, f.sums
), parts AS (
    SELECT p.tenant_id, p.hour, sum(p.facts)::bigint AS facts, sum(p.hash) AS hash,
        coalesce(sum(p.facts) FILTER (WHERE g.is_corrected), 0)::bigint AS hidden_facts,
        coalesce(sum(p.hash) FILTER (WHERE g.is_corrected), 0) AS hidden_hash
    FROM gone g CROSS JOIN LATERAL unnest(g.tenants, g.hours, g.facts, g.sums) p (tenant_id, hour, facts, hash)
    GROUP BY p.tenant_id, p.hour
)
UPDATE sheaf.reconciled_hours h
SET lake_facts = h.lake_facts - p.facts,
    lake_sum = mod(h.lake_sum + 340282366920938463463374607431768211456
        - mod(p.hash, 340282366920938463463374607431768211456), 340282366920938463463374607431768211456),
    lake_hidden_facts = h.lake_hidden_facts - p.hidden_facts,
    lake_hidden_sum = mod(h.lake_hidden_sum + 340282366920938463463374607431768211456
        - mod(p.hidden_hash, 340282366920938463463374607431768211456), 340282366920938463463374607431768211456)
FROM parts p WHERE h.tenant_id = p.tenant_id AND h.hour = p.hour
