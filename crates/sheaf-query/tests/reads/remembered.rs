//! What was read once answers again: which reads it may answer, and whose.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_cache::{Cache, Database, Options};
use sheaf_model::{EntityId, Lsn, Op, Position, Value, WrittenEntity};
use sheaf_query::{
    ConsistencyLevel, DataSource, EntityAnswer, EntityQuery, Read, ReadOptions, Reader,
};

use crate::world::{Tenant, World, options, second};

/// The values as text, in their order.
fn encode(entity: EntityAnswer) -> Bytes {
    format!("{:?}", entity.attributes).into()
}

fn at_level(level: ConsistencyLevel, token: Option<Position>) -> ReadOptions {
    let mut options = options();
    (options.level, options.token) = (level, token);
    options
}

async fn shown(
    reader: &Reader,
    tenant: &Tenant,
    name: (&str, &str),
    options: &ReadOptions,
) -> Result<(DataSource, Option<(i64, Bytes)>, Position)> {
    let read = reader.entity_encoded(&tenant.scope, name, options, encode);
    let Read { value, freshness } = read.await?;
    let is_hit = freshness.source == DataSource::Cache;
    assert_eq!(freshness.cache_hit, is_hit);
    let value = value.map(|entity| (entity.version, entity.body));
    Ok((freshness.source, value, freshness.position))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_is_remembered_for_its_tenant_its_level_and_until_it_is_written() -> Result<()> {
    let world = World::new().await?;
    let mut tenant = world.tenant("acme").await?;
    let mut other = world.tenant("other").await?;
    let (jfk, gone, never) = (
        ("airport", "JFK"),
        ("airport", "gone"),
        ("airport", "never"),
    );
    let text = |text: &str| [("hot_text", Some(Value::Text(text.to_owned())))];
    tenant.write(jfk, second(0), Op::Patch, &text("ours"));
    tenant.write(gone, second(0), Op::Patch, &text("ours"));
    tenant.write(gone, second(1), Op::Delete, &[]);
    other.write(jfk, second(0), Op::Patch, &text("theirs"));
    world.save(&tenant).await?;
    world.save(&other).await?;
    let cache = Cache::local(
        Options {
            bytes_max: 1 << 20,
            age_max: Duration::from_secs(3_600),
            sample_every: u64::MAX,
        },
        &Database {
            system_id: world.settings.system_id,
            signing_key: world.settings.signing_key,
        },
    );
    let reader = world.reader.clone().remembering(cache.clone());
    let mut eventual = at_level(ConsistencyLevel::Eventual, None);
    eventual.max_lag = Some("1h".parse()?);
    let strong = at_level(ConsistencyLevel::Strong, None);
    for name in [jfk, gone, never] {
        let (source, first, _) = shown(&reader, &tenant, name, &eventual).await?;
        assert_eq!(source, DataSource::Primary);
        let (source, again, _) = shown(&reader, &tenant, name, &eventual).await?;
        assert_eq!((source, &again), (DataSource::Cache, &first), "{name:?}");
        let (source, now, _) = shown(&reader, &tenant, name, &strong).await?;
        assert_eq!((source, &now), (DataSource::Primary, &first), "{name:?}");
        assert_eq!(first.is_some(), name == jfk);
    }
    // The same name of another tenant is another entity.
    let (source, theirs, _) = shown(&reader, &other, jfk, &eventual).await?;
    let (_, theirs) = theirs.context("it is there")?;
    assert_eq!(source, DataSource::Primary);
    assert!(String::from_utf8_lossy(&theirs).contains("theirs"));
    for name in [gone, never] {
        let (source, theirs, _) = shown(&reader, &other, name, &eventual).await?;
        assert_eq!((source, theirs), (DataSource::Primary, None));
    }
    // A token that is covered, one that may not be, and a session that names none.
    let (_, _, position) = shown(&reader, &tenant, jfk, &eventual).await?;
    let session = |token| at_level(ConsistencyLevel::Session, token);
    let early = Position {
        lsn: Lsn(1),
        ..position
    };
    for (token, source) in [
        (Some(early), DataSource::Cache),
        (Some(position), DataSource::Primary),
        (None, DataSource::Primary),
    ] {
        let (answered, value, _) = shown(&reader, &tenant, jfk, &session(token)).await?;
        assert_eq!(answered, source, "{token:?}");
        assert!(value.is_some());
    }
    // Something else is written. The answer stays what it was when it was first seen, so that a session whose token it gave is
    // answered from what was read afterwards.
    let elsewhere = "SELECT pg_logical_emit_message(false, 'test', 'elsewhere')";
    world.superuser.query(elsewhere, &[]).await?;
    for sources in [
        // It may have been, in the meantime.
        &[DataSource::Primary, DataSource::Cache][..],
        &[DataSource::Cache],
        &[DataSource::Cache],
    ] {
        let newest = session(Some(position));
        let (answered, value, token) = shown(&reader, &tenant, jfk, &newest).await?;
        assert!(sources.contains(&answered), "{answered}");
        assert_eq!(token, position);
        assert!(value.is_some());
    }
    // A part of it is asked for each time.
    let query = EntityQuery {
        times: true,
        ..EntityQuery::default()
    };
    let read = reader.entity(&tenant.scope, jfk.0, jfk.1, &query, &eventual);
    assert_eq!(read.await?.freshness.source, DataSource::Primary);
    // Written, and announced: what is remembered answers no more.
    let row = world
        .superuser
        .query_one(
            "UPDATE sheaf.entity_jsonb d SET version = version + 1 FROM sheaf.entities e
             WHERE e.entity_id = d.entity_id AND e.tenant_id = $1 AND e.external_id = 'JFK'
             RETURNING d.entity_id, d.version",
            &[&tenant.scope.tenant().0],
        )
        .await?;
    let written = WrittenEntity {
        tenant: tenant.scope.tenant(),
        entity: EntityId(row.get(0)),
        is_first: false,
    };
    let (_, before, position) = shown(&reader, &tenant, jfk, &eventual).await?;
    let (before, _) = before.context("it is there")?;
    let reached = "SELECT pg_current_wal_insert_lsn()::text";
    let reached = world.superuser.query_one(reached, &[]).await?;
    let later = Position {
        lsn: reached.get::<_, &str>(0).parse()?,
        ..position
    };
    cache.committed(later, &[written]);
    let (source, after, _) = shown(&reader, &tenant, jfk, &eventual).await?;
    assert_eq!(source, DataSource::Primary);
    let (version, _) = after.context("it is there")?;
    assert_eq!((version, version), (before + 1, row.get(1)));
    let (source, ..) = shown(&reader, &tenant, jfk, &eventual).await?;
    assert_eq!(source, DataSource::Cache);
    Ok(())
}
