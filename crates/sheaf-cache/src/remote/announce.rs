//! What is sent to Redis without anybody waiting for it: values to share, and announcements.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::{Job, Jobs, Link, Remote};
use crate::cache::Inner;
use crate::seal::{Content, ORDER_BYTES};

/// Jobs of one round trip.
const TOGETHER_MAX: usize = 128;
/// How long a round trip may take.
const SENT_MAX: Duration = Duration::from_secs(1);
/// Keeps what is there if it is newer, by what both begin with. One key, and nothing that a script may not do on a replica
/// of it.
const PUT: &str = "\
if redis.call('GETRANGE', KEYS[1], 0, ARGV[3] - 1) > string.sub(ARGV[1], 1, ARGV[3]) then return 0 end \
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) \
return 1";

/// Does jobs until told to stop.
pub(super) async fn work(cache: Arc<Inner>, mut jobs: Jobs, mut stop: watch::Receiver<bool>) {
    let remote = cache
        .remote()
        .expect("invariant: started for a cache that has a redis");
    let mut some = Vec::with_capacity(TOGETHER_MAX);
    loop {
        tokio::select! {
            count = jobs.0.recv_many(&mut some, TOGETHER_MAX) => if count == 0 { return },
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
        send(remote, &some).await;
        some.clear();
    }
}

async fn send(remote: &Remote, jobs: &[Job]) {
    let announces = jobs.iter().any(|job| matches!(job, Job::Announce { .. }));
    let Some(mut link) = remote.link() else {
        remote.is_unheard.fetch_or(announces, Ordering::AcqRel);
        return;
    };
    let was_unheard = remote.is_unheard.swap(false, Ordering::AcqRel);
    let channel = remote.keys.channel();
    // A full Redis refuses values and passes on messages: one must not fail with the other.
    let (mut messages, mut values) = (redis::pipe(), redis::pipe());
    let mut publish = |message: &[u8]| {
        let command = messages.cmd("PUBLISH").arg(&channel);
        command.arg(message).ignore();
    };
    if was_unheard {
        publish(&remote.message(Content::Anything));
    }
    for job in jobs {
        match job {
            Job::Put { key, value } => {
                let ttl = u64::try_from(remote.ttl.as_millis()).unwrap_or(u64::MAX);
                let command = values.cmd("EVAL").arg(PUT).arg(1).arg(key);
                command.arg(value).arg(ttl.max(1)).arg(ORDER_BYTES).ignore();
            }
            Job::Remove { key } => {
                values.cmd("DEL").arg(key).ignore();
            }
            Job::Announce { message } => publish(message),
        }
    }
    if (announces || was_unheard) && !sent(&messages, &mut link).await {
        remote.is_unheard.store(true, Ordering::Release);
    }
    if !values.is_empty() {
        sent(&values, &mut link).await;
    }
}

/// Whether Redis has taken all of it.
async fn sent(commands: &redis::Pipeline, link: &mut Link) -> bool {
    let answer = commands.query_async::<()>(&mut link.connection);
    match tokio::time::timeout(SENT_MAX, answer).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "redis did not take what was sent");
            false
        }
        Err(_) => false,
    }
}
