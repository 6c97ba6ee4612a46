//! A failover that the reader was not told of.

use std::time::Duration;

use anyhow::{Context, Result};
use sheaf_model::{Lsn, Name, Position, Timestamp};
use sheaf_pg::cluster::StopMode;
use sheaf_pg::{Disposition, PgError, Pool, Tls};
use sheaf_query::{ConsistencyLevel, DataSource};
use sheaf_store::heartbeat::beat;
use sheaf_store::keys::{ApiKey, KeyScope, fetch_key, insert_key, revoke_key};
use sheaf_store::tenants::{TenantPolicy, create_tenant, fetch_tenant, update_tenant};
use sheaf_testkit::{Injected, wait_until};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::replicated::{Replicated, WITHIN, code, read_with};

const STRONG: ConsistencyLevel = ConsistencyLevel::Strong;
const SESSION: ConsistencyLevel = ConsistencyLevel::Session;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_promotion_the_old_primary_answers_nothing_and_old_tokens_are_refused() -> Result<()>
{
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let promoted = Injected::new("replica promoted");
    // These the replica never gets, and the new history lacks them.
    west.cut_link().await?;
    let lost = all.write(99).await?;
    let waiting = {
        let (reader, scope) = (all.reader.clone(), all.scope.clone());
        let far = Position {
            lsn: Lsn(lost.lsn.0 + (1 << 40)),
            ..lost
        };
        tokio::spawn(async move { read_with(&reader, &scope, SESSION, Some(far)).await })
    };
    west.promote().await?;
    promoted.count();
    let waited = code(waiting.await?);
    assert!(
        [
            "token_not_reached",
            "stale_timeline",
            "database_unavailable"
        ]
        .contains(&waited),
        "a promoted replica has not reached the token: {waited}"
    );
    wait_until("the promotion is seen", WITHIN, async || {
        code(all.read(STRONG, None).await) == "database_unavailable"
    })
    .await;
    for level in ConsistencyLevel::ALL {
        let refused = code(all.read(level, Some(lost)).await);
        assert_eq!(refused, "stale_timeline", "{level:?}");
        let refused = code(all.read(level, None).await);
        let expected = match level {
            STRONG | SESSION => "database_unavailable",
            // A replica might have answered.
            ConsistencyLevel::Eventual | ConsistencyLevel::Analytics => "lag_exceeded",
        };
        assert_eq!(refused, expected, "{level:?}");
    }

    // A server that begins now, over the new primary: tokens of the old history are none of its.
    let reader = all.another_reader(west.cluster()).await?;
    let read = read_with(&reader, &all.scope, STRONG, None).await?;
    assert_ne!(read.value, 99, "what was lost is not there");
    assert_eq!(read.freshness.source, DataSource::Primary);
    assert_eq!(read.freshness.position.timeline, lost.timeline + 1);
    for level in ConsistencyLevel::ALL {
        let refused = read_with(&reader, &all.scope, level, Some(lost)).await;
        assert_eq!(code(refused), "stale_timeline", "{level:?}");
    }
    // The old primary, taken for a replica of the new one, is none.
    let old = all.pools(all.primary.cluster());
    reader.sources().add_replica("old", old);
    let mut looks = 0;
    wait_until("it was looked at", Duration::from_secs(30), async || {
        looks += 1;
        let status = reader.sources().status();
        looks > 20 && status.iter().any(|status| !status.is_up)
    })
    .await;
    for level in [ConsistencyLevel::Eventual, ConsistencyLevel::Analytics] {
        let read = read_with(&reader, &all.scope, level, None).await?;
        assert_eq!(read.freshness.source, DataSource::Primary);
        assert_ne!(read.value, 99);
    }
    promoted.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_that_comes_back_is_known_by_its_promoted_replica() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let came_back = Injected::new("old primary came back");
    west.promote().await?;
    // A server that begins now and was left with the old address.
    let reader = all.another_reader(all.primary.cluster()).await?;
    let pools = all.pools(west.cluster());
    reader.sources().add_replica("west", pools);
    came_back.count();
    wait_until("the old primary is refused", WITHIN, async || {
        code(read_with(&reader, &all.scope, STRONG, None).await) == "database_unavailable"
    })
    .await;
    came_back.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_token_of_the_new_history_gets_nothing_of_the_old_one() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let alone = Injected::new("server that knows the old primary alone");
    west.promote().await?;
    let after = all.another_reader(west.cluster()).await?;
    let new = read_with(&after, &all.scope, STRONG, None).await?;
    let new = new.freshness.position;
    // It has no way to know of the promotion but by the token, which it may not believe.
    let reader = all.another_reader(all.primary.cluster()).await?;
    alone.count();
    for level in ConsistencyLevel::ALL {
        let refused = read_with(&reader, &all.scope, level, Some(new)).await;
        assert_eq!(code(refused), "stale_timeline", "{level:?}");
        let read = read_with(&reader, &all.scope, level, None).await?;
        assert!(read.freshness.position.timeline < new.timeline);
    }
    // Asked for, the new primary shows it, and then the old one is left for good.
    let pools = all.pools(west.cluster());
    reader.sources().add_replica("west", pools);
    wait_until("the old primary is refused", WITHIN, async || {
        code(read_with(&reader, &all.scope, STRONG, None).await) == "database_unavailable"
    })
    .await;
    for level in ConsistencyLevel::ALL {
        let refused = read_with(&reader, &all.scope, level, Some(new)).await;
        assert_ne!(code(refused), "answered", "{level:?}");
    }
    alone.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_follows_the_new_primary_shows_the_promotion() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let east = all.replica("east").await?;
    let followed = Injected::new("replica that follows the new primary");
    // One that has more than the new primary could not follow it.
    east.cut_link().await?;
    west.wait_caught_up(&all.primary).await?;
    west.promote().await?;
    east.follow_instead(&west).await?;
    // This one reaches the old primary, and a replica that it takes for that one's.
    let reader = all.another_reader(all.primary.cluster()).await?;
    reader
        .sources()
        .add_replica("east", all.pools(east.cluster()));
    followed.count();
    let upkeep = all.pool(west.cluster(), "sheaf_upkeep");
    wait_until("the old primary is refused", WITHIN, async || {
        // Servers of the new primary beat.
        beat(&upkeep, Duration::ZERO).await.unwrap();
        code(read_with(&reader, &all.scope, STRONG, None).await) == "database_unavailable"
    })
    .await;
    followed.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_the_one_that_was_left_behind_is_passed_over() -> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let both = Injected::new("old primary that is named first");
    let mut config = all.config(all.primary.cluster(), "sheaf_app");
    let new = west.cluster();
    config.host_path(new.socket_dir()).port(new.port());
    let pool = Pool::new(&config, 2, &Tls::none());
    let at = async |client: &tokio_postgres::Client| {
        let sql = "SELECT current_setting('port')::integer";
        anyhow::Ok(client.query_one(sql, &[]).await?.get::<_, i32>(0))
    };
    let (old_port, new_port) = (
        i32::from(all.primary.cluster().port()),
        i32::from(new.port()),
    );
    // As long as nothing is known of a promotion, the order decides.
    assert_eq!(at(&*pool.get().await?).await?, old_port);
    let timeline = all.position().await?.timeline;
    pool.newest_timeline().saw(timeline);
    assert_eq!(at(&*pool.get().await?).await?, old_port);
    west.promote().await?;
    pool.newest_timeline().saw(timeline + 1);
    both.count();
    // Neither is the connection lent that was made before, nor a new one made to the host that is named first.
    let (one, two) = (pool.get().await?, pool.get().await?);
    assert_eq!((at(&one).await?, at(&two).await?), (new_port, new_port));
    assert_eq!(at(&pool.connect_apart(WITHIN).await?).await?, new_port);
    drop((one, two));
    assert_eq!(at(&*pool.get().await?).await?, new_port);
    // Where only the old one is there, it is reached, and says itself what it is.
    west.cluster().stop(StopMode::Immediate).await?;
    assert_eq!(at(&pool.connect_apart(WITHIN).await?).await?, old_port);
    both.require();
    Ok(())
}

fn is_unavailable<T>(outcome: Result<T, PgError>) -> bool {
    outcome.is_err_and(|error| error.disposition() == Disposition::Unavailable)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_primary_any_more_vouches_for_no_key_and_takes_neither_keys_nor_tenants()
-> Result<()> {
    let all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let left_behind = Injected::new("primary left behind");
    let (app, scope, now) = (&all.world.app, &all.scope, Timestamp::now());
    let (key, later) = (ApiKey::generate(), ApiKey::generate());
    let scopes = [KeyScope::Read];
    insert_key(app, scope, &key, &scopes, now, None).await?;
    let tenant = fetch_tenant(app, "acme").await?.context("acme")?;
    let sources = all.reader.sources();
    assert!(sources.fetch_key(key.id()).await?.is_some());
    west.wait_caught_up(&all.primary).await?;
    let standby = all.pool(west.cluster(), "sheaf_app");
    assert!(is_unavailable(fetch_key(&standby, key.id()).await));

    west.promote().await?;
    left_behind.count();
    wait_until("the promotion is seen", WITHIN, async || {
        code(all.read(STRONG, None).await) == "database_unavailable"
    })
    .await;
    let written =
        "SELECT count(*) FILTER (WHERE revoked_at IS NULL), (SELECT count(*) FROM sheaf.tenants),
        (SELECT sum(catalogue_version)::bigint FROM sheaf.tenants) FROM sheaf.api_keys";
    let written = async || {
        let row = all.world.superuser.query_one(written, &[]).await?;
        anyhow::Ok([0, 1, 2].map(|at| row.get::<_, i64>(at)))
    };
    let before = written().await?;
    assert!(is_unavailable(sources.fetch_key(key.id()).await));
    assert!(is_unavailable(fetch_tenant(app, "acme").await));
    let inserted = insert_key(app, scope, &later, &scopes, now, None).await;
    assert!(is_unavailable(inserted));
    assert!(is_unavailable(revoke_key(app, scope, key.id(), now).await));
    let (name, policy) = (Name::parse("new")?, TenantPolicy::default());
    let created = create_tenant(app, &name, &policy, now).await;
    assert!(is_unavailable(created));
    let seen = tenant.catalogue_version;
    let updated = update_tenant(app, tenant.tenant, &policy, seen).await;
    assert!(is_unavailable(updated));
    assert_eq!(written().await?, before, "what was refused was written");
    left_behind.require();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_that_was_restored_from_a_longer_history_leaves_no_primary_behind() -> Result<()>
{
    let mut all = Replicated::new().await?;
    let west = all.replica("west").await?;
    let restored = Injected::new("heartbeat of another cluster");
    all.stop_heart();
    let sql = "UPDATE sheaf.replication_heartbeat SET timeline = 9";
    all.world.superuser.execute(sql, &[]).await?;
    west.wait_caught_up(&all.primary).await?;
    restored.count();
    let reader = all.another_reader(all.primary.cluster()).await?;
    let sources = reader.sources();
    sources.add_replica("west", all.pools(west.cluster()));
    let of_another = "is on another timeline than the primary";
    wait_until("both were looked at", WITHIN, async || {
        let status = sources.status();
        status[0].is_up && status[1].detail == of_another
    })
    .await;
    let upkeep = all.pool(all.primary.cluster(), "sheaf_upkeep");
    wait_until("the replica follows the first beat", WITHIN, async || {
        beat(&upkeep, Duration::ZERO).await.unwrap();
        let read = read_with(&reader, &all.scope, STRONG, None).await;
        assert_eq!(code(read), "answered");
        sources.status()[1].is_up
    })
    .await;
    restored.require();
    Ok(())
}

async fn backend(client: &tokio_postgres::Client) -> Result<i32> {
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await?;
    Ok(row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_to_what_was_left_behind_is_lent_twice_also_behind_one_address() -> Result<()>
{
    let all = Replicated::new().await?;
    let left_behind = Injected::new("promotion while a connection is made");
    let timeline = all.position().await?.timeline;
    let pool = all.pool(all.primary.cluster(), "sheaf_app");
    // Made when nothing was known.
    let first = backend(&*pool.get().await?).await?;
    assert_eq!(
        backend(&*pool.get().await?).await?,
        first,
        "else it is kept"
    );
    pool.newest_timeline().saw(timeline + 1);
    let second = backend(&*pool.get().await?).await?;
    assert_ne!(second, first);
    assert_ne!(backend(&*pool.get().await?).await?, second);

    // One that was begun before the promotion was seen, and ready afterwards.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut config = tokio_postgres::Config::new();
    let like = all.config(all.primary.cluster(), "sheaf_app");
    config.host("127.0.0.1").port(listener.local_addr()?.port());
    config.user("sheaf_app").dbname(like.get_dbname().unwrap());
    let pool = Pool::new(&config, 1, &Tls::none());
    pool.newest_timeline().saw(timeline);
    let newest = std::sync::Arc::clone(pool.newest_timeline());
    let (dir, port) = {
        let cluster = all.primary.cluster();
        (cluster.socket_dir().to_owned(), cluster.port())
    };
    left_behind.count();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            newest.saw(timeline + 1);
            // What is known is old by now, wherever connections are noted.
            tokio::time::sleep(Duration::from_millis(300)).await;
            tokio::spawn(forward(client, dir.join(format!(".s.PGSQL.{port}"))));
        }
    });
    let first = backend(&*pool.get().await?).await?;
    assert_ne!(backend(&*pool.get().await?).await?, first);
    left_behind.require();
    Ok(())
}

async fn forward(mut client: TcpStream, socket: std::path::PathBuf) {
    if let Ok(mut server) = UnixStream::connect(socket).await {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_host_that_takes_connections_and_says_nothing_keeps_nobody_from_the_second()
-> Result<()> {
    let all = Replicated::new().await?;
    let silent = Injected::new("first host that says nothing");
    // The kernel takes the connections.
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let second = all.config(all.primary.cluster(), "sheaf_app");
    let mut config = tokio_postgres::Config::new();
    let cluster = all.primary.cluster();
    config.host("127.0.0.1").port(listener.local_addr()?.port());
    config.host_path(cluster.socket_dir()).port(cluster.port());
    config
        .user("sheaf_app")
        .dbname(second.get_dbname().unwrap());
    config.ssl_mode(tokio_postgres::config::SslMode::Disable);
    let tls = Tls::none();
    let pool = Pool::new(&config, 1, &tls);
    backend(&tls.connect(&config).await?).await?;
    for newest in [None, Some(all.position().await?.timeline)] {
        silent.count();
        if let Some(timeline) = newest {
            pool.newest_timeline().saw(timeline);
        }
        backend(&*pool.get().await?).await?;
        backend(&pool.connect_apart(Duration::from_secs(1)).await?).await?;
    }
    silent.require();
    Ok(())
}
