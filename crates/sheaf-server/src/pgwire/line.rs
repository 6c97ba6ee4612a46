//! A connection: whole messages in, bytes out, with bounds on size and time in both directions.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::reply::Outbox;
use crate::stalled::Stalled;

/// What goes through a connection, encrypted or not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Bytes of the first message and of a password, as in PostgreSQL. Before the login nobody is known, and more is nobody's need.
pub(super) const LOGIN_BYTES_MAX: usize = 10_000;
/// Bytes of a message: a question of its longest text and its longest parameters, each said twice.
pub(super) const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a message that is too long and is read and thrown away, so that its sender is told and can go on.
const THROWN_BYTES_MAX: usize = 16 << 20;
/// How long a message may take once it has begun. Longer lets a slow sender hold its memory.
const MESSAGE_WITHIN: Duration = Duration::from_secs(30);
/// Bytes that are sent at once.
const SEND_BYTES: usize = 64 * 1024;
/// Bytes that are read at once.
const READ_BYTES: usize = 8 * 1024;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A message of a kind.
    Message(u8, BytesMut),
    /// One of a kind that was too long, and is gone.
    TooLong(u8),
}

/// Why nothing comes any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// The other side is gone.
    #[error("the connection ended")]
    Ended,
    /// Nothing came for as long as anybody waits. What comes later is whole.
    #[error("nothing came in time")]
    Idle,
    /// A message that had begun did not end in time.
    #[error("a message did not end in time")]
    Slow,
    /// A length that no message has.
    #[error("a message has an impossible length")]
    Length,
    /// The operating system says so.
    #[error("using the connection")]
    Io(#[from] io::Error),
}

/// A connection.
pub(super) struct Line {
    stream: Stalled<Box<dyn Stream>>,
    inbox: BytesMut,
    pub(super) out: Outbox,
}

impl Line {
    /// One whose other side may take nothing for so long.
    pub(super) fn new(stream: Box<dyn Stream>, taken_within: Duration) -> Line {
        Line {
            stream: Stalled::new(stream, taken_within),
            inbox: BytesMut::new(),
            out: Outbox::default(),
        }
    }

    /// The same connection once it is encrypted. What came before that in clear was not part of it.
    pub(super) fn into_stream(self) -> Option<Box<dyn Stream>> {
        self.inbox.is_empty().then(|| self.stream.into_inner())
    }

    /// The first message, which has no kind.
    pub(super) async fn opening(&mut self, until: Instant) -> Result<BytesMut, LineError> {
        self.need(4, until).await?;
        let length = length_of(&self.inbox[..4])?;
        if length > LOGIN_BYTES_MAX {
            return Err(LineError::Length);
        }
        self.need(4 + length, until).await?;
        self.inbox.advance(4);
        Ok(self.inbox.split_to(length))
    }

    /// The next message. It has `until` to begin, and some time from then on.
    pub(super) async fn next(
        &mut self,
        bytes_max: usize,
        until: Instant,
    ) -> Result<Incoming, LineError> {
        if self.inbox.is_empty() {
            self.need(1, until).await?;
        }
        let rest = self.whole(bytes_max, Instant::now() + MESSAGE_WITHIN);
        rest.await.map_err(|error| match error {
            LineError::Idle => LineError::Slow,
            error => error,
        })
    }

    /// A message that has to be whole by `until`.
    pub(super) async fn whole(
        &mut self,
        bytes_max: usize,
        until: Instant,
    ) -> Result<Incoming, LineError> {
        self.need(5, until).await?;
        let kind = self.inbox[0];
        let length = length_of(&self.inbox[1..5])?;
        if length > bytes_max {
            self.throw_away(length, until).await?;
            return Ok(Incoming::TooLong(kind));
        }
        self.need(5 + length, until).await?;
        self.inbox.advance(5);
        Ok(Incoming::Message(kind, self.inbox.split_to(length)))
    }

    async fn throw_away(&mut self, length: usize, until: Instant) -> Result<(), LineError> {
        if length > THROWN_BYTES_MAX {
            return Err(LineError::Length);
        }
        let mut left = 5 + length;
        loop {
            let here = left.min(self.inbox.len());
            self.inbox.advance(here);
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.need(1, until).await?;
        }
    }

    /// Waits until so many bytes are there.
    async fn need(&mut self, count: usize, until: Instant) -> Result<(), LineError> {
        while self.inbox.len() < count {
            match timeout_at(until, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Err(LineError::Idle),
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), LineError> {
        self.inbox.reserve(READ_BYTES);
        let mut room = (&mut self.inbox).limit(READ_BYTES);
        match self.stream.read_buf(&mut room).await? {
            0 => Err(LineError::Ended),
            _ => Ok(()),
        }
    }

    /// Ends when the other side does: while something is computed for it. What it sends meanwhile is kept, up to a bound.
    pub(super) async fn gone(&mut self) -> LineError {
        while self.inbox.len() < MESSAGE_BYTES_MAX {
            if let Err(error) = self.read().await {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Sends what there is once it is worth it.
    pub(super) async fn send_some(&mut self) -> Result<(), LineError> {
        if self.out.len() >= SEND_BYTES {
            self.send().await?;
        }
        Ok(())
    }

    /// Sends what there is.
    pub(super) async fn send(&mut self) -> Result<(), LineError> {
        let bytes = self.out.take();
        if !bytes.is_empty() {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await?;
        }
        Ok(())
    }

    /// Sends what there is, and that nothing follows.
    pub(super) async fn close(&mut self) {
        // It may be gone already, which is as well.
        if self.send().await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// The bytes after a length, which counts itself.
fn length_of(bytes: &[u8]) -> Result<usize, LineError> {
    let length = bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let length = length.and_then(|length| length.checked_sub(4));
    let length = length.filter(|length| *length < 1 << 30);
    length
        .and_then(|length| usize::try_from(length).ok())
        .ok_or(LineError::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn line(io: tokio::io::DuplexStream) -> Line {
        Line::new(Box::new(io), Duration::from_secs(60))
    }

    #[tokio::test]
    async fn messages_come_whole_and_one_that_is_too_long_leaves_the_next_as_it_is() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let mut line = line(ours);
        let sender = tokio::spawn(async move {
            theirs.write_all(b"\0\0\0\x08\0\x03\0\0").await?;
            theirs.write_all(b"Q\0\0\0\x06ab").await?;
            theirs.write_all(b"Q\0\0\x04\x04").await?;
            theirs.write_all(&[b'x'; 1024]).await?;
            theirs.write_all(b"S\0\0\0\x04X\0\0").await
        });
        assert_eq!(&line.opening(soon()).await.expect("one")[..], b"\0\x03\0\0");
        let next = line.next(16, soon()).await.expect("one");
        assert_eq!(next, Incoming::Message(b'Q', BytesMut::from(&b"ab"[..])));
        let thrown = line.next(16, soon()).await.expect("one");
        assert_eq!(thrown, Incoming::TooLong(b'Q'));
        assert!(line.inbox.capacity() < 4 * READ_BYTES, "it is not kept");
        let next = line.next(16, soon()).await.expect("one");
        assert_eq!(next, Incoming::Message(b'S', BytesMut::new()));
        assert!(sender.await.expect("a task").is_ok());
        let cut = line.next(16, soon()).await;
        assert!(matches!(cut, Err(LineError::Ended)), "{cut:?}");
    }

    #[tokio::test]
    async fn a_message_that_has_to_be_whole_by_a_time_gets_none_for_having_begun() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        theirs.write_all(b"p\0\0").await.expect("room");
        let begun = Instant::now();
        let login = line(ours)
            .whole(16, begun + Duration::from_millis(50))
            .await;
        assert!(matches!(login, Err(LineError::Idle)), "{login:?}");
        assert!(begun.elapsed() < MESSAGE_WITHIN);
    }

    #[tokio::test]
    async fn lengths_that_no_message_has_end_it_and_nothing_is_set_aside_for_them() {
        for bytes in [
            &b"Q\xff\xff\xff\xff"[..],
            b"Q\0\0\0\x03",
            b"Q\x3f\xff\xff\xff",
        ] {
            let (mut theirs, ours) = tokio::io::duplex(64);
            let mut line = line(ours);
            theirs.write_all(bytes).await.expect("room");
            let next = line.next(16, soon()).await;
            assert!(matches!(next, Err(LineError::Length)), "{next:?}");
            assert!(line.inbox.capacity() < 4 * READ_BYTES);
        }
        let (mut theirs, ours) = tokio::io::duplex(64);
        theirs.write_all(b"\0\0\x30\0").await.expect("room");
        let opening = line(ours).opening(soon()).await;
        assert!(matches!(opening, Err(LineError::Length)), "{opening:?}");
    }
}
