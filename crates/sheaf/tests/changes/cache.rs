//! Caches hear from the stream what nobody announced, and not before it is seen.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;
use sheaf_testkit::{HttpClient, Injected, ScratchDir, TestCluster, free_port, wait_until};

use crate::support::{Configured, FOLLOWING, WITHIN, database_in, write_one};

/// Returns once the cache was told of the first write and of what it names.
async fn wait_told(configured: &Configured) {
    wait_until("the stream has told of the write", WITHIN, async || {
        configured
            .given("cache")
            .await
            .is_some_and(|count| count >= 3.0)
    })
    .await;
}

/// A redis-server of the test's own. It keeps nothing on the disk.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(dir: &ScratchDir) -> Result<Redis> {
        let port = free_port()?;
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .context("starting redis-server")?;
        Ok(Redis { child, port })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a read that may be five minutes behind is answered, and whether that was remembered.
async fn read(client: &HttpClient, id: &str) -> Result<(Option<String>, bool)> {
    let path = format!("/v1/entities/thing/{id}?consistency=analytics");
    let answer = client.get(&path).await?;
    let is_remembered = answer.header("x-cache-hit") == Some("true");
    match answer.status {
        404 => Ok((None, is_remembered)),
        200 => {
            let answer = answer.json()?;
            let value = answer["attributes"]["n"].as_str().context("a text")?;
            Ok((Some(value.to_owned()), is_remembered))
        }
        status => anyhow::bail!("{status}: {}", answer.text()),
    }
}

async fn wait_remembered(client: &HttpClient, id: &str, value: Option<&str>) {
    wait_until("an answer is remembered", WITHIN, async || {
        let found = read(client, id).await;
        matches!(found, Ok((found, true)) if found.as_deref() == value)
    })
    .await;
}

async fn wait_shown(client: &HttpClient, id: &str, value: Option<&str>) {
    wait_until("what was written is shown", WITHIN, async || {
        let found = read(client, id).await;
        matches!(found, Ok((found, _)) if found.as_deref() == value)
    })
    .await;
}

/// What a server would have written, and nobody announces.
const WRITE_BY_HAND: &str = "
    BEGIN;
    UPDATE sheaf.entity_jsonb SET version = version + 1, hot_attrs = replace(hot_attrs::text, 'one', 'two')::jsonb,
        cold_attrs = replace(cold_attrs::text, 'one', 'two')::jsonb;
    INSERT INTO sheaf.entity_events SELECT tenant_id, entity_id, now(), 0, 'p', gen_random_uuid(), now(), hot_attrs || cold_attrs
        FROM sheaf.entity_jsonb;
    COMMIT";
const NAME_BY_HAND: &str = "
    INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
        SELECT tenant_id, 'thing', 'late', now() FROM sheaf.tenants";
const FIRST_BY_HAND: &str = "
    BEGIN;
    INSERT INTO sheaf.entity_jsonb
        SELECT d.tenant_id, l.entity_id, 1, d.newest, d.floor_at, d.deleted, d.updated_at, d.hot_attrs, d.cold_attrs, d.present, d.times
        FROM sheaf.entity_jsonb d JOIN sheaf.entities e USING (tenant_id, entity_id), sheaf.entities l
        WHERE e.external_id = '1' AND l.external_id = 'late';
    INSERT INTO sheaf.entity_events SELECT tenant_id, entity_id, now(), 0, 'p', gen_random_uuid(), now(), hot_attrs || cold_attrs
        FROM sheaf.entity_jsonb JOIN sheaf.entities USING (tenant_id, entity_id) WHERE external_id = 'late';
    COMMIT";

#[tokio::test]
async fn what_was_written_and_announced_by_nobody_is_remembered_by_nobody() -> Result<()> {
    let database = database_in(&TestCluster::private().await?).await?;
    let dir = ScratchDir::new("redis")?;
    let redis = Redis::start(&dir)?;
    // Long enough for nothing to be seen because an answer became too old.
    let cached = format!(
        "[cache]\nage_max = \"5m\"\n[redis]\nurl = \"redis://127.0.0.1:{}\"\n",
        redis.port
    );
    let (follower, other) = (
        Configured::new("follower", &database)?,
        Configured::new("other", &database)?,
    );
    follower.write_following(&cached)?;
    other.write(&cached)?;
    let (_following, at_follower) = follower.serve().await?;
    let (_serving, at_other) = other.serve().await?;
    for configured in [&follower, &other] {
        configured.wait_for_metric("sheaf_cache_redis_up 1").await;
    }
    follower.wait_for_metric(FOLLOWING).await;
    let at_follower = follower.key(&at_follower)?;
    let at_other = {
        let output = other.sheaf(&["key", "create", "--tenant", "acme"])?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let key = answer["key"].as_str().context("a key")?;
        at_other.with_key(key)
    };
    write_one(&at_follower).await?;
    // The stream's own announcement of that write comes after its answer, and is no part of what is tested.
    wait_told(&follower).await;
    let superuser = database.superuser().await?;
    let by_hand = Injected::new("write that nobody announces");
    for client in [&at_follower, &at_other] {
        wait_remembered(client, "1", Some("one")).await;
        wait_remembered(client, "late", None).await;
    }
    superuser.batch_execute(WRITE_BY_HAND).await?;
    by_hand.count();
    for client in [&at_follower, &at_other] {
        wait_shown(client, "1", Some("two")).await;
    }
    // A name gets its number, and its first document later: whoever found nothing looks again after each.
    for (statement, value) in [(NAME_BY_HAND, None), (FIRST_BY_HAND, Some("two"))] {
        for client in [&at_follower, &at_other] {
            wait_remembered(client, "late", None).await;
        }
        superuser.batch_execute(statement).await?;
        by_hand.count();
        for client in [&at_follower, &at_other] {
            wait_shown(client, "late", value).await;
        }
    }
    by_hand.require();
    Ok(())
}

#[tokio::test]
async fn a_write_is_announced_once_it_is_seen_and_not_when_it_is_in_the_stream() -> Result<()> {
    let cluster = TestCluster::private().await?;
    let database = database_in(&cluster).await?;
    let superuser = database.superuser().await?;
    // Of all, the write by hand alone waits for standbys.
    let alone = format!(
        "ALTER DATABASE {} SET synchronous_commit = local",
        database.name()
    );
    superuser.batch_execute(&alone).await?;
    let configured = Configured::new("unseen", &database)?;
    configured.write_following("[cache]\nage_max = \"5m\"\n")?;
    let (_following, client) = configured.serve().await?;
    configured.wait_for_metric(FOLLOWING).await;
    let client = configured.key(&client)?;
    write_one(&client).await?;
    wait_told(&configured).await;
    wait_remembered(&client, "1", Some("one")).await;
    let unseen = Injected::new("commit that is in the log and seen by nobody");
    cluster.set("synchronous_standby_names", "absent").await?;
    let given = configured.given("cache").await.context("a number")?;
    superuser
        .batch_execute("SET synchronous_commit = on")
        .await?;
    let waits = tokio::spawn(async move { superuser.batch_execute(WRITE_BY_HAND).await });
    wait_until("the cache was given the write", WITHIN, async || {
        configured
            .given("cache")
            .await
            .is_some_and(|count| count > given)
    })
    .await;
    assert!(!waits.is_finished(), "nobody sees it yet");
    unseen.count();
    // Told now, a read would find what was there before, and it would be remembered as what is there after.
    wait_remembered(&client, "1", Some("one")).await;
    cluster.set("synchronous_standby_names", "").await?;
    waits.await??;
    wait_shown(&client, "1", Some("two")).await;
    unseen.require();
    Ok(())
}
