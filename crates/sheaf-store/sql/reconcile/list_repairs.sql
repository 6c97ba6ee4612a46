-- Purpose: the repairs that wait, in the order of their instants and then of their keys. No more than have so many bytes of
--   attributes, but one at least.
-- Parameters: catalogue; how many rows, how many bytes. Index: lake_repairs_days. Locks: none.
SELECT p.tenant_id, p.entity_id, p.observed_at, p.seq, p.op, p.batch_id, p.ingested_at, p.attrs::text AS attrs, p.base_timeline,
    p.base_lsn::text AS base_lsn, p.asked_at
FROM (
    SELECT r.*, sum(r.bytes) OVER (ORDER BY r.observed_at, r.tenant_id, r.entity_id, r.seq) - r.bytes AS bytes_before
    FROM (
        SELECT c.tenant_id, c.entity_id, c.observed_at, c.seq, c.op, c.batch_id, c.ingested_at, c.attrs, c.base_timeline, c.base_lsn,
            c.asked_at, coalesce(octet_length(c.attrs::text), 0) AS bytes
        FROM sheaf.lake_repairs c WHERE c.catalog_name = $1::text
        ORDER BY c.observed_at, c.tenant_id, c.entity_id, c.seq LIMIT $2::bigint
    ) r
) p
WHERE p.bytes_before < $3::bigint
ORDER BY p.observed_at, p.tenant_id, p.entity_id, p.seq
