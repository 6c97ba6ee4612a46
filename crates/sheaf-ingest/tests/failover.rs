//! A failover that loses acknowledged commits: what servers remember of the lost ones is not written to what the new
//! primary has given the same numbers.

mod world;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use sheaf_ingest::{
    Ack, BodyFormat, EditRequest, IngestAnswer, IngestRequest, OnError, WriteError, Writer,
};
use sheaf_model::{Op, Timestamp};
use sheaf_pg::Disposition;
use sheaf_pg::cluster::StopMode;
use sheaf_store::TenantScope;
use sheaf_testkit::{Injected, TestCluster, TestStandby, wait_until};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, Config};

use world::{World, assert_consistent, received, writer_over};

const WITHIN: Duration = Duration::from_secs(60);
/// More than the 32 numbers that a sequence writes ahead, so that the new primary gives some of the lost ones out again.
const NAMES: Range<i64> = 0..100;

/// What is expected of each entity: values by name of attribute.
type Documents = BTreeMap<String, BTreeMap<String, f64>>;

/// One event of each of some entities, each with an attribute of its own name.
struct Writing<'a> {
    entities: &'a str,
    attributes: &'a str,
    minute: u32,
    value: i64,
}

impl Writing<'_> {
    fn body(&self) -> String {
        let line = |n: i64| {
            let Writing {
                entities,
                attributes,
                minute,
                value,
            } = self;
            format!(
                r#"{{"type":"device","id":"{entities}{n}","observed_at":"2024-01-01T00:{minute:02}:00Z","attributes":{{"{attributes}{n}":{value}}}}}"#
            )
        };
        NAMES.map(line).collect::<Vec<_>>().join("\n")
    }

    async fn once(
        &self,
        writer: &Writer,
        scope: &TenantScope,
        key: Option<&str>,
    ) -> Result<IngestAnswer, WriteError> {
        let request = IngestRequest {
            body: Bytes::from(self.body()),
            format: BodyFormat::Ndjson,
            ack: Ack::Durable,
            on_error: OnError::Partial,
            idempotency_key: key.map(str::to_owned),
            received_at: Timestamp::now(),
        };
        writer.ingest(scope, request).await
    }

    /// As a client that comes back as long as it is told to.
    async fn until_done(
        &self,
        writer: &Writer,
        scope: &TenantScope,
        key: Option<&str>,
    ) -> Result<()> {
        let mut ended = Err(WriteError::Overloaded);
        wait_until("the write is done", WITHIN, async || {
            ended = self.once(writer, scope, key).await;
            !is_temporary(&ended)
        })
        .await;
        let counts = ended?.counts;
        let stored = counts.accepted + counts.duplicates;
        ensure!(stored == NAMES.end, "{}: {counts:?}", self.entities);
        Ok(())
    }

    fn expect(&self, documents: &mut Documents) {
        for n in NAMES {
            let document = documents
                .entry(format!("{}{n}", self.entities))
                .or_default();
            document.insert(format!("{}{n}", self.attributes), self.value as f64);
        }
    }
}

/// Whether a client is told to come back.
fn is_temporary<T>(ended: &Result<T, WriteError>) -> bool {
    match ended {
        Err(WriteError::Postgres(error)) => error.disposition() == Disposition::Unavailable,
        Err(error) => matches!(error, WriteError::Overloaded | WriteError::OtherLineage),
        Ok(_) => false,
    }
}

fn edit(value: i64) -> EditRequest {
    EditRequest {
        entity_type: "device".into(),
        external_id: "edited".into(),
        op: Op::Patch,
        body: Bytes::from(format!(r#"{{"attributes":{{"by_hand":{value}}}}}"#)),
        observed_at: None,
        precondition: None,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    }
}

async fn documents(client: &Client) -> Result<Documents> {
    let sql = "SELECT e.external_id, v.value::float8, a.name FROM sheaf.entities e
        JOIN sheaf.entity_jsonb d ON d.tenant_id = e.tenant_id AND d.entity_id = e.entity_id
        CROSS JOIN LATERAL jsonb_each_text(d.hot_attrs || d.cold_attrs) v
        JOIN sheaf.attributes a ON a.tenant_id = e.tenant_id AND a.attribute_id = v.key::bigint";
    let mut documents = Documents::new();
    for row in client.query(sql, &[]).await? {
        let document = documents.entry(row.get(0)).or_default();
        document.insert(row.get(2), row.get(1));
    }
    Ok(documents)
}

/// The numbers of entities and attributes with such names.
async fn numbers(client: &Client, like: &str) -> Result<[HashSet<i64>; 2]> {
    let mut numbers = [HashSet::new(), HashSet::new()];
    let statements = [
        "SELECT entity_id FROM sheaf.entities WHERE external_id LIKE $1",
        "SELECT attribute_id FROM sheaf.attributes WHERE name LIKE $1",
    ];
    for (found, sql) in numbers.iter_mut().zip(statements) {
        let rows = client.query(sql, &[&like]).await?;
        found.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    Ok(numbers)
}

/// Wherever the database can be written, as in a list of hosts.
fn either(primary: &Config, standby: &TestStandby) -> Config {
    let mut config = primary.clone();
    config
        .host_path(standby.cluster().socket_dir())
        .port(standby.cluster().port())
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_were_given_out_again_mix_no_two_entities() -> Result<()> {
    let failover = Injected::new("failover that loses commits");
    let primary = TestCluster::private().await?;
    let world = World::create_in(&primary, true).await?;
    let standby = TestStandby::follow(&primary, "s1").await?;
    let scope = &world.scope;
    let server = writer_over(|role| either(&world.database.config(role), &standby)).await?;
    let mut expected = Documents::new();

    let kept = Writing {
        entities: "kept",
        attributes: "kept",
        minute: 1,
        value: 1,
    };
    let answer = kept.once(&server, scope, None).await?;
    kept.expect(&mut expected);
    let position = answer.position.expect("it is stored");
    wait_until("the standby has what is to be kept", WITHIN, async || {
        received(&standby)
            .await
            .is_ok_and(|lsn| lsn >= position.lsn)
    })
    .await;
    let new = standby.superuser("postgres").await?;
    new.batch_execute("ALTER SYSTEM SET primary_conninfo = ''")
        .await?;
    new.batch_execute("SELECT pg_reload_conf()").await?;
    wait_until("the standby hears nothing more", WITHIN, async || {
        let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
        let row = new.query_one(receivers, &[]).await;
        row.is_ok_and(|row| row.get::<_, i64>(0) == 0)
    })
    .await;

    // Acknowledged and lost: new names, new attributes, and newer values of what is kept.
    let lost = Writing {
        entities: "lost",
        attributes: "lost",
        ..kept
    };
    lost.once(&server, scope, None).await?;
    let lost_values = Writing {
        minute: 2,
        value: 2,
        ..kept
    };
    lost_values.once(&server, scope, None).await?;

    // On their way when it happens, with numbers of the old primary.
    let old = world.database.superuser().await?;
    let all_buckets = "SELECT pg_advisory_lock(24239, bucket)
        FROM generate_series(0, (SELECT bucket_count - 1 FROM sheaf.settings)) AS b (bucket)";
    old.query(all_buckets, &[]).await?;
    let [keyed, keyless] = ["keyed", "keyless"].map(|names| Writing {
        entities: names,
        attributes: names,
        ..kept
    });
    let keyed_writes = async { keyed.until_done(&server, scope, Some("key")).await };
    let keyless_writes = async { keyless.until_done(&server, scope, None).await };
    let edits = async {
        let mut ended = Err(WriteError::Overloaded);
        wait_until("the edit is done", WITHIN, async || {
            ended = server.edit(scope, edit(7)).await;
            !is_temporary(&ended)
        })
        .await;
        anyhow::Ok(ended?)
    };
    let others = Writing {
        entities: "other",
        attributes: "other",
        ..kept
    };
    let happens = async {
        wait_until("every lane waits for its buckets", WITHIN, async || {
            let sql = "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted) >= 3
                AND (SELECT count(*) FROM sheaf.entities WHERE external_id ~ '^(keyed|keyless|edited)') = 201";
            let row = old.query_one(sql, &[]).await;
            row.is_ok_and(|row| row.get::<_, bool>(0))
        })
        .await;
        let lost_numbers = numbers(&old, "%lost%").await?;
        let in_flight = numbers(&old, "key%").await?;
        standby.promote().await?;
        let client = standby.superuser(world.database.name()).await?;
        let lost_names = "SELECT count(*) FROM sheaf.entities WHERE external_id LIKE '%lost%'";
        let row = client.query_one(lost_names, &[]).await?;
        assert_eq!(row.get::<_, i64>(0), 0, "none of it is there");
        // A server that knows nothing of the lost ones is there first.
        let second = writer_over(|role| {
            standby
                .cluster()
                .connect_config(world.database.name(), role)
        })
        .await?;
        others.once(&second, scope, None).await?;
        let given_again = numbers(&client, "other%").await?;
        for (given, lost) in given_again
            .iter()
            .zip(lost_numbers.iter().zip(&in_flight))
            .map(|(given, (lost, in_flight))| (given, lost.union(in_flight)))
        {
            let again = lost.filter(|number| given.contains(number)).count();
            assert!(again > 0, "no lost number was given out again");
        }
        primary.cluster().stop(StopMode::Immediate).await?;
        failover.count();
        anyhow::Ok(client)
    };
    let (keyed_ended, keyless_ended, edited, client) =
        tokio::join!(keyed_writes, keyless_writes, edits, happens);
    keyed_ended?;
    keyless_ended?;
    assert!(edited?.created, "it was not there");
    let client = client?;
    for written in [&keyed, &keyless, &others] {
        written.expect(&mut expected);
    }
    let by_hand = BTreeMap::from([("by_hand".to_owned(), 7.0)]);
    expected.insert("edited".to_owned(), by_hand);

    // Every mixture of what is kept and what is lost, old and new.
    let kept_after_lost = Writing {
        attributes: "lost",
        minute: 3,
        value: 3,
        ..kept
    };
    let lost_again = Writing {
        minute: 3,
        value: 4,
        ..lost
    };
    let lost_with_kept = Writing {
        attributes: "kept",
        minute: 4,
        value: 5,
        ..lost
    };
    let never_seen = Writing {
        entities: "new",
        attributes: "new",
        minute: 5,
        value: 6,
    };
    for written in [&kept_after_lost, &lost_again, &lost_with_kept, &never_seen] {
        written.until_done(&server, scope, None).await?;
        written.expect(&mut expected);
    }
    failover.require();
    assert_eq!(documents(&client).await?, expected);
    assert_consistent(&client).await
}
