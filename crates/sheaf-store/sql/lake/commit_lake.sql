-- Purpose: the commit of a lake: its position and the newest metadata of each changed table, or nothing if another writer was faster.
-- Parameters: catalogue, namespace, the number of the commit before; timeline and lsn of the base, the snapshot's ordinal, timeline,
--   lsn and ordinal of the stream; now; the changed tables, their metadata before (null for a new one) and after.
--   Index: lake_positions_pkey, iceberg_tables_pkey. Locks: the position's row, then those of the tables.
SELECT sheaf.commit_lake($1::text, $2::text, $3::bigint, $4::bigint, $5::text::pg_lsn, $6::bigint, $7::bigint, $8::text::pg_lsn, $9::bigint,
    $10::timestamptz, $11::text[], $12::text[], $13::text[]) AS commit_number
