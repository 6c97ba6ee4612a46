-- Purpose: the events of a partition by its name, attached or not, after one of them in the order of its key.
-- Parameters: partition_name, the row's tenant, entity, observed_at, seq; how many. Index: the partition's primary key. Locks: none.
SELECT tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs::text AS attrs
FROM sheaf.read_archived_partition($1, $2, $3, $4, $5, $6)
