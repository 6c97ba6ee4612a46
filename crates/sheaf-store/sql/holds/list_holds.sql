-- Purpose: who makes the primary keep rows that nobody there needs any more, and how many transactions back: a replica that
--   reports its oldest transaction, a slot that keeps what one reported, a slot that keeps rows of the catalogue for decoding.
--   Longest first. PostgreSQL shows these columns to every role.
-- Parameters: how many at most. Index: none, a row a replica and a slot. Locks: none.
WITH held (holder, name, xmin) AS (
    -- Several replicas may report under one name, or under none.
    SELECT 'replica', coalesce(nullif(application_name, ''), 'unnamed'), backend_xmin FROM pg_stat_replication
    UNION ALL
    SELECT 'slot', slot_name, xmin FROM pg_replication_slots
    UNION ALL
    SELECT 'slot_catalog', slot_name, catalog_xmin FROM pg_replication_slots
)
SELECT holder, name, max(age(xmin))::bigint AS transactions
FROM held
WHERE xmin IS NOT NULL
GROUP BY holder, name
ORDER BY transactions DESC, holder, name
LIMIT $1
