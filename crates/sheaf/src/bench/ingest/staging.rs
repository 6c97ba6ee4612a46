//! Writing by hand through PostgreSQL alone: one connection copies texts, and perhaps another moves on what is staged.

use anyhow::Result;
use futures::SinkExt;
use hyper::body::Bytes;
use std::time::Instant;

use super::load::Done;
use crate::bench::plot::Sample;
use crate::bench::world::World;

/// A text for COPY, and how many values it holds.
pub(super) struct Text {
    pub(super) text: Bytes,
    pub(super) values: f64,
}

/// Copies texts one after the other, each in a transaction of its own. With a statement that moves on what is staged,
/// that one runs beside it again and again, commits are asynchronous, and the work ends when nothing is staged any more;
/// without, commits are durable.
pub(super) async fn write(
    world: &World,
    texts: Vec<Text>,
    copy: &str,
    flush: Option<&str>,
) -> Result<Done> {
    let (writer, flusher) = (world.superuser().await?, world.superuser().await?);
    if flush.is_some() {
        for client in [&writer, &flusher] {
            client.batch_execute("SET synchronous_commit = off").await?;
        }
    }
    let (wake, mut staged) = tokio::sync::watch::channel(());
    let begun = Instant::now();
    let write = async move {
        let mut samples = Vec::with_capacity(texts.len());
        for Text { text, values } in texts {
            let due = Instant::now();
            let sink = writer.copy_in::<_, Bytes>(copy).await?;
            let mut sink = std::pin::pin!(sink);
            sink.send(text).await?;
            sink.finish().await?;
            samples.push(Sample {
                at: begun.elapsed().as_secs_f64(),
                milliseconds: due.elapsed().as_secs_f64() * 1000.0,
                weight: values,
            });
            wake.send_replace(());
        }
        anyhow::Ok(samples)
    };
    let flush = async {
        let Some(flush) = flush else {
            return anyhow::Ok(());
        };
        // Fails when the writer is gone, after which one more flush takes what it left.
        while staged.changed().await.is_ok() {
            flusher.batch_execute(flush).await?;
        }
        Ok(flusher.batch_execute(flush).await?)
    };
    let (samples, flushed) = tokio::join!(write, flush);
    flushed?;
    Ok(Done {
        seconds: begun.elapsed().as_secs_f64(),
        samples: samples?,
    })
}
