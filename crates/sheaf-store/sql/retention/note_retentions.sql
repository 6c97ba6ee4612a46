-- Purpose: up to which day facts may be taken out of the lake, noted before any is, and given back. The latest boundary of an attribute
--   stays noted where its retention became longer: what was taken out is gone. A retention that reaches beyond 1970 is for ever.
--   kept: how long each attribute is kept of tenants that do not keep all, and as attribute 0 rows that name none: as long as any.
-- Parameters: now in microseconds since 1970. Index: none, catalogues are read whole, once a day. Locks: rows whose boundary moves.
WITH kept AS (
    SELECT a.tenant_id, a.attribute_id, coalesce(a.retention_micros, t.retention_micros) AS micros
    FROM sheaf.attributes a JOIN sheaf.tenants t ON t.tenant_id = a.tenant_id
    WHERE coalesce(a.retention_micros, t.retention_micros) IS NOT NULL
    UNION ALL
    SELECT t.tenant_id, 0, greatest(t.retention_micros, max(a.retention_micros))
    FROM sheaf.tenants t LEFT JOIN sheaf.attributes a ON a.tenant_id = t.tenant_id
    WHERE t.retention_micros IS NOT NULL GROUP BY t.tenant_id
), boundaries AS (
    SELECT k.tenant_id, k.attribute_id, ($1::bigint - k.micros) / 86400000000 * 86400000000 AS before
    FROM kept k WHERE $1::bigint > k.micros
), noted AS (
    INSERT INTO sheaf.lake_retentions AS r (tenant_id, attribute_id, removed_before)
    SELECT b.tenant_id, b.attribute_id, timestamptz 'epoch' + b.before * interval '1 microsecond'
    FROM boundaries b ORDER BY b.tenant_id, b.attribute_id
    ON CONFLICT (tenant_id, attribute_id) DO UPDATE SET removed_before = excluded.removed_before
    WHERE r.removed_before < excluded.removed_before
)
SELECT b.tenant_id, b.attribute_id, b.before FROM boundaries b ORDER BY b.tenant_id, b.attribute_id
