-- Purpose: how far the change stream is in a lake.
-- Parameters: catalogue. Index: lake_positions_pkey. Locks: none.
SELECT commit_number, base_timeline, base_lsn::text AS base_lsn, snapshot_ordinal, timeline, commit_lsn::text AS commit_lsn, ordinal,
    committed_at
FROM sheaf.lake_positions WHERE catalog_name = $1::text
