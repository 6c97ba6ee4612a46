//! A look at Redis: whether it is one that can be used, and which.

use std::time::Duration;

use redis::RedisError;
use redis::aio::MultiplexedConnection;

use super::client::WRONG_TYPE;
use super::key::Keys;
use super::link::LinkError;

/// How long a look may take to be answered.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// The epoch of what is there.
    pub(super) epoch: u64,
    /// How many hear what this server tells itself there: itself, or nobody.
    pub(super) hearers: u64,
}

/// Looks at the Redis behind a connection, which must be one that takes values, and all of them.
pub(super) async fn look(
    keys: &Keys,
    own_channel: &str,
    connection: &mut MultiplexedConnection,
) -> Result<Look, LinkError> {
    match tokio::time::timeout(LOOK_MAX, asked(keys, own_channel, connection)).await {
        Ok(answer) => answer,
        Err(_) => Err(LinkError::Late(LOOK_MAX)),
    }
}

async fn asked(
    keys: &Keys,
    own_channel: &str,
    connection: &mut MultiplexedConnection,
) -> Result<Look, LinkError> {
    let mut asked = redis::pipe();
    asked.cmd("INFO").arg("server");
    asked.cmd("INFO").arg("replication");
    let (server, replication): (String, String) = asked
        .query_async(connection)
        .await
        .map_err(LinkError::Look)?;
    if field(&replication, "role") != Some("master") {
        return Err(LinkError::Replica);
    }
    if field(&server, "redis_mode") == Some("cluster") {
        require_one_node(connection).await?;
    }
    let generation = generation(keys, connection)
        .await
        .map_err(LinkError::Look)?;
    let hearers = redis::cmd("PUBLISH")
        .arg(own_channel)
        .arg("")
        .query_async(connection)
        .await
        .map_err(LinkError::Look)?;
    let run_id = field(&server, "run_id").ok_or(LinkError::Unclear)?;
    let generation = generation.ok_or(LinkError::Unclear)?;
    Ok(Look {
        epoch: keys.epoch(run_id, &generation),
        hearers,
    })
}

/// Refuses a cluster in which other nodes hold keys, too: every request for one of theirs would be sent on to them, and each
/// has an epoch of its own.
async fn require_one_node(connection: &mut MultiplexedConnection) -> Result<(), LinkError> {
    let told: String = redis::cmd("CLUSTER")
        .arg("INFO")
        .query_async(connection)
        .await
        .map_err(LinkError::Look)?;
    let nodes = field(&told, "cluster_size").and_then(|size| size.parse().ok());
    match nodes.ok_or(LinkError::Unclear)? {
        0 | 1 => Ok(()),
        several => Err(LinkError::Nodes(several)),
    }
}

/// What is drawn anew whenever it is not there, or is nothing of ours.
async fn generation(
    keys: &Keys,
    connection: &mut MultiplexedConnection,
) -> Result<Option<Vec<u8>>, RedisError> {
    let name = keys.generation();
    let reading = {
        let mut reading = redis::cmd("GET");
        reading.arg(&name);
        reading
    };
    let mut drawing = redis::cmd("SET");
    drawing
        .arg(&name)
        .arg(format!("{:016x}", rand::random::<u64>()));
    match reading.query_async::<Option<Vec<u8>>>(connection).await {
        Ok(None) => {
            drawing.arg("NX");
        }
        Err(error) if error.code() == Some(WRONG_TYPE) => {}
        found => return found,
    }
    drawing.query_async::<()>(connection).await?;
    // Another server may have been first.
    reading.query_async(connection).await
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim())
}
