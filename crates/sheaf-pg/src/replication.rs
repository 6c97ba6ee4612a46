//! A connection that follows a logical replication slot: what the ordinary client library does not speak.
//!
//! It moves bytes and positions. What the bytes mean, and when a position may be confirmed, is its caller's to know. Nothing
//! is read ahead of the caller but what one read of the socket brought, so that a caller who stands still holds back the
//! server and no memory.

mod frame;
mod login;

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use sheaf_model::{Lineage, Lsn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::pool::Tls;
use crate::timeline::NewestTimeline;
pub use frame::ServerError;
use frame::{Frame, take_frame};

/// How long a connection may take to be made, with its login.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// What one read of the socket may bring.
const READ_BYTES: usize = 64 << 10;
/// 2000-01-01T00:00:00Z in microseconds since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Why a slot is not followed, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// No connection could be made.
    #[error("connecting to postgresql for replication")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("following the changes of postgresql")]
    Broken(#[source] io::Error),
    /// The server said no.
    #[error("{step}")]
    Refused {
        /// What was being attempted.
        step: &'static str,
        /// What it said.
        #[source]
        source: ServerError,
    },
    /// The server said something that is no part of the protocol.
    #[error("{step}: postgresql sent {what}")]
    Protocol {
        /// What was being attempted.
        step: &'static str,
        /// What it sent.
        what: String,
    },
}

impl ReplicationError {
    /// The SQLSTATE, where the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            ReplicationError::Refused { source, .. } => Some(&source.code),
            ReplicationError::Connect(_)
            | ReplicationError::Broken(_)
            | ReplicationError::Protocol { .. } => None,
        }
    }

    /// Somebody else follows the slot.
    pub fn is_slot_in_use(&self) -> bool {
        self.sqlstate() == Some("55006")
    }

    fn protocol(step: &'static str, what: impl Into<String>) -> ReplicationError {
        ReplicationError::Protocol {
            step,
            what: what.into(),
        }
    }
}

/// What the server sends of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A message of the slot's plugin.
    Message(Bytes),
    /// A sign of life: everything up to there was sent that there is to send.
    Alive {
        /// How far the server has read its log for this slot.
        read_to: Lsn,
        /// Its clock, in microseconds since 2000.
        clock: i64,
        /// It waits for a sign of life of ours.
        must_answer: bool,
    },
    /// The server has ended the stream.
    End,
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection in replication mode to one database of one server that takes writes.
pub struct ReplicationConnection {
    socket: Box<dyn Socket>,
    buffer: BytesMut,
    lineage: Lineage,
}

impl std::fmt::Debug for ReplicationConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplicationConnection({:?})", self.lineage)
    }
}

impl ReplicationConnection {
    /// Connects to the first of the hosts that takes writes and that no promotion has left behind. Its role needs the right to
    /// replicate.
    pub async fn connect(
        config: &Config,
        tls: &Tls,
        newest: &NewestTimeline,
    ) -> Result<Self, ReplicationError> {
        let mut last = None;
        for (place, host) in config.get_hosts().iter().enumerate() {
            let ports = config.get_ports();
            let port = ports.get(place).or_else(|| ports.first()).copied();
            let attempt = Self::connect_host(config, tls, host, port.unwrap_or(5432));
            match timeout(CONNECT_MAX, attempt).await {
                Ok(Ok(connection)) => match newest.require(connection.lineage) {
                    Ok(()) => return Ok(connection),
                    Err(error) => {
                        last = Some(ReplicationError::Connect(io::Error::other(error)));
                    }
                },
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(ReplicationError::Connect(io::ErrorKind::TimedOut.into())),
            }
        }
        let no_host = || ReplicationError::Connect(io::Error::other("no host is named"));
        Err(last.unwrap_or_else(no_host))
    }

    async fn connect_host(
        config: &Config,
        tls: &Tls,
        host: &Host,
        port: u16,
    ) -> Result<Self, ReplicationError> {
        let socket: Box<dyn Socket> = match host {
            Host::Unix(dir) => {
                let path = dir.join(format!(".s.PGSQL.{port}"));
                let socket = tokio::net::UnixStream::connect(path).await;
                Box::new(socket.map_err(ReplicationError::Connect)?)
            }
            Host::Tcp(name) => {
                let socket = tokio::net::TcpStream::connect((name.as_str(), port)).await;
                let socket = socket.map_err(ReplicationError::Connect)?;
                socket
                    .set_nodelay(true)
                    .map_err(ReplicationError::Connect)?;
                login::encrypt(socket, config.get_ssl_mode(), tls, name).await?
            }
        };
        let mut connection = ReplicationConnection {
            socket,
            buffer: BytesMut::with_capacity(READ_BYTES),
            lineage: Lineage {
                system_id: 0,
                timeline: 0,
            },
        };
        login::log_in(&mut connection, config).await?;
        connection.identify().await?;
        Ok(connection)
    }

    /// Which server this is. A standby is refused: its slots are not those of the primary.
    async fn identify(&mut self) -> Result<(), ReplicationError> {
        const STEP: &str = "asking a server which it is";
        let unreadable = || ReplicationError::protocol(STEP, "an unreadable answer");
        let rows = self.query(STEP, "SELECT pg_is_in_recovery()").await?;
        if rows.first().and_then(|row| row.first()) != Some(&Some("f".to_owned())) {
            return Err(ReplicationError::Connect(io::Error::other(
                "the server is a standby",
            )));
        }
        let rows = self.query(STEP, "IDENTIFY_SYSTEM").await?;
        let text = |place: usize| {
            let row = rows.first()?;
            row.get(place)?.as_deref()
        };
        self.lineage = Lineage {
            system_id: text(0)
                .and_then(|id| id.parse().ok())
                .ok_or_else(unreadable)?,
            timeline: text(1)
                .and_then(|id| id.parse().ok())
                .ok_or_else(unreadable)?,
        };
        Ok(())
    }

    /// The history that the server continues.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// Begins to follow a slot from where it was last confirmed. The name is one of ours, of letters and underscores; the
    /// options are those of its plugin.
    pub async fn follow(
        &mut self,
        slot: &str,
        options: &[(&str, &str)],
    ) -> Result<(), ReplicationError> {
        const STEP: &str = "beginning to follow a slot";
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{name} '{}'", value.replace('\'', "''")))
            .collect();
        let slot = slot.replace('"', "\"\"");
        let command = format!(
            "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 ({})",
            options.join(", ")
        );
        self.send_query(STEP, &command).await?;
        loop {
            let Frame { tag, body } = self.frame().await?;
            match tag {
                b'W' => return Ok(()),
                b'E' => return Err(ServerError::refusal(STEP, &body)),
                b'N' | b'S' | b'K' => {}
                other => return Err(ReplicationError::protocol(STEP, frame::name(other))),
            }
        }
    }

    /// What comes next. Can be dropped at any time without losing anything.
    pub async fn receive(&mut self) -> Result<Received, ReplicationError> {
        loop {
            if let Some(received) = self.receive_now()? {
                return Ok(received);
            }
            self.fill().await?;
        }
    }

    /// What comes next, if it is here already.
    pub fn receive_now(&mut self) -> Result<Option<Received>, ReplicationError> {
        const STEP: &str = "following a slot";
        while let Some(Frame { tag, body }) = take_frame(&mut self.buffer)? {
            match tag {
                b'd' => return read_copy_data(body).map(Some),
                b'E' => return Err(ServerError::refusal(STEP, &body)),
                b'c' => return Ok(Some(Received::End)),
                b'N' | b'S' | b'C' | b'Z' => {}
                other => return Err(ReplicationError::protocol(STEP, frame::name(other))),
            }
        }
        Ok(None)
    }

    /// Tells the server that we live, and that the slot may forget what ends at or before this position. Where an answer is
    /// wanted, one follows in what is received.
    pub async fn confirm(
        &mut self,
        position: Lsn,
        wants_answer: bool,
    ) -> Result<(), ReplicationError> {
        let mut status = Vec::with_capacity(34);
        status.push(b'r');
        // Written, flushed, applied: the slot goes by the second.
        for _ in 0..3 {
            status.extend(position.0.to_be_bytes());
        }
        status.extend(clock().to_be_bytes());
        status.push(u8::from(wants_answer));
        let mut out = BytesMut::new();
        frontend::CopyData::new(status.as_slice())
            .map_err(ReplicationError::Broken)?
            .write(&mut out);
        self.send(&out).await
    }

    /// Ends the stream in good order, so that the server has read the last confirmation when this returns.
    pub async fn end(mut self) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        self.send(&out).await?;
        loop {
            let Frame { tag, body } = self.frame().await?;
            match tag {
                // The end of the command: what we sent before it was read.
                b'Z' => return Ok(()),
                b'E' => return Err(ServerError::refusal("ending a stream", &body)),
                _ => {}
            }
        }
    }

    /// Runs a statement or command whose answer is text.
    async fn query(
        &mut self,
        step: &'static str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        self.send_query(step, sql).await?;
        let mut rows = Vec::new();
        let mut refusal = None;
        loop {
            let Frame { tag, body } = self.frame().await?;
            match tag {
                b'D' => rows.push(
                    frame::read_row(body)
                        .ok_or_else(|| ReplicationError::protocol(step, "an unreadable row"))?,
                ),
                b'E' => refusal = Some(ServerError::refusal(step, &body)),
                b'Z' => return refusal.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    async fn send_query(&mut self, step: &'static str, sql: &str) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)
            .map_err(|_| ReplicationError::protocol(step, "nothing: a name has a zero byte"))?;
        self.send(&out).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ReplicationError> {
        let sent = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        sent.await.map_err(ReplicationError::Broken)
    }

    async fn frame(&mut self) -> Result<Frame, ReplicationError> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ReplicationError> {
        self.buffer.reserve(READ_BYTES);
        let read = self.socket.read_buf(&mut self.buffer).await;
        match read.map_err(ReplicationError::Broken)? {
            0 => Err(ReplicationError::Broken(
                io::ErrorKind::UnexpectedEof.into(),
            )),
            _ => Ok(()),
        }
    }
}

fn read_copy_data(mut body: Bytes) -> Result<Received, ReplicationError> {
    const STEP: &str = "following a slot";
    let short = || ReplicationError::protocol(STEP, "a message that is cut short");
    match body.first() {
        Some(b'w') if body.len() >= 25 => Ok(Received::Message(body.split_off(25))),
        Some(b'k') if body.len() >= 18 => {
            body.advance(1);
            Ok(Received::Alive {
                read_to: Lsn(body.get_u64()),
                clock: body.get_i64(),
                must_answer: body.get_u8() != 0,
            })
        }
        Some(b'w' | b'k') | None => Err(short()),
        Some(other) => Err(ReplicationError::protocol(STEP, frame::name(*other))),
    }
}

/// Our clock as the protocol has it. It is for the server's statistics alone.
fn clock() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX) - EPOCH_MICROS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_slot_sends_is_told_apart() {
        let mut message = vec![b'w'];
        message.extend([0; 24]);
        message.extend(b"Bxy");
        let mut alive = vec![b'k'];
        alive.extend(7u64.to_be_bytes());
        alive.extend(9i64.to_be_bytes());
        alive.push(1);
        assert_eq!(
            read_copy_data(Bytes::from(message.clone())).expect("a message"),
            Received::Message(Bytes::from_static(b"Bxy"))
        );
        assert_eq!(
            read_copy_data(Bytes::from(alive.clone())).expect("a sign of life"),
            Received::Alive {
                read_to: Lsn(7),
                clock: 9,
                must_answer: true
            }
        );
        for cut in [
            &message[..24],
            &message[..1],
            &alive[..17],
            &[][..],
            &b"x"[..],
        ] {
            assert!(
                read_copy_data(Bytes::copy_from_slice(cut)).is_err(),
                "{cut:?}"
            );
        }
    }
}
