-- Purpose: record another interval for new partitions; no row where another server has decided since. A hundred decisions
--   are kept.
-- Parameters: the decision that was seen, interval_name, reason, rows_per_second, index_bytes_per_row, memory_bytes, now.
-- Index: partition_intervals_pkey. Locks: the row.
WITH forgotten AS (
    DELETE FROM sheaf.partition_intervals WHERE decision <= $1 - 99
)
INSERT INTO sheaf.partition_intervals (decision, interval_name, reason, rows_per_second, index_bytes_per_row, memory_bytes, decided_at)
VALUES ($1 + 1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (decision) DO NOTHING
RETURNING decision
