-- Purpose: how many events are late, and when the last one came; null where none did.
-- Parameters: none. Index: none; reads the table. Locks: none.
SELECT count(*) AS events, max(ingested_at) AS last_at FROM sheaf.entity_events_late
