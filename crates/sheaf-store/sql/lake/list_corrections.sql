-- Purpose: the events that wait, in the order of their instants and then of their keys, after one. No more than have so many
--   bytes of attributes, but one at least.
-- Parameters: catalogue; that one's observed_at, tenant, entity, seq; how many rows, how many bytes. Index: lake_corrections_days.
--   Locks: none.
SELECT p.tenant_id, p.entity_id, p.observed_at, p.seq, p.op, p.batch_id, p.ingested_at, p.attrs::text AS attrs
FROM (
    SELECT r.*, sum(r.bytes) OVER (ORDER BY r.observed_at, r.tenant_id, r.entity_id, r.seq) - r.bytes AS bytes_before
    FROM (
        SELECT c.tenant_id, c.entity_id, c.observed_at, c.seq, c.op, c.batch_id, c.ingested_at, c.attrs, octet_length(c.attrs::text) AS bytes
        FROM sheaf.lake_corrections c
        WHERE c.catalog_name = $1::text
            AND (c.observed_at, c.tenant_id, c.entity_id, c.seq) > ($2::timestamptz, $3::bigint, $4::bigint, $5::smallint)
        ORDER BY c.observed_at, c.tenant_id, c.entity_id, c.seq LIMIT $6::bigint
    ) r
) p
WHERE p.bytes_before < $7::bigint
ORDER BY p.observed_at, p.tenant_id, p.entity_id, p.seq
