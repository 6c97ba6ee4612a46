-- Purpose: remembers the tables all of whose files are counted, by their descriptions.
-- Parameters: the descriptions; null where there are other files. Index: none, there is one row. Locks: that row.
UPDATE sheaf.reconcile_runs SET settled_tables = $1::text[]
