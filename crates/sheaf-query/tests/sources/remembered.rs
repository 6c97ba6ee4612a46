//! What is remembered of the answers of replicas.

use std::time::Duration;

use anyhow::Result;
use sheaf_cache::{Cache, Database, Options};
use sheaf_model::{EntityId, Position, WrittenEntity};
use sheaf_query::{ConsistencyLevel, DataSource, Reader};
use sheaf_store::TenantScope;
use sheaf_testkit::{Injected, wait_until};

use crate::replicated::{Replicated, WITHIN, options, source};

/// The version that is shown, and who shows it.
async fn shown(
    reader: &Reader,
    scope: &TenantScope,
    level: ConsistencyLevel,
    token: Option<Position>,
) -> Result<(i64, DataSource)> {
    let options = options(level, token);
    let name = ("counter", "one");
    let read = reader.entity_encoded(scope, name, &options, |_| "one".into());
    let read = read.await?;
    let version = read.value.map_or(0, |entity| entity.version);
    Ok((version, read.freshness.source))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_behind_fills_memory_with_nothing_that_was_replaced() -> Result<()> {
    let all = Replicated::new().await?;
    let east = all.replica("east").await?;
    let options = Options {
        bytes_max: 1 << 20,
        age_max: Duration::from_secs(3_600),
        sample_every: u64::MAX,
    };
    let settings = &all.world.settings;
    let database = Database {
        system_id: settings.system_id,
        signing_key: settings.signing_key,
    };
    let cache = Cache::local(options, &database);
    let reader = all.reader.clone().remembering(cache.clone());
    let number = "SELECT entity_id FROM sheaf.entities WHERE external_id = 'one'";
    let number = all.world.superuser.query_one(number, &[]).await?;
    let written = WrittenEntity {
        tenant: all.scope.tenant(),
        entity: EntityId(number.get(0)),
        is_first: false,
    };
    let eventual = async || shown(&reader, &all.scope, ConsistencyLevel::Eventual, None).await;
    let late = Injected::new("late fill from a replica");
    for version in 2..12 {
        all.wait_used("east").await;
        east.pause_replay().await?;
        let token = all.write(version).await?;
        cache.committed(token, &[written]);
        for _ in 0..3 {
            // A replica may be behind; what is remembered of it may not be.
            let (shown, by) = eventual().await?;
            if shown < version {
                assert_eq!(by, source("east"), "version {shown} after {version}");
                late.count();
            }
        }
        let session = ConsistencyLevel::Session;
        let (shown, by) = shown(&reader, &all.scope, session, Some(token)).await?;
        assert_eq!(shown, version, "by {by} with the token");
        east.resume_replay().await?;
        // From the replica again, and remembered.
        cache.committed(token, &[written]);
        wait_until("it is remembered", WITHIN, async || {
            let read = eventual().await;
            read.is_ok_and(|read| read == (version, DataSource::Cache))
        })
        .await;
    }
    late.require();
    Ok(())
}
