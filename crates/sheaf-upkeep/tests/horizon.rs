//! The ledger forgets what is past its horizon, whole, and nothing else.

use std::time::Duration;

use anyhow::Result;
use sheaf_model::{Name, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::TestDatabase;
use sheaf_upkeep::forget;

const DAY: Duration = Duration::from_secs(86_400);
/// More than one transaction forgets.
const OLD: i64 = 6_000;

#[tokio::test]
async fn old_requests_go_with_their_parts_and_young_or_unfinished_ones_stay() -> Result<()> {
    let database = TestDatabase::create().await?;
    let pool = |role: &str| Pool::new(&database.config(role), 2, &Tls::none());
    let (app, upkeep) = (pool("sheaf_app"), pool("sheaf_upkeep"));
    let now = Timestamp::now();
    create_tenant(&app, &Name::parse("acme")?, &TenantPolicy::default(), now).await?;
    let client = database.superuser().await?;
    client
        .batch_execute(&format!(
            "CREATE FUNCTION pg_temp.request(key text, age interval, buckets integer[], written integer[]) RETURNS void
                 LANGUAGE sql AS $$
                 INSERT INTO sheaf.ingest_requests (tenant_id, request_key, batch_id, request_hash, outcome, ack, events,
                     refused, received_at, durable_at, buckets)
                 VALUES (1, key, gen_random_uuid(), CASE WHEN key LIKE '%without a key' THEN ''::bytea ELSE 'hash' END, 'stored', 'durable', 1, 0, now() - age, now() - age, buckets);
                 INSERT INTO sheaf.ingest_parts (tenant_id, request_key, bucket, buckets, value_count, accepted, duplicates,
                     merged, corrected, refused)
                 SELECT 1, key, b, ARRAY[b], 1, 1, 0, 0, 0, 0 FROM unnest(written) b
             $$;
             SELECT pg_temp.request('old' || n, '8 days', '{{1,2}}', '{{1,2}}') FROM generate_series(1, {OLD}) n;
             SELECT pg_temp.request('of a version before', '8 days', NULL, '{{3}}');
             SELECT pg_temp.request('nothing stored', '8 days', '{{}}', '{{}}');
             SELECT pg_temp.request('old and unfinished', '8 days', '{{1,2}}', '{{1}}');
             SELECT pg_temp.request('very old and unfinished', '15 days', '{{1,2}}', '{{1}}');
             SELECT pg_temp.request('old, unfinished and without a key', '8 days', '{{1,2}}', '{{1}}');
             SELECT pg_temp.request('young', '6 days', '{{1,2}}', '{{1,2}}');
             SELECT pg_temp.request('young and unfinished', '6 days', '{{1,2}}', '{{2}}');
             INSERT INTO sheaf.ingest_parts (tenant_id, request_key, bucket, buckets, value_count, accepted, duplicates, merged,
                 corrected, refused, written_at)
             SELECT 1, key, 4, '{{4}}', 1, 1, 0, 0, 0, 0, now() - age::interval
             FROM (VALUES ('not opened', '8 days'), ('not opened yet', '6 days')) p (key, age);
             INSERT INTO sheaf.staged_batches (tenant_id, batch_id, request_key, request_hash, epoch, status, events, refused,
                 staged_events, value_count, buckets, received_at, staged_at)
             SELECT 1, gen_random_uuid(), status || age, '', 1, status, 1, 0, 1, 1, '{{1}}', now() - age, now() - age
             FROM unnest(ARRAY['lost', 'staged']) status, unnest(ARRAY['6 days', '8 days']::interval[]) age"
        ))
        .await?;
    assert_eq!(forget(&upkeep, 7 * DAY, now).await?, OLD + 5);
    let sql = "SELECT string_agg(request_key, ', ' ORDER BY request_key) FROM (SELECT request_key FROM sheaf.ingest_requests
        UNION ALL SELECT request_key FROM sheaf.staged_batches) k";
    let kept: String = client.query_one(sql, &[]).await?.get(0);
    let expected =
        "lost6 days, old and unfinished, staged6 days, staged8 days, young, young and unfinished";
    assert_eq!(kept, expected);
    let sql = "SELECT string_agg(request_key || ' ' || bucket, ', ' ORDER BY 1) FROM (SELECT request_key, bucket
        FROM sheaf.ingest_parts ORDER BY 1, 2) p";
    let kept: String = client.query_one(sql, &[]).await?.get(0);
    let expected =
        "not opened yet 4, old and unfinished 1, young 1, young 2, young and unfinished 2";
    assert_eq!(kept, expected);
    assert_eq!(
        forget(&upkeep, 7 * DAY, now).await?,
        0,
        "twice changes nothing"
    );
    Ok(())
}
