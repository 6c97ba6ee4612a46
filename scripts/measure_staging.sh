#!/bin/sh
# What staging costs by where the rows lie and by what the commit waits for: docs/decisions/0004-staged-mode.md has the figures.
# Takes a database of ours without tenants in PGDATABASE, to which a superuser connects (libpq's variables say how), and
# half a minute. Batches of 500 events of ten values are staged by two clients, and flushed by stage_flush.
set -eu
seconds=${SECONDS_EACH:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }

run <<'SQL'
SET client_min_messages = warning;
INSERT INTO sheaf.tenants (name, created_at) VALUES ('measured', now());
INSERT INTO sheaf.attributes (tenant_id, name, type, origin, temperature, created_at)
SELECT 1, 'a' || n, 'float', 'declared', CASE WHEN n > 8 THEN 'hot' ELSE 'cold' END, now() FROM generate_series(1, 10) n;
INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
SELECT 1, 'thing', 'e' || n, now() FROM generate_series(1, 20000) n;
SELECT FROM sheaf.ensure_event_partition(now());
CREATE TABLE public.template AS
SELECT e.entity_id, row_number() OVER () AS place,
    (SELECT jsonb_object_agg(a.attribute_id, round((random() * 1000)::numeric, 2)) FROM sheaf.attributes a WHERE e.entity_id > 0) AS attrs
FROM sheaf.entities e;
CREATE INDEX ON public.template (place);
SQL

cat > "$work/stage.sql" <<'SQL'
\set first random(0, 39) * 500
BEGIN;
SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7' || substr(md5(random()::text || :client_id), 14))::uuid AS batch \gset
INSERT INTO sheaf.staged_batches (tenant_id, batch_id, request_key, request_hash, epoch, events, refused, staged_events, value_count, buckets, received_at, staged_at)
SELECT 1, ':batch', ':batch', '', epoch, 500, 0, 500, 5000, ARRAY(SELECT generate_series(0, 63)), now(), now() FROM sheaf.staging_canary;
INSERT INTO sheaf.entity_values_ingest (tenant_id, entity_id, observed_at, op, batch_id, ingested_at, attrs, ordinal, bucket, value_count, value_bytes)
SELECT 1, entity_id, clock_timestamp(), 'p', ':batch', now(), attrs, place, place % 64, 10, 120 FROM public.template WHERE place > :first AND place <= :first + 500;
COMMIT;
SQL

measure() {
    name=$1 persistence=$2 commit=$3
    run -c "TRUNCATE sheaf.entity_values_ingest, sheaf.staged_batches" -c "ALTER TABLE sheaf.entity_values_ingest SET $persistence" -c "CHECKPOINT"
    before=$(run -c "SELECT pg_current_wal_insert_lsn()")
    tps=$(PGOPTIONS="-c synchronous_commit=$commit" pgbench -n -c 2 -T "$seconds" -f "$work/stage.sql" 2>"$work/log" | sed -n 's/^tps = \([0-9.]*\).*/\1/p;s/^latency average = \(.*\)/\1/p' | paste -sd' ')
    staged=$(run -c "SELECT sum(staged_events), pg_current_wal_insert_lsn() - '$before' FROM sheaf.staged_batches" | tr '|' ' ')
    before=$(run -c "SELECT pg_current_wal_insert_lsn()")
    began=$(date +%s%N)
    flushed=0
    while :; do
        some=$(PGOPTIONS="-c synchronous_commit=off" run -c "SELECT events FROM sheaf.stage_flush(10000)")
        [ "$some" -gt 0 ] || break
        flushed=$((flushed + some))
        [ "$flushed" -lt 100000 ] || break
    done
    took=$(( ($(date +%s%N) - began) / 1000000 ))
    wal=$(run -c "SELECT pg_current_wal_insert_lsn() - '$before'")
    set -- $tps $staged
    echo "$name: $(echo "$3" | cut -d. -f1) batches/s, $1 ms a batch, $(($5 / $4)) WAL bytes an event; flush $((flushed * 1000 / took)) events/s, $((wal / flushed)) WAL bytes an event"
}

# The first round makes the documents; its figures are not of the same work.
seconds=1 measure "(warming up)" UNLOGGED off >"$work/log"
measure "unlogged, no wait" UNLOGGED off
measure "logged, no wait" LOGGED off
measure "logged, waits for the disk" LOGGED on
run -c "ALTER TABLE sheaf.entity_values_ingest SET UNLOGGED"
