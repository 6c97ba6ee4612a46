-- Purpose: nothing was taken out of a lake that begins anew, but for what is archived: the rest it is given again, and all late events.
-- Parameters: the instant before which history is archived, or null. Index: none, there are few rows. Locks: the rows.
UPDATE sheaf.lake_removals SET facts = 0, sum = 0, hidden_facts = 0, hidden_sum = 0
WHERE is_late OR $1::timestamptz IS NULL OR hour >= floor(extract(epoch FROM $1::timestamptz) / 3600)
