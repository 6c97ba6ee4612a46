//! A commit whose answer is lost, or that never arrived: whoever sent it cannot tell the two apart, and finds out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use sheaf_cdc::sink::{Held, Sink};
use sheaf_lake::LakeSink;
use sheaf_model::Op;
use sheaf_pg::{Pool, Tls};
use sheaf_testkit::Injected;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_postgres::config::Host;

use crate::world::{World, entity, event, position, transaction};

const NOON: &str = "2024-02-29T12:00:00Z";
const COMMIT: &[u8] = b"sheaf.commit_lake(";
/// What PostgreSQL says once the transaction is one.
const COMMITTED: &[u8] = b"COMMIT\0";

/// What is done with the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nothing,
    /// It does not arrive.
    Request,
    /// It is committed, and that is not answered.
    Answer,
}

/// A way to PostgreSQL on which commits of the lake are lost.
struct Link {
    next: AtomicU8,
    cuts: AtomicU64,
    port: u16,
}

impl Link {
    async fn to(world: &World) -> Result<Arc<Link>> {
        let config = world.database.config("sheaf_cdc");
        let Some(Host::Unix(directory)) = config.get_hosts().first() else {
            anyhow::bail!("the cluster of tests listens on a socket");
        };
        let port = config.get_ports().first().context("a port")?;
        let socket = directory.join(format!(".s.PGSQL.{port}"));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let link = Arc::new(Link {
            next: AtomicU8::new(Cut::Nothing as u8),
            cuts: AtomicU64::new(0),
            port: listener.local_addr()?.port(),
        });
        let accepting = Arc::clone(&link);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (link, socket) = (Arc::clone(&accepting), socket.clone());
                tokio::spawn(async move { link.carry(client, socket).await });
            }
        });
        Ok(link)
    }

    fn pool(&self, world: &World) -> Pool {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .dbname(world.database.name())
            .user("sheaf_cdc");
        Pool::new(&config, 4, &Tls::none())
    }

    fn order(&self, cut: Cut) {
        self.next.store(cut as u8, Ordering::SeqCst);
    }

    fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    async fn carry(&self, mut client: TcpStream, socket: PathBuf) -> std::io::Result<()> {
        let server = UnixStream::connect(socket).await?;
        let (mut from_client, mut to_client) = client.split();
        let (from_server, mut to_server) = server.into_split();
        // Set once the commit whose answer is lost has been passed on.
        let is_sent = Notify::new();
        let up = async {
            let mut bytes = vec![0; 1 << 16];
            loop {
                let count = from_client.read(&mut bytes).await?;
                if count == 0 {
                    return to_server.shutdown().await;
                }
                if bytes[..count]
                    .windows(COMMIT.len())
                    .any(|part| part == COMMIT)
                {
                    let cut = self.next.swap(Cut::Nothing as u8, Ordering::SeqCst);
                    if cut == Cut::Request as u8 {
                        self.cuts.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                    if cut == Cut::Answer as u8 {
                        is_sent.notify_one();
                        // Nothing of the answer is given on before this is known to the other side.
                        tokio::task::yield_now().await;
                    }
                }
                to_server.write_all(&bytes[..count]).await?;
            }
        };
        let down = self.answer(from_server, &mut to_client, &is_sent);
        tokio::select! {
            ended = up => ended,
            ended = down => ended,
        }
    }

    async fn answer(
        &self,
        mut from_server: OwnedReadHalf,
        to_client: &mut tokio::net::tcp::WriteHalf<'_>,
        is_sent: &Notify,
    ) -> std::io::Result<()> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            tokio::select! {
                biased;
                () = is_sent.notified() => break,
                count = from_server.read(&mut bytes) => match count? {
                    0 => return to_client.shutdown().await,
                    count => to_client.write_all(&bytes[..count]).await?,
                },
            }
        }
        let mut swallowed = Vec::new();
        while !swallowed
            .windows(COMMITTED.len())
            .any(|part| part == COMMITTED)
        {
            let count = from_server.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            swallowed.extend_from_slice(&bytes[..count]);
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_and_one_that_is_lost_is_made_again() -> Result<()> {
    let lost = Injected::new("commit of which nobody was told what became of it");
    let world = World::create().await?;
    let link = Link::to(&world).await?;
    let mut sink = LakeSink::new(&link.pool(&world), world.options("sheaf"))?;
    sink.held().await?;
    sink.begin(position(10, 0)).await?;
    sink.follow();
    let mut wanted = 0;
    for number in 1..=8_u64 {
        let cut = if number % 2 == 0 {
            Cut::Answer
        } else {
            Cut::Request
        };
        let number_of = i64::try_from(number)?;
        let mut rows = vec![
            entity(number_of),
            event(number_of, NOON, 0, Op::Patch, r#"{"1":1,"4":"one"}"#),
        ];
        if number > 1 {
            rows.push(event(number_of - 1, NOON, 1, Op::Correct, r#"{"1":2}"#));
        }
        let batch = transaction(10 + 10 * number, rows);
        let before = world.standing("sheaf").await?.position;
        sink.apply(&batch).await?;
        // The commit of the rows, and that of the work beside it.
        let cuts = link.cuts();
        link.order(cut);
        ensure!(sink.flush().await.is_err(), "it was not answered");
        ensure!(link.cuts() == cuts + 1, "{cut:?}");
        lost.count();
        let after = world.standing("sheaf").await?.position;
        let is_made = after.number > before.number;
        ensure!(is_made == (cut == Cut::Answer), "{cut:?}: {after:?}");
        let Held::Until(held) = sink.held().await? else {
            anyhow::bail!("it has begun");
        };
        let stream = if is_made { batch.last() } else { before.stream };
        ensure!(held.stream == stream, "{held:?}");
        // It is sent again what it may lack, as after any failure; files of what is committed are all there.
        sink.follow();
        sink.apply(&batch).await?;
        sink.flush().await?;
        link.order(cut);
        let tidied = sink.tidy().await;
        if number > 1 {
            ensure!(tidied.is_err(), "it was not answered");
            ensure!(link.cuts() == cuts + 2, "{cut:?}");
            lost.count();
        }
        link.order(Cut::Nothing);
        sink.held().await?;
        sink.follow();
        sink.tidy().await?;
        wanted += 2;
        assert_eq!(world.facts("sheaf").await?.len(), wanted);
        let replaced = world.replaced("sheaf").await?;
        assert_eq!(replaced.len(), usize::try_from(number)? - 1);
        assert_eq!(world.waiting("sheaf").await?, 0);
        assert_eq!(world.rows("sheaf", "entities").await?.len(), wanted / 2);
        world.require_one_value("sheaf").await?;
    }
    lost.require();
    Ok(())
}
