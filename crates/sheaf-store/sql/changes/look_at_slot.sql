-- Purpose: what the server says of a replication slot and of itself, beside what is remembered of the slot.
-- Parameters: the slot's name. Index: change_slots_pkey. Locks: none.
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_id,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END AS timeline,
    (SELECT CASE WHEN c.setting::bigint >= 0 THEN c.setting::bigint * 1048576 END
        FROM pg_catalog.pg_settings c WHERE c.name = 'max_slot_wal_keep_size') AS keep_bytes_max,
    s.slot_name IS NOT NULL AS is_there, s.plugin::text, s.database = current_database() AS is_of_this_database, s.active,
    s.wal_status, s.confirmed_flush_lsn::text, s.safe_wal_size,
    CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint END AS retained_bytes,
    r.system_id AS known_system_id, r.timeline AS known_timeline, r.begins_at::text, r.promised_lsn::text
FROM (VALUES ($1::text)) one (slot_name)
LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = one.slot_name
LEFT JOIN sheaf.change_slots r ON r.slot_name = one.slot_name
