-- Purpose: says that what is counted of a partition is not all, until it is.
-- Parameters: its bounds. Index: reconciled_ranges_pkey. Locks: its row.
INSERT INTO sheaf.reconciled_ranges (lower_bound, upper_bound, state) VALUES ($1::timestamptz, $2::timestamptz, 'reading')
ON CONFLICT (lower_bound) DO UPDATE SET upper_bound = excluded.upper_bound, state = 'reading'
