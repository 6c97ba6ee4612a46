-- Purpose: up to where facts may have been taken out of the lake. Attribute 0 is that of rows that name none.
-- Parameters: none. Index: none, all are read. Locks: none.
SELECT tenant_id, attribute_id, (extract(epoch FROM removed_before) * 1000000)::bigint AS before
FROM sheaf.lake_retentions ORDER BY tenant_id, attribute_id
