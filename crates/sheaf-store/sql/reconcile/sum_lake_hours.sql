-- Purpose: what was counted of the lake of some hours, of all tenants, with what retention took out of it.
-- Parameters: the first hour, the first after them. Index: reconciled_hours_hour. Locks: none.
SELECT coalesce(sum(lake_facts), 0)::bigint AS facts, mod(coalesce(sum(lake_sum), 0), 340282366920938463463374607431768211456)::text AS sum
FROM sheaf.reconciled_hours WHERE hour >= $1::bigint AND hour < $2::bigint
