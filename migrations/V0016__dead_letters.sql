-- Dead letters: changes that a sink of the change stream could not take, kept whole until somebody decides.
-- Why: one row that cannot be read, or that a sink has no place for, must not hold up everything that comes after it, and must
--   not be lost either. It is kept here before the sink's position passes it, with what there is to say of it, and is offered again or
--   let go by an administrator, of whom that is written down.
-- Locks: none on what was there before.
-- Runs beside servers of the versions before, whose streams stop at such a row.

CREATE TABLE sheaf.dead_letters (
    letter_id uuid NOT NULL,
    slot_name text COLLATE "C" NOT NULL,
    sink_name text COLLATE "C" NOT NULL,
    origin text NOT NULL,
    timeline bigint NOT NULL,
    commit_lsn pg_lsn NOT NULL,
    ordinal bigint NOT NULL,
    xid bigint NOT NULL,
    committed_at timestamptz NOT NULL,
    of_tenant bigint,
    reason text COLLATE "C" NOT NULL,
    detail text NOT NULL,
    payload text NOT NULL,
    payload_bytes bigint NOT NULL,
    is_whole boolean NOT NULL,
    received_at timestamptz NOT NULL,
    status text NOT NULL DEFAULT 'open',
    CONSTRAINT dead_letters_pkey PRIMARY KEY (letter_id),
    CONSTRAINT dead_letters_position UNIQUE (slot_name, sink_name, timeline, commit_lsn, ordinal),
    CONSTRAINT dead_letters_origin CHECK (origin IN ('snapshot', 'stream')),
    CONSTRAINT dead_letters_status CHECK (status IN ('open', 'replay_asked', 'replayed', 'discarded'))
);
-- What waits, and how much: asked before each letter is kept, and each second whether any is to be offered again.
CREATE INDEX dead_letters_waiting ON sheaf.dead_letters (slot_name, sink_name) INCLUDE (status, payload_bytes)
    WHERE status IN ('open', 'replay_asked');
-- What is settled and still has its row.
CREATE INDEX dead_letters_settled ON sheaf.dead_letters (letter_id)
    WHERE status IN ('replayed', 'discarded') AND payload_bytes > 0;
COMMENT ON TABLE sheaf.dead_letters IS 'Changes that a sink could not take, each once for each sink. Of all tenants: only administrators see them, through functions.';
COMMENT ON COLUMN sheaf.dead_letters.letter_id IS 'Its number; later ones sort later.';
COMMENT ON COLUMN sheaf.dead_letters.slot_name IS 'The slot whose stream its sink is fed from: sinks are named within it.';
COMMENT ON COLUMN sheaf.dead_letters.sink_name IS 'The sink that lacks it.';
COMMENT ON COLUMN sheaf.dead_letters.origin IS 'Where it came from: snapshot or stream.';
COMMENT ON COLUMN sheaf.dead_letters.timeline IS 'The timeline of its position.';
COMMENT ON COLUMN sheaf.dead_letters.commit_lsn IS 'Where its transaction was committed; of a snapshot, where that begins.';
COMMENT ON COLUMN sheaf.dead_letters.ordinal IS 'Its place in its transaction or snapshot, from 1.';
COMMENT ON COLUMN sheaf.dead_letters.xid IS 'The number of its transaction, without the count of cycles; 0 in a snapshot.';
COMMENT ON COLUMN sheaf.dead_letters.committed_at IS 'When its transaction was committed; of a snapshot, when that was taken.';
COMMENT ON COLUMN sheaf.dead_letters.of_tenant IS 'Whose row it is; null where that could not be read.';
COMMENT ON COLUMN sheaf.dead_letters.reason IS 'Why the sink could not take it, as a code; the last time that it was offered.';
COMMENT ON COLUMN sheaf.dead_letters.detail IS 'The same for people.';
COMMENT ON COLUMN sheaf.dead_letters.payload IS 'The row as JSON: its table and its columns, as far as they could be read, and else their bytes. Empty ({}) some days after it is settled.';
COMMENT ON COLUMN sheaf.dead_letters.payload_bytes IS 'How long that is; 0 once it was emptied.';
COMMENT ON COLUMN sheaf.dead_letters.is_whole IS 'Whether all of the row is in it; of one beyond the limit only the beginnings of its long values are, and it cannot be offered again. False once it was emptied.';
COMMENT ON COLUMN sheaf.dead_letters.received_at IS 'When it was kept.';
COMMENT ON COLUMN sheaf.dead_letters.status IS 'open; replay_asked until its sink has been offered it again; replayed once that took it; discarded.';

CREATE TABLE sheaf.dead_letter_actions (
    action_number bigint GENERATED ALWAYS AS IDENTITY,
    letter_id uuid NOT NULL,
    acted_at timestamptz NOT NULL,
    action text NOT NULL,
    key_id text,
    detail text,
    CONSTRAINT dead_letter_actions_pkey PRIMARY KEY (action_number),
    CONSTRAINT dead_letter_actions_letter FOREIGN KEY (letter_id) REFERENCES sheaf.dead_letters (letter_id),
    CONSTRAINT dead_letter_actions_action CHECK (action IN ('ask_replay', 'replay', 'refuse', 'discard'))
);
CREATE INDEX dead_letter_actions_letter_key ON sheaf.dead_letter_actions (letter_id, action_number);
COMMENT ON TABLE sheaf.dead_letter_actions IS 'What was done with each dead letter, when and by whom. Only ever added to.';
COMMENT ON COLUMN sheaf.dead_letter_actions.action_number IS 'Its number, in the order of what was done.';
COMMENT ON COLUMN sheaf.dead_letter_actions.letter_id IS 'The letter.';
COMMENT ON COLUMN sheaf.dead_letter_actions.acted_at IS 'When, by the clock of the server that did it.';
COMMENT ON COLUMN sheaf.dead_letter_actions.action IS 'ask_replay and discard are an administrator''s; replay and refuse are what its sink made of it. A sink that begins anew discards its letters by itself.';
COMMENT ON COLUMN sheaf.dead_letter_actions.key_id IS 'The key of the administrator; null for what a server did by itself.';
COMMENT ON COLUMN sheaf.dead_letter_actions.detail IS 'What the sink said, or why it was done.';

-- The routes of administrators act as sheaf_app, which sees none of this otherwise.
CREATE FUNCTION sheaf.list_dead_letters(of_sink text, with_reason text, with_status text, before_letter uuid, letters_max integer)
    RETURNS TABLE (letter_id uuid, sink_name text, timeline bigint, commit_lsn text, ordinal bigint, reason text, detail text,
        received_at timestamptz, status text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT l.letter_id, l.sink_name, l.timeline, l.commit_lsn::text, l.ordinal, l.reason, l.detail, l.received_at, l.status
        FROM sheaf.dead_letters l
        WHERE (of_sink IS NULL OR l.sink_name = of_sink) AND (with_reason IS NULL OR l.reason = with_reason)
            AND (with_status IS NULL OR l.status = with_status) AND (before_letter IS NULL OR l.letter_id < before_letter)
        ORDER BY l.letter_id DESC LIMIT letters_max
    $$;
COMMENT ON FUNCTION sheaf.list_dead_letters(text, text, text, uuid, integer) IS 'Dead letters without their payload, newest first, for administrators.';

CREATE FUNCTION sheaf.find_dead_letter(wanted uuid)
    RETURNS TABLE (letter_id uuid, sink_name text, timeline bigint, commit_lsn text, ordinal bigint, reason text, detail text,
        received_at timestamptz, status text, tenant text, committed_at timestamptz, is_whole boolean, payload text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT l.letter_id, l.sink_name, l.timeline, l.commit_lsn::text, l.ordinal, l.reason, l.detail, l.received_at, l.status,
            t.name, l.committed_at, l.is_whole, l.payload
        FROM sheaf.dead_letters l LEFT JOIN sheaf.tenants t ON t.tenant_id = l.of_tenant
        WHERE l.letter_id = wanted
    $$;
COMMENT ON FUNCTION sheaf.find_dead_letter(uuid) IS 'One dead letter with its payload, for administrators.';

CREATE FUNCTION sheaf.list_dead_letter_actions(wanted uuid, actions_max integer)
    RETURNS TABLE (acted_at timestamptz, action text, key_id text, detail text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT n.acted_at, n.action, n.key_id, n.detail FROM (
            SELECT a.action_number, a.acted_at, a.action, a.key_id, a.detail FROM sheaf.dead_letter_actions a
            WHERE a.letter_id = wanted ORDER BY a.action_number DESC LIMIT actions_max) n
        ORDER BY n.action_number
    $$;
COMMENT ON FUNCTION sheaf.list_dead_letter_actions(uuid, integer) IS 'What was last done with a dead letter, in order, for administrators.';

CREATE FUNCTION sheaf.look_at_dead_letters(wanted uuid[])
    RETURNS TABLE (letter_id uuid, status text, reason text, detail text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT l.letter_id, l.status, l.reason, l.detail FROM sheaf.dead_letters l WHERE l.letter_id = ANY (wanted)
    $$;
COMMENT ON FUNCTION sheaf.look_at_dead_letters(uuid[]) IS 'How these dead letters are, for administrators.';

CREATE FUNCTION sheaf.ask_for_dead_letters(wanted uuid[], by_key text, now_at timestamptz) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH held AS MATERIALIZED (
            SELECT l.letter_id FROM sheaf.dead_letters l
            WHERE l.letter_id = ANY (wanted) AND l.status = 'open' ORDER BY l.letter_id FOR UPDATE
        ), asked AS (
            UPDATE sheaf.dead_letters l SET status = 'replay_asked' FROM held h WHERE l.letter_id = h.letter_id RETURNING l.letter_id
        ), written AS (
            INSERT INTO sheaf.dead_letter_actions (letter_id, acted_at, action, key_id)
            SELECT a.letter_id, now_at, 'ask_replay', by_key FROM asked a
        )
        SELECT a.letter_id FROM asked a
    $$;
COMMENT ON FUNCTION sheaf.ask_for_dead_letters(uuid[], text, timestamptz) IS 'Asks that the open ones among these dead letters are offered to their sinks again, for administrators. Gives back which.';

CREATE FUNCTION sheaf.discard_dead_letters(wanted uuid[], by_key text, now_at timestamptz) RETURNS SETOF uuid
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH held AS MATERIALIZED (
            SELECT l.letter_id FROM sheaf.dead_letters l
            WHERE l.letter_id = ANY (wanted) AND l.status IN ('open', 'replay_asked') ORDER BY l.letter_id FOR UPDATE
        ), discarded AS (
            UPDATE sheaf.dead_letters l SET status = 'discarded' FROM held h WHERE l.letter_id = h.letter_id RETURNING l.letter_id
        ), written AS (
            INSERT INTO sheaf.dead_letter_actions (letter_id, acted_at, action, key_id)
            SELECT d.letter_id, now_at, 'discard', by_key FROM discarded d
        )
        SELECT d.letter_id FROM discarded d
    $$;
COMMENT ON FUNCTION sheaf.discard_dead_letters(uuid[], text, timestamptz) IS 'Lets go of those among these dead letters that are not settled, for administrators. Gives back which.';

REVOKE ALL ON FUNCTION sheaf.list_dead_letters(text, text, text, uuid, integer), sheaf.find_dead_letter(uuid),
    sheaf.list_dead_letter_actions(uuid, integer), sheaf.look_at_dead_letters(uuid[]),
    sheaf.ask_for_dead_letters(uuid[], text, timestamptz), sheaf.discard_dead_letters(uuid[], text, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sheaf.list_dead_letters(text, text, text, uuid, integer), sheaf.find_dead_letter(uuid),
    sheaf.list_dead_letter_actions(uuid, integer), sheaf.look_at_dead_letters(uuid[]),
    sheaf.ask_for_dead_letters(uuid[], text, timestamptz), sheaf.discard_dead_letters(uuid[], text, timestamptz) TO sheaf_app;
GRANT SELECT, INSERT, UPDATE ON sheaf.dead_letters TO sheaf_cdc;
GRANT SELECT, INSERT ON sheaf.dead_letter_actions TO sheaf_cdc;
