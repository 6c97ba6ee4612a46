-- Purpose: the events of some tenants that a sink lacks because they wait as letters.
-- Parameters: the slot's name, the sink's; tenants. Index: dead_letters_waiting. Locks: none.
SELECT (c.columns #>> '{tenant_id,int}')::bigint AS tenant_id, (c.columns #>> '{entity_id,int}')::bigint AS entity_id,
    (c.columns #>> '{observed_at,time}')::timestamptz AS observed_at, (c.columns #>> '{seq,int}')::smallint AS seq
FROM sheaf.dead_letters d CROSS JOIN LATERAL (SELECT d.payload::jsonb -> 'columns' AS columns OFFSET 0) c
WHERE d.slot_name = $1::text AND d.sink_name = $2::text AND d.status IN ('open', 'replay_asked') AND d.of_tenant = ANY ($3::bigint[])
    AND d.payload::jsonb ->> 'table' IN ('entity_events', 'entity_events_late') AND c.columns ?& ARRAY['tenant_id', 'entity_id', 'observed_at', 'seq']
