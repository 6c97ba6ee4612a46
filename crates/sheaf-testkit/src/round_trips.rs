//! Counting round trips: a proxy before PostgreSQL that holds back what the server says until the client says no more.
//!
//! So a client that sends everything before it needs an answer makes one round trip, and one that waits in between makes
//! more, however fast either of them is.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use sheaf_pg::cluster::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::Config;

/// A client that has been silent for so long waits for an answer, also on a busy machine.
const SILENCE: Duration = Duration::from_millis(150);

/// Of each connection, in the order in which they were made.
type Counts = Mutex<Vec<u64>>;

/// A proxy to one server; it ends with this value.
#[derive(Debug)]
pub struct RoundTrips {
    port: u16,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl RoundTrips {
    /// Listens, and leads to this server.
    pub async fn to(cluster: &Cluster) -> Result<RoundTrips> {
        let socket = cluster
            .socket_dir()
            .join(format!(".s.PGSQL.{}", cluster.port()));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let accepting = tokio::spawn(async move {
            for connection in 0.. {
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                locked(&counted).push(0);
                let counted = Arc::clone(&counted);
                tokio::spawn(pass(client, socket.clone(), counted, connection));
            }
        });
        Ok(RoundTrips {
            port,
            counts,
            accepting,
        })
    }

    /// How to connect through it.
    pub fn config(&self, dbname: &str, role: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .dbname(dbname)
            .user(role)
            .ssl_mode(tokio_postgres::config::SslMode::Disable);
        config
    }

    /// How many there were of each connection since the last time that this was asked.
    pub fn take(&self) -> Vec<u64> {
        let mut counts = locked(&self.counts);
        counts.iter_mut().map(std::mem::take).collect()
    }
}

impl Drop for RoundTrips {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Until either side ends; what went wrong either side notices by itself.
async fn pass(
    mut client: TcpStream,
    socket: PathBuf,
    counts: Arc<Counts>,
    connection: usize,
) -> Result<()> {
    let mut server = UnixStream::connect(socket).await?;
    let (mut said, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut held = Vec::new();
    loop {
        tokio::select! {
            read = client.read(&mut said) => match read? {
                0 => return Ok(()),
                length => server.write_all(&said[..length]).await?,
            },
            read = server.read(&mut answered) => match read? {
                0 => {
                    client.write_all(&held).await?;
                    return Ok(());
                }
                length => held.extend_from_slice(&answered[..length]),
            },
            () = sleep(SILENCE), if !held.is_empty() => {
                locked(&counts)[connection] += 1;
                client.write_all(&held).await?;
                held.clear();
            }
        }
    }
}

fn locked(counts: &Counts) -> MutexGuard<'_, Vec<u64>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
