-- Purpose: the position beyond which corrections wait that the tables of a lake do not have yet; no row where none does.
-- Parameters: catalogue. Index: lake_corrections_held, in the function. Locks: none.
SELECT timeline, lsn::text AS lsn FROM sheaf.lake_held_until($1::text)
