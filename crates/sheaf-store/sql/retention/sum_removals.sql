-- Purpose: what retention took out of the lake of a span of whole hours, but for late facts.
-- Parameters: the first instant, the first one after it. Index: lake_removals_hour. Locks: none.
SELECT coalesce(sum(facts), 0)::bigint AS facts, mod(coalesce(sum(sum), 0), 340282366920938463463374607431768211456)::text AS sum
FROM sheaf.lake_removals
WHERE NOT is_late AND hour >= floor(extract(epoch FROM $1::timestamptz) / 3600)
    AND hour < ceil(extract(epoch FROM $2::timestamptz) / 3600)
