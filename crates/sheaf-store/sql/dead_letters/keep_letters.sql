-- Purpose: keep changes that a sink could not take, each once however often it is sent. A place of a snapshot whose rows
--   change may hold another row when it is read again, which takes the place of the one before. One whose row was
--   emptied since is settled and stays. A letter that was let go because its
--   sink began anew is one again.
-- Parameters: the slot's name, the sink's, the reader's number, now; then as arrays: letter_id, origin, timeline, commit_lsn, ordinal,
--   xid, committed_at, tenant (may be null), reason, detail, payload, is_whole. Index: change_slots_pkey, dead_letters_position.
--   Locks: the rows. Gives back a row where the reader is the slot's last.
WITH reader AS MATERIALIZED (
    SELECT r.slot_name FROM sheaf.change_slots r WHERE r.slot_name = $1::text AND r.reader = $3::bigint
), kept AS (
    INSERT INTO sheaf.dead_letters AS l (letter_id, slot_name, sink_name, origin, timeline, commit_lsn, ordinal, xid, committed_at, of_tenant,
        reason, detail, payload, payload_bytes, is_whole, received_at)
    SELECT n.letter_id, reader.slot_name, $2::text, n.origin, n.timeline, n.commit_lsn::pg_lsn, n.ordinal, n.xid, n.committed_at, n.of_tenant,
        n.reason, n.detail, n.payload, octet_length(n.payload), n.is_whole, $4::timestamptz
    FROM unnest($5::uuid[], $6::text[], $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::timestamptz[], $12::bigint[],
            $13::text[], $14::text[], $15::text[], $16::boolean[])
        AS n (letter_id, origin, timeline, commit_lsn, ordinal, xid, committed_at, of_tenant, reason, detail, payload, is_whole)
    CROSS JOIN reader
    ORDER BY n.timeline, n.commit_lsn::pg_lsn, n.ordinal
    ON CONFLICT (slot_name, sink_name, timeline, commit_lsn, ordinal) DO UPDATE
    SET of_tenant = excluded.of_tenant, reason = excluded.reason, detail = excluded.detail,
        payload = excluded.payload, payload_bytes = excluded.payload_bytes, is_whole = excluded.is_whole, status = 'open'
    WHERE (l.payload <> excluded.payload AND l.payload_bytes > 0) OR (l.status = 'discarded' AND EXISTS (
        SELECT FROM sheaf.dead_letter_actions a
        WHERE a.letter_id = l.letter_id AND a.action = 'discard' AND a.key_id IS NULL))
)
SELECT slot_name FROM reader
