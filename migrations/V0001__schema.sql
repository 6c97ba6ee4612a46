-- The schema: tenants and their keys, the catalogue, entities, events, documents, the ledger of requests, rejections.
-- Locks: only objects that this file creates. Runs beside: nothing before it.
-- Runs as sheaf_owner, which owns everything here and logs in nowhere.

CREATE TABLE sheaf.settings (
    only_row boolean PRIMARY KEY DEFAULT true,
    bucket_count integer NOT NULL,
    signing_key bytea NOT NULL,
    CONSTRAINT settings_only_row CHECK (only_row),
    CONSTRAINT settings_bucket_count CHECK (bucket_count BETWEEN 1 AND 1024),
    CONSTRAINT settings_signing_key CHECK (length(signing_key) = 32)
);
COMMENT ON TABLE sheaf.settings IS 'What every server on this database must agree on: one row, written once.';
COMMENT ON COLUMN sheaf.settings.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN sheaf.settings.bucket_count IS 'Into how many buckets entities are hashed. Never changed: it decides which lock guards an entity.';
COMMENT ON COLUMN sheaf.settings.signing_key IS 'The secret that authenticates consistency tokens and cursors, 32 bytes.';
-- Two random uuids hold 244 random bits; the hash spreads them over 32 bytes. pgcrypto is not assumed.
INSERT INTO sheaf.settings (bucket_count, signing_key)
VALUES (64, sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

CREATE TABLE sheaf.tenants (
    tenant_id bigint GENERATED ALWAYS AS IDENTITY,
    name text COLLATE "C" NOT NULL,
    unknown_attributes text NOT NULL DEFAULT 'create',
    observed_at_min timestamptz NOT NULL DEFAULT '1990-01-01T00:00:00Z',
    observed_at_ahead_max_micros bigint NOT NULL DEFAULT 86400000000,
    retention_micros bigint,
    line_protocol jsonb NOT NULL DEFAULT '{}',
    catalogue_version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT tenants_name_key UNIQUE (name),
    CONSTRAINT tenants_name CHECK (octet_length(name) BETWEEN 1 AND 255),
    CONSTRAINT tenants_unknown_attributes CHECK (unknown_attributes IN ('create', 'refuse')),
    CONSTRAINT tenants_observed_at_ahead_max CHECK (observed_at_ahead_max_micros > 0),
    CONSTRAINT tenants_retention CHECK (retention_micros > 0),
    CONSTRAINT tenants_line_protocol CHECK (jsonb_typeof(line_protocol) = 'object')
);
COMMENT ON TABLE sheaf.tenants IS 'The units of isolation. Every row of every other tenant table belongs to one.';
COMMENT ON COLUMN sheaf.tenants.tenant_id IS 'The tenant''s number, never used again after it.';
COMMENT ON COLUMN sheaf.tenants.name IS 'The name in the interface. Unique in the database: only administrators create tenants.';
COMMENT ON COLUMN sheaf.tenants.unknown_attributes IS 'Whether an attribute that the catalogue lacks is created or refused.';
COMMENT ON COLUMN sheaf.tenants.observed_at_min IS 'Facts observed before this are refused.';
COMMENT ON COLUMN sheaf.tenants.observed_at_ahead_max_micros IS 'Facts observed further than this ahead of the server''s clock are refused, in microseconds.';
COMMENT ON COLUMN sheaf.tenants.retention_micros IS 'How long history is kept, in microseconds; null is for ever.';
COMMENT ON COLUMN sheaf.tenants.line_protocol IS 'By measurement: {"cpu":{"id_tags":["host","cpu"]}}, the tags that make the entity''s id.';
COMMENT ON COLUMN sheaf.tenants.catalogue_version IS 'One more with every change of the attribute catalogue or of these policies; servers compare it with what they remember.';
COMMENT ON COLUMN sheaf.tenants.created_at IS 'When the tenant was created.';

CREATE TABLE sheaf.admin_keys (
    key_id text COLLATE "C" NOT NULL,
    key_hash bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT admin_keys_pkey PRIMARY KEY (key_id),
    CONSTRAINT admin_keys_key_hash CHECK (length(key_hash) = 32)
);
COMMENT ON TABLE sheaf.admin_keys IS 'Keys of administrators, who create tenants and act for any of them. No tenant''s data.';
COMMENT ON COLUMN sheaf.admin_keys.key_id IS 'The public half, by which a key is found and revoked.';
COMMENT ON COLUMN sheaf.admin_keys.key_hash IS 'SHA-256 of the whole key. The key itself is shown once and kept nowhere.';
COMMENT ON COLUMN sheaf.admin_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN sheaf.admin_keys.expires_at IS 'From when on the key is refused; null is never.';
COMMENT ON COLUMN sheaf.admin_keys.revoked_at IS 'When the key was revoked; null while it is good.';

CREATE TABLE sheaf.api_keys (
    tenant_id bigint NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    key_hash bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (tenant_id, key_id),
    CONSTRAINT api_keys_tenant FOREIGN KEY (tenant_id) REFERENCES sheaf.tenants (tenant_id),
    CONSTRAINT api_keys_key_hash CHECK (length(key_hash) = 32),
    CONSTRAINT api_keys_scopes CHECK (scopes <@ ARRAY['read', 'write'] AND cardinality(scopes) > 0)
);
-- Looked up before the tenant is known; the ids are random, so that an index that is not unique serves.
CREATE INDEX api_keys_by_key_id ON sheaf.api_keys (key_id);
COMMENT ON TABLE sheaf.api_keys IS 'Keys of tenants. A key decides the tenant of every request made with it.';
COMMENT ON COLUMN sheaf.api_keys.tenant_id IS 'The tenant whose data the key opens.';
COMMENT ON COLUMN sheaf.api_keys.key_id IS 'The public half, by which a key is found and revoked.';
COMMENT ON COLUMN sheaf.api_keys.key_hash IS 'SHA-256 of the whole key. The key itself is shown once and kept nowhere.';
COMMENT ON COLUMN sheaf.api_keys.scopes IS 'What the key may do: read, write.';
COMMENT ON COLUMN sheaf.api_keys.created_at IS 'When the key was created.';
COMMENT ON COLUMN sheaf.api_keys.expires_at IS 'From when on the key is refused; null is never.';
COMMENT ON COLUMN sheaf.api_keys.revoked_at IS 'When the key was revoked; null while it is good.';

-- One sequence for all tenants: an attribute's number is unique in the database, so that a key of a document belongs
-- to one tenant and one type, and the index on documents needs no tenant column.
CREATE SEQUENCE sheaf.attribute_number AS bigint;
CREATE TABLE sheaf.attributes (
    tenant_id bigint NOT NULL,
    attribute_id bigint NOT NULL DEFAULT nextval('sheaf.attribute_number'),
    name text COLLATE "C" NOT NULL,
    type text NOT NULL,
    origin text NOT NULL,
    unit text,
    description text,
    schema jsonb,
    pii boolean NOT NULL DEFAULT false,
    pin text,
    temperature text NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT attributes_pkey PRIMARY KEY (tenant_id, attribute_id),
    CONSTRAINT attributes_name_key UNIQUE (tenant_id, name),
    CONSTRAINT attributes_tenant FOREIGN KEY (tenant_id) REFERENCES sheaf.tenants (tenant_id),
    CONSTRAINT attributes_name CHECK (octet_length(name) BETWEEN 1 AND 255),
    CONSTRAINT attributes_type CHECK (type IN ('int', 'float', 'decimal', 'text', 'bool', 'time', 'json')),
    CONSTRAINT attributes_origin CHECK (origin IN ('declared', 'inferred')),
    CONSTRAINT attributes_pin CHECK (pin IN ('hot', 'cold')),
    CONSTRAINT attributes_temperature CHECK (temperature IN ('cold', 'warming', 'hot', 'cooling'))
);
ALTER SEQUENCE sheaf.attribute_number OWNED BY sheaf.attributes.attribute_id;
COMMENT ON SEQUENCE sheaf.attribute_number IS 'Numbers attributes, over all tenants.';
COMMENT ON TABLE sheaf.attributes IS 'The catalogue: what each tenant''s attributes are called and what they hold.';
COMMENT ON COLUMN sheaf.attributes.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.attributes.attribute_id IS 'The attribute''s number, unique in the whole database; the key in documents and events.';
COMMENT ON COLUMN sheaf.attributes.name IS 'The name in the interface, in Unicode normal form C.';
COMMENT ON COLUMN sheaf.attributes.type IS 'What its values are. Decided once.';
COMMENT ON COLUMN sheaf.attributes.origin IS 'Declared by a user, or inferred from the first value.';
COMMENT ON COLUMN sheaf.attributes.unit IS 'The unit of its values, for people.';
COMMENT ON COLUMN sheaf.attributes.description IS 'What it means, for people.';
COMMENT ON COLUMN sheaf.attributes.schema IS 'A JSON Schema that its values must satisfy.';
COMMENT ON COLUMN sheaf.attributes.pii IS 'Whether its values are personal data.';
COMMENT ON COLUMN sheaf.attributes.pin IS 'A temperature that the user decided; null leaves it to the server.';
COMMENT ON COLUMN sheaf.attributes.temperature IS 'Which part of the document holds its values; warming and cooling: values may be in both while they move.';
COMMENT ON COLUMN sheaf.attributes.created_at IS 'When the attribute was first declared or seen.';

CREATE SEQUENCE sheaf.entity_number AS bigint;
CREATE TABLE sheaf.entities (
    tenant_id bigint NOT NULL,
    entity_id bigint NOT NULL DEFAULT nextval('sheaf.entity_number'),
    entity_type text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT entities_pkey PRIMARY KEY (tenant_id, entity_id),
    CONSTRAINT entities_external_id_key UNIQUE (tenant_id, entity_type, external_id),
    CONSTRAINT entities_tenant FOREIGN KEY (tenant_id) REFERENCES sheaf.tenants (tenant_id),
    CONSTRAINT entities_entity_type CHECK (octet_length(entity_type) BETWEEN 1 AND 255),
    CONSTRAINT entities_external_id CHECK (octet_length(external_id) BETWEEN 1 AND 512)
);
ALTER SEQUENCE sheaf.entity_number OWNED BY sheaf.entities.entity_id;
COMMENT ON SEQUENCE sheaf.entity_number IS 'Numbers entities, over all tenants.';
COMMENT ON TABLE sheaf.entities IS 'The names of entities. A name keeps its number for ever, also after a delete.';
COMMENT ON COLUMN sheaf.entities.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.entities.entity_id IS 'The entity''s number.';
COMMENT ON COLUMN sheaf.entities.entity_type IS 'The kind of thing, as the interface names it.';
COMMENT ON COLUMN sheaf.entities.external_id IS 'The id within its type, as the interface names it.';
COMMENT ON COLUMN sheaf.entities.created_at IS 'When the name was first seen.';

CREATE TABLE sheaf.entity_events (
    tenant_id bigint NOT NULL,
    entity_id bigint NOT NULL,
    observed_at timestamptz NOT NULL,
    seq smallint NOT NULL,
    op "char" NOT NULL,
    batch_id uuid NOT NULL,
    ingested_at timestamptz NOT NULL,
    attrs jsonb NOT NULL,
    CONSTRAINT entity_events_pkey PRIMARY KEY (tenant_id, entity_id, observed_at, seq),
    CONSTRAINT entity_events_seq CHECK (seq >= 0),
    CONSTRAINT entity_events_op CHECK (op IN ('p', 'r', 'd', 'c'))
) PARTITION BY RANGE (observed_at);
-- In normal operation both times grow with the heap, so that a few bytes a range find them.
CREATE INDEX entity_events_observed_at ON sheaf.entity_events USING brin (observed_at);
CREATE INDEX entity_events_ingested_at ON sheaf.entity_events USING brin (ingested_at);
COMMENT ON TABLE sheaf.entity_events IS 'The history: what each entity reported for each instant. Rows are only ever added.';
COMMENT ON COLUMN sheaf.entity_events.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.entity_events.entity_id IS 'The entity.';
COMMENT ON COLUMN sheaf.entity_events.observed_at IS 'The instant that the event is about.';
COMMENT ON COLUMN sheaf.entity_events.seq IS 'The row''s place among those of its instant, from 0; a later one adds or corrects.';
COMMENT ON COLUMN sheaf.entity_events.op IS 'p patch, r replace, d delete, c correct: a patch that changed a stored value.';
COMMENT ON COLUMN sheaf.entity_events.batch_id IS 'The request that brought it.';
COMMENT ON COLUMN sheaf.entity_events.ingested_at IS 'When the server received it.';
COMMENT ON COLUMN sheaf.entity_events.attrs IS 'Attribute number to value; null is removed.';

CREATE TABLE sheaf.entity_jsonb (
    tenant_id bigint NOT NULL,
    entity_id bigint NOT NULL,
    version bigint NOT NULL,
    newest timestamptz NOT NULL,
    floor_at timestamptz,
    deleted boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    hot_attrs jsonb NOT NULL,
    cold_attrs jsonb NOT NULL,
    present bigint[] NOT NULL,
    times jsonb NOT NULL,
    CONSTRAINT entity_jsonb_pkey PRIMARY KEY (tenant_id, entity_id),
    CONSTRAINT entity_jsonb_entity FOREIGN KEY (tenant_id, entity_id) REFERENCES sheaf.entities (tenant_id, entity_id),
    CONSTRAINT entity_jsonb_version CHECK (version > 0)
) WITH (fillfactor = 70);
CREATE INDEX entity_jsonb_hot_attrs ON sheaf.entity_jsonb USING gin (hot_attrs jsonb_path_ops);
CREATE INDEX entity_jsonb_present ON sheaf.entity_jsonb USING gin (present);
COMMENT ON TABLE sheaf.entity_jsonb IS 'The current documents: the fold of each entity''s events.';
COMMENT ON COLUMN sheaf.entity_jsonb.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.entity_jsonb.entity_id IS 'The entity.';
COMMENT ON COLUMN sheaf.entity_jsonb.version IS 'One more at each write of the document.';
COMMENT ON COLUMN sheaf.entity_jsonb.newest IS 'The time of the newest event. Not indexed: it changes with every write, and an index would end HOT updates.';
COMMENT ON COLUMN sheaf.entity_jsonb.floor_at IS 'The time of the last replace or delete; nothing older enters.';
COMMENT ON COLUMN sheaf.entity_jsonb.deleted IS 'Whether the newest event is a delete.';
COMMENT ON COLUMN sheaf.entity_jsonb.updated_at IS 'When a value last changed.';
COMMENT ON COLUMN sheaf.entity_jsonb.hot_attrs IS 'Attribute number to value, of the hot attributes; indexed.';
COMMENT ON COLUMN sheaf.entity_jsonb.cold_attrs IS 'Attribute number to value, of the others; not indexed, so that their updates stay HOT.';
COMMENT ON COLUMN sheaf.entity_jsonb.present IS 'The numbers of the attributes that have a value, ascending; indexed.';
COMMENT ON COLUMN sheaf.entity_jsonb.times IS 'Attribute number to microseconds since 1970: of each value older than the newest event, and of each removal not older than floor_at.';

CREATE TABLE sheaf.ingest_requests (
    tenant_id bigint NOT NULL,
    request_key text COLLATE "C" NOT NULL,
    batch_id uuid NOT NULL,
    request_hash bytea NOT NULL,
    outcome text NOT NULL,
    ack text NOT NULL,
    events integer NOT NULL,
    refused integer NOT NULL,
    received_at timestamptz NOT NULL,
    durable_at timestamptz NOT NULL,
    CONSTRAINT ingest_requests_pkey PRIMARY KEY (tenant_id, request_key),
    CONSTRAINT ingest_requests_batch_id_key UNIQUE (tenant_id, batch_id),
    CONSTRAINT ingest_requests_tenant FOREIGN KEY (tenant_id) REFERENCES sheaf.tenants (tenant_id),
    CONSTRAINT ingest_requests_outcome CHECK (outcome IN ('stored', 'all_refused', 'batch_refused')),
    CONSTRAINT ingest_requests_ack CHECK (ack IN ('durable', 'replicated'))
);
COMMENT ON TABLE sheaf.ingest_requests IS 'The ledger: each write request once. A retry finds its first answer here.';
COMMENT ON COLUMN sheaf.ingest_requests.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.ingest_requests.request_key IS 'The client''s Idempotency-Key as k:key, or else the batch id.';
COMMENT ON COLUMN sheaf.ingest_requests.batch_id IS 'The request''s number.';
COMMENT ON COLUMN sheaf.ingest_requests.request_hash IS 'SHA-256 of what was asked: the same key with another request is refused. Empty for a request without a key.';
COMMENT ON COLUMN sheaf.ingest_requests.outcome IS 'Stored at least in part; or nothing stored because every event, or by on_error=reject any, was bad.';
COMMENT ON COLUMN sheaf.ingest_requests.ack IS 'What the answer promised.';
COMMENT ON COLUMN sheaf.ingest_requests.events IS 'How many events the request held.';
COMMENT ON COLUMN sheaf.ingest_requests.refused IS 'How many of them stored nothing because they were bad.';
COMMENT ON COLUMN sheaf.ingest_requests.received_at IS 'When the request arrived.';
COMMENT ON COLUMN sheaf.ingest_requests.durable_at IS 'When the transaction that stored it was about to commit.';

CREATE TABLE sheaf.ingest_parts (
    tenant_id bigint NOT NULL,
    request_key text COLLATE "C" NOT NULL,
    bucket integer NOT NULL,
    value_count bigint NOT NULL,
    accepted integer NOT NULL,
    duplicates integer NOT NULL,
    merged integer NOT NULL,
    corrected integer NOT NULL,
    refused integer NOT NULL,
    CONSTRAINT ingest_parts_pkey PRIMARY KEY (tenant_id, request_key, bucket),
    CONSTRAINT ingest_parts_request FOREIGN KEY (tenant_id, request_key)
        REFERENCES sheaf.ingest_requests (tenant_id, request_key)
);
COMMENT ON TABLE sheaf.ingest_parts IS 'What each bucket''s part of a request came to. The answer is composed from these.';
COMMENT ON COLUMN sheaf.ingest_parts.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.ingest_parts.request_key IS 'The request.';
COMMENT ON COLUMN sheaf.ingest_parts.bucket IS 'The bucket of the entities in this part.';
COMMENT ON COLUMN sheaf.ingest_parts.value_count IS 'Values in the stored events of the part, duplicates included.';
COMMENT ON COLUMN sheaf.ingest_parts.accepted IS 'Events that were new.';
COMMENT ON COLUMN sheaf.ingest_parts.duplicates IS 'Events that brought nothing new.';
COMMENT ON COLUMN sheaf.ingest_parts.merged IS 'Events that added attributes to a stored instant.';
COMMENT ON COLUMN sheaf.ingest_parts.corrected IS 'Events that changed a stored value of their instant.';
COMMENT ON COLUMN sheaf.ingest_parts.refused IS 'Events that could not be numbered at their instant.';

CREATE TABLE sheaf.rejections (
    tenant_id bigint NOT NULL,
    rejection_id uuid NOT NULL,
    batch_id uuid NOT NULL,
    event_index integer NOT NULL,
    ordinal integer NOT NULL,
    entity_type text COLLATE "C",
    field text COLLATE "C",
    code text NOT NULL,
    reason text NOT NULL,
    raw bytea,
    received_at timestamptz NOT NULL,
    status text NOT NULL DEFAULT 'open',
    CONSTRAINT rejections_pkey PRIMARY KEY (tenant_id, rejection_id),
    CONSTRAINT rejections_batch_key UNIQUE (tenant_id, batch_id, event_index, ordinal),
    CONSTRAINT rejections_tenant FOREIGN KEY (tenant_id) REFERENCES sheaf.tenants (tenant_id),
    CONSTRAINT rejections_raw CHECK ((raw IS NULL) = (ordinal > 0)),
    CONSTRAINT rejections_status CHECK (status IN ('open', 'replayed', 'discarded'))
);
COMMENT ON TABLE sheaf.rejections IS 'What was refused, whole and with its reason, until the cause is mended.';
COMMENT ON COLUMN sheaf.rejections.tenant_id IS 'The tenant.';
COMMENT ON COLUMN sheaf.rejections.rejection_id IS 'The refusal''s number; later ones sort later.';
COMMENT ON COLUMN sheaf.rejections.batch_id IS 'The request that brought it.';
COMMENT ON COLUMN sheaf.rejections.event_index IS 'The place of the event (or line) in its request, from 0.';
COMMENT ON COLUMN sheaf.rejections.ordinal IS 'The place of the refusal among those of its event, from 0.';
COMMENT ON COLUMN sheaf.rejections.entity_type IS 'The type of the entity, where it could be read.';
COMMENT ON COLUMN sheaf.rejections.field IS 'The attribute or member that was refused; null where it was the whole event.';
COMMENT ON COLUMN sheaf.rejections.code IS 'The stable code of the reason.';
COMMENT ON COLUMN sheaf.rejections.reason IS 'The reason, for people.';
COMMENT ON COLUMN sheaf.rejections.raw IS 'The event as it was sent; null where the first refusal of the event holds it.';
COMMENT ON COLUMN sheaf.rejections.received_at IS 'When the request arrived.';
COMMENT ON COLUMN sheaf.rejections.status IS 'Open until it is replayed or discarded.';

-- Row-level security, from the first day. No context is no rows: after a transaction the setting is '' and not null.
CREATE FUNCTION sheaf.current_tenant() RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('sheaf.tenant_id', true), '')::bigint $$;
COMMENT ON FUNCTION sheaf.current_tenant() IS 'The tenant of this transaction, or null.';

DO $policies$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['tenants', 'api_keys', 'attributes', 'entities', 'entity_events',
        'entity_jsonb', 'ingest_requests', 'ingest_parts', 'rejections']
    LOOP
        EXECUTE format('ALTER TABLE sheaf.%I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE sheaf.%I FORCE ROW LEVEL SECURITY', tenant_table);
        -- (SELECT ..) is evaluated once a statement and not once a row.
        EXECUTE format('CREATE POLICY tenant_only ON sheaf.%I TO sheaf_app
            USING (tenant_id = (SELECT sheaf.current_tenant()))
            WITH CHECK (tenant_id = (SELECT sheaf.current_tenant()))', tenant_table);
        EXECUTE format('CREATE POLICY owner_all ON sheaf.%I TO sheaf_owner USING (true) WITH CHECK (true)', tenant_table);
    END LOOP;
    -- Compiled filters name the tenant in every relation themselves; under a policy no document index would serve.
    FOREACH tenant_table IN ARRAY ARRAY['entities', 'entity_jsonb']
    LOOP
        EXECUTE format('CREATE POLICY search_all ON sheaf.%I FOR SELECT TO sheaf_search USING (true)', tenant_table);
    END LOOP;
    -- One group of writes mixes tenants; each row's tenant comes from the key of its request alone.
    FOREACH tenant_table IN ARRAY ARRAY['tenants', 'attributes', 'entity_events']
    LOOP
        EXECUTE format('CREATE POLICY writer_reads ON sheaf.%I FOR SELECT TO sheaf_writer USING (true)', tenant_table);
    END LOOP;
    FOREACH tenant_table IN ARRAY ARRAY['entity_jsonb', 'ingest_requests', 'ingest_parts', 'rejections']
    LOOP
        EXECUTE format('CREATE POLICY writer_all ON sheaf.%I TO sheaf_writer USING (true) WITH CHECK (true)', tenant_table);
    END LOOP;
END
$policies$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sheaf FROM PUBLIC;
GRANT USAGE ON SCHEMA sheaf TO sheaf_app, sheaf_search, sheaf_writer, sheaf_upkeep;
GRANT EXECUTE ON FUNCTION sheaf.current_tenant() TO sheaf_app, sheaf_search, sheaf_writer;
GRANT SELECT ON sheaf.settings TO sheaf_app, sheaf_writer;

GRANT SELECT ON sheaf.tenants, sheaf.api_keys, sheaf.attributes, sheaf.entities, sheaf.entity_events,
    sheaf.entity_jsonb, sheaf.ingest_requests, sheaf.ingest_parts, sheaf.rejections TO sheaf_app;
GRANT INSERT ON sheaf.api_keys, sheaf.attributes, sheaf.entities TO sheaf_app;
GRANT UPDATE (revoked_at) ON sheaf.api_keys TO sheaf_app;
GRANT UPDATE (unit, description, schema, pii, pin, temperature) ON sheaf.attributes TO sheaf_app;
GRANT UPDATE (catalogue_version) ON sheaf.tenants TO sheaf_app;
GRANT UPDATE (status) ON sheaf.rejections TO sheaf_app;
GRANT USAGE ON SEQUENCE sheaf.attribute_number, sheaf.entity_number TO sheaf_app;

GRANT SELECT ON sheaf.entities, sheaf.entity_jsonb TO sheaf_search;

GRANT SELECT ON sheaf.tenants, sheaf.attributes, sheaf.entity_events TO sheaf_writer;
GRANT SELECT, INSERT, UPDATE ON sheaf.entity_jsonb TO sheaf_writer;
GRANT SELECT, INSERT ON sheaf.ingest_requests, sheaf.ingest_parts, sheaf.rejections TO sheaf_writer;
