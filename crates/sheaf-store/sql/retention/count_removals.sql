-- Purpose: what retention took out of the lake counts as the lake's where both sides are compared: so many hours at most are taken into
--   account, and how many were is given back.
--   uncounted: what is not in reconciled_hours yet; negative where it was cleared.
-- Parameters: how many. Index: lake_removals_uncounted, reconciled_hours_pkey. Locks: the rows of both, in the order of the key.
WITH uncounted AS (
    SELECT r.* FROM sheaf.lake_removals r WHERE NOT r.is_counted
    ORDER BY r.tenant_id, r.hour, r.is_late LIMIT $1::bigint FOR UPDATE
), taken AS (
    UPDATE sheaf.lake_removals r SET counted_facts = u.facts, counted_sum = u.sum, counted_hidden_facts = u.hidden_facts,
        counted_hidden_sum = u.hidden_sum
    FROM uncounted u WHERE r.tenant_id = u.tenant_id AND r.hour = u.hour AND r.is_late = u.is_late
), added AS (
    SELECT u.tenant_id, u.hour, sum(u.facts - u.counted_facts)::bigint AS facts,
        mod(sum(u.sum + 340282366920938463463374607431768211456 - u.counted_sum), 340282366920938463463374607431768211456) AS hash,
        sum(u.hidden_facts - u.counted_hidden_facts)::bigint AS hidden_facts,
        mod(sum(u.hidden_sum + 340282366920938463463374607431768211456 - u.counted_hidden_sum),
            340282366920938463463374607431768211456) AS hidden_hash
    FROM uncounted u GROUP BY u.tenant_id, u.hour
), put AS (
    INSERT INTO sheaf.reconciled_hours AS h (tenant_id, hour, lake_facts, lake_sum, lake_hidden_facts, lake_hidden_sum)
    SELECT a.tenant_id, a.hour, a.facts, a.hash, a.hidden_facts, a.hidden_hash FROM added a ORDER BY a.tenant_id, a.hour
    ON CONFLICT (tenant_id, hour) DO UPDATE SET
        lake_facts = h.lake_facts + excluded.lake_facts,
        lake_sum = mod(h.lake_sum + excluded.lake_sum, 340282366920938463463374607431768211456),
        lake_hidden_facts = h.lake_hidden_facts + excluded.lake_hidden_facts,
        lake_hidden_sum = mod(h.lake_hidden_sum + excluded.lake_hidden_sum, 340282366920938463463374607431768211456)
)
SELECT count(*) AS hours FROM uncounted
