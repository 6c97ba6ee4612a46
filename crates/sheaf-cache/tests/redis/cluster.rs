//! A Redis that is a cluster: of one node, which is like any other, and of several, which is not used.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheaf_cache::RemoteOptions;

use super::process::Redis;
use super::world::{ANY, By, Given, Primary, Server, until};
use super::{NEW, injected, server_with_an_old_value};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_node_refuses_nothing() -> Result<()> {
    let node = Redis::start_node(0, 16_383).await?;
    node.wait_cluster(1).await?;
    let primary = Primary::default();
    let (one, other) = (
        Server::started(node.port).await?,
        Server::started(node.port).await?,
    );
    let names: Vec<String> = (0..100).map(|number| format!("e{number}")).collect();
    for name in &names {
        one.write(&primary, name);
        one.read(&primary, name, ANY).await;
    }
    until("all are in redis", async || {
        Ok(node.entity_keys().await?.len() == names.len())
    })
    .await?;
    one.write(&primary, "a");
    until("the other server hears of a write", async || {
        Ok(other.read(&primary, "a", ANY).await.0 == 1)
    })
    .await?;
    let third = server_with_an_old_value(node.port, &primary, "a").await?;
    until("a value comes from redis", async || {
        // Its own value is too old soon; the first one's newer one is not.
        one.read(&primary, "a", NEW).await;
        Ok(third.read(&primary, "a", ANY).await == (1, By::Redis))
    })
    .await?;
    let refused: String = node.call(&["INFO", "errorstats"]).await?;
    for refusal in ["CROSSSLOT", "MOVED", "ASK", "CLUSTERDOWN", "NOSCRIPT"] {
        let name = format!("errorstat_{refusal}:");
        ensure!(!refused.contains(&name), "{refused}");
    }
    one.stop().await?;
    other.stop().await?;
    third.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_several_nodes_is_refused_in_words_and_reads_go_on_without_it() -> Result<()> {
    let first = Redis::start_node(0, 8_000).await?;
    let second = Redis::start_node(8_001, 16_383).await?;
    let port = second.port.to_string();
    let _: String = first.call(&["CLUSTER", "MEET", "127.0.0.1", &port]).await?;
    first.wait_cluster(2).await?;
    let options = RemoteOptions {
        url: format!("redis://127.0.0.1:{}", first.port),
        user: None,
        password: None,
        ca: None,
        deadline: Duration::from_secs(1),
    };
    let fault = options.reach(7).await.err().context("it is reached")?;
    let cause = std::error::Error::source(&fault).context("it has a cause")?;
    ensure!(cause.to_string().contains("cluster of 2 nodes"), "{cause}");
    let primary = Primary::default();
    let server = Server::start(first.port, Given::default());
    server.write(&primary, "a");
    assert_eq!(server.read(&primary, "a", ANY).await, (1, By::Primary));
    assert_eq!(server.cache.reaches_redis(), Some(false));
    injected("cluster of two nodes", 1);
    server.stop().await
}
