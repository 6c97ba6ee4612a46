-- A request is written in parts, each by the lane that owns its buckets and in a transaction of its own; a retry runs the
-- parts that are missing. So the ledger says which buckets a request needs and which each part has written, and a part
-- may be there before its request's row. Lanes remember documents that they wrote last, and see in bucket_writers whether
-- somebody else has written since.
--
-- Locks: ACCESS EXCLUSIVE on ingest_requests and ingest_parts for the moment that it takes to add columns without a
-- default and to drop a constraint; nothing is rewritten. The indexes are built under a SHARE lock; they have one entry for
-- 128 pages, and take as long as reading the ledger once.
-- A server of the version before runs beside this: it leaves the new columns null, which reads as one part a bucket, all
-- of them in one transaction. It does not write bucket_writers: a document's version, which every update compares, tells.

ALTER TABLE sheaf.ingest_requests ADD COLUMN buckets integer[];
COMMENT ON COLUMN sheaf.ingest_requests.buckets IS 'The buckets of its events, ascending: it is stored when parts have written all of them. Null: its parts came with it.';

-- A server of the version before would take a request whose parts are still to come for one that is stored. It cannot read
-- this outcome, and fails.
ALTER TABLE sheaf.ingest_requests DROP CONSTRAINT ingest_requests_outcome;
ALTER TABLE sheaf.ingest_requests ADD CONSTRAINT ingest_requests_outcome
    CHECK (outcome IN ('stored', 'stored_in_parts', 'all_refused', 'batch_refused')) NOT VALID;
COMMENT ON COLUMN sheaf.ingest_requests.outcome IS 'Stored at least in part; stored in parts: the same, once parts have written its buckets; or nothing stored because every event, or by on_error=reject any, was bad.';

ALTER TABLE sheaf.ingest_parts ADD COLUMN buckets integer[], ADD COLUMN written_at timestamptz;
ALTER TABLE sheaf.ingest_parts DROP CONSTRAINT ingest_parts_request;
COMMENT ON TABLE sheaf.ingest_parts IS 'What each part of a request came to. The answer is composed from these.';
COMMENT ON COLUMN sheaf.ingest_parts.bucket IS 'The lowest bucket of the entities in this part.';
COMMENT ON COLUMN sheaf.ingest_parts.buckets IS 'The buckets of the entities in this part, ascending. Null: the one bucket.';

COMMENT ON COLUMN sheaf.ingest_parts.written_at IS 'When it was written, by the database''s clock; its commit followed. Null: with its request.';

-- What is past the horizon is found by its time, which grows with the heap: requests, and parts whose request was never
-- opened.
CREATE INDEX ingest_requests_received_at ON sheaf.ingest_requests USING brin (received_at);
CREATE INDEX ingest_parts_written_at ON sheaf.ingest_parts USING brin (written_at);

CREATE TABLE sheaf.bucket_writers (
    bucket integer NOT NULL,
    written_by uuid,
    CONSTRAINT bucket_writers_pkey PRIMARY KEY (bucket)
) WITH (fillfactor = 50);
COMMENT ON TABLE sheaf.bucket_writers IS 'Who wrote documents of each bucket last: while it is the same lane, the documents that it remembers are the ones that are there.';
COMMENT ON COLUMN sheaf.bucket_writers.bucket IS 'The bucket, under whose lock the row is read and written.';
COMMENT ON COLUMN sheaf.bucket_writers.written_by IS 'The lane that wrote last; null: nobody that remembers documents.';
INSERT INTO sheaf.bucket_writers (bucket) SELECT generate_series(0, s.bucket_count - 1) FROM sheaf.settings s;

GRANT SELECT, UPDATE (written_by) ON sheaf.bucket_writers TO sheaf_writer;
