-- Purpose: adds to what was counted of hours. What is taken away is added as what it lacks to 2^128, and as a negative number of
--   facts.
-- Parameters: tenants, hours; of events: facts, sums, hidden facts, hidden sums; of the lake: the same. Each hour of a tenant once.
--   Index: reconciled_hours_pkey. Locks: the rows, in the order of the key.
INSERT INTO sheaf.reconciled_hours AS h (tenant_id, hour, events_facts, events_sum, events_hidden_facts, events_hidden_sum,
    lake_facts, lake_sum, lake_hidden_facts, lake_hidden_sum)
SELECT u.* FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]::numeric[], $5::bigint[], $6::text[]::numeric[],
    $7::bigint[], $8::text[]::numeric[], $9::bigint[], $10::text[]::numeric[]) u (tenant_id, hour) ORDER BY u.tenant_id, u.hour
ON CONFLICT (tenant_id, hour) DO UPDATE SET
    events_facts = h.events_facts + excluded.events_facts,
    events_sum = mod(h.events_sum + excluded.events_sum, 340282366920938463463374607431768211456),
    events_hidden_facts = h.events_hidden_facts + excluded.events_hidden_facts,
    events_hidden_sum = mod(h.events_hidden_sum + excluded.events_hidden_sum, 340282366920938463463374607431768211456),
    lake_facts = h.lake_facts + excluded.lake_facts,
    lake_sum = mod(h.lake_sum + excluded.lake_sum, 340282366920938463463374607431768211456),
    lake_hidden_facts = h.lake_hidden_facts + excluded.lake_hidden_facts,
    lake_hidden_sum = mod(h.lake_hidden_sum + excluded.lake_hidden_sum, 340282366920938463463374607431768211456)
