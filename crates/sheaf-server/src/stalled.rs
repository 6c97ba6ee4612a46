//! A connection whose other side takes nothing, or next to nothing, is ended: it would hold what is being sent to it for as long
//! as it liked.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes that must be taken within the time. Fewer hold an answer for as long as somebody likes, a byte at a time; more cut off
/// lines on which a page is read by a person.
const BYTES_MIN: usize = 10 * 1024;

/// A connection that may wait only so long to be rid of bytes.
pub(crate) struct Stalled<T> {
    inner: T,
    taken_within: Duration,
    /// Runs from when something had to wait until enough was taken, or all of it.
    patience: Option<Pin<Box<Sleep>>>,
    /// Bytes that were taken since it runs.
    taken: usize,
}

impl<T> Stalled<T> {
    pub(crate) fn new(inner: T, taken_within: Duration) -> Stalled<T> {
        Stalled {
            inner,
            taken_within,
            patience: None,
            taken: 0,
        }
    }

    /// The connection alone.
    pub(crate) fn into_inner(self) -> T {
        self.inner
    }

    /// Passes on how a write went; an error where too little has gone anywhere for too long.
    fn judge_write(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.taken = self.taken.saturating_add(*written.as_ref().unwrap_or(&0));
            if self.taken >= BYTES_MIN {
                self.patience = None;
            }
            return Poll::Ready(written);
        }
        self.lose_patience(context)
    }

    /// The same of what ends with everything taken.
    fn judge_end(
        &mut self,
        context: &mut Context<'_>,
        ended: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if ended.is_ready() {
            self.patience = None;
            return ended;
        }
        self.lose_patience(context)
    }

    fn lose_patience<R>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<R>> {
        if self.patience.is_none() {
            self.taken = 0;
        }
        let taken_within = self.taken_within;
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(taken_within)));
        patience.as_mut().poll(context).map(|()| {
            let over = "the other side took too little for too long";
            Err(io::Error::new(io::ErrorKind::TimedOut, over))
        })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stalled<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stalled<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.judge_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.judge_end(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.judge_end(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_side_that_takes_next_to_nothing_ends_the_connection_and_one_that_is_slow_does_not() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Stalled::new(ours, Duration::from_millis(50));
        let error = ours.write_all(&[0; 64]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let mut taken = [0; 4];
        theirs.read_exact(&mut taken).await.expect("what was sent");

        // A byte at a time is no reading.
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Stalled::new(ours, Duration::from_millis(50));
        let trickle = tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let error = ours.write_all(&vec![0; BYTES_MIN]).await;
        let kind = error.expect_err("next to nothing is read").kind();
        assert_eq!(kind, io::ErrorKind::TimedOut);
        trickle.abort();

        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Stalled::new(ours, Duration::from_secs(60));
        let begun = Instant::now();
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all.len())
        });
        ours.write_all(&[0; 64]).await.expect("somebody reads");
        drop(ours);
        assert_eq!(reader.await.expect("a task").expect("all of it"), 64);
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
