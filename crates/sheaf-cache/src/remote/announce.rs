//! What is sent to Redis without anybody waiting for it: values to share, and announcements. An announcement is kept until
//! Redis has taken it, so that one that stands still for some seconds costs the other servers nothing that they remember.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::{JOBS_MAX, Job, Jobs, Link, Remote};
use crate::cache::Inner;
use crate::seal::{Content, ORDER_BYTES};

/// Jobs of one round trip.
const TOGETHER_MAX: usize = 128;
/// How long a round trip may take.
const SENT_MAX: Duration = Duration::from_secs(1);
/// How long after announcements were not taken they are sent again, where nothing else is sent before.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What announcements that Redis has not taken may take. Beyond, they become one that says that anything may have been
/// written, and the other servers forget all they remember.
const UNSENT_BYTES_MAX: usize = 8 << 20;
/// Keeps what is there if it is newer, by what both begin with. What is of another kind is replaced. One key, and nothing that
/// a script may not do on a replica of it.
const PUT: &str = "\
local held = redis.pcall('GETRANGE', KEYS[1], 0, ARGV[3] - 1) \
if type(held) == 'string' and held > string.sub(ARGV[1], 1, ARGV[3]) then return 0 end \
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) \
return 1";

/// Announcements that Redis has not taken yet, in their order.
#[derive(Default)]
struct Unsent {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Unsent {
    fn push(&mut self, message: Vec<u8>) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    /// Those of the next round trip were taken.
    fn taken(&mut self) {
        for message in self.messages.drain(..self.messages.len().min(TOGETHER_MAX)) {
            self.bytes -= message.len();
        }
    }

    /// Nobody can say any more what they were: the one message says so.
    fn replace(&mut self, message: Vec<u8>) {
        *self = Unsent::default();
        self.push(message);
    }
}

/// Does jobs until told to stop, and then those that wait already, as long as one round trip may take: writes that were
/// acknowledged are not to be shown late by the others because this server ends.
pub(super) async fn work(cache: Arc<Inner>, mut jobs: Jobs, mut stop: watch::Receiver<bool>) {
    let remote = cache
        .remote()
        .expect("invariant: started for a cache that has a redis");
    let mut some = Vec::with_capacity(TOGETHER_MAX);
    let mut unsent = Unsent::default();
    loop {
        tokio::select! {
            count = jobs.0.recv_many(&mut some, TOGETHER_MAX) => if count == 0 { return },
            () = remote.linked.notified() => {}
            () = tokio::time::sleep(AGAIN_AFTER), if !unsent.messages.is_empty() => {}
            _ = stop.wait_for(|stopped| *stopped) => break,
        }
        send(remote, &mut some, &mut unsent).await;
    }
    jobs.0.close();
    let rest = async {
        while jobs.0.recv_many(&mut some, JOBS_MAX).await > 0 {}
        send(remote, &mut some, &mut unsent).await;
    };
    if tokio::time::timeout(SENT_MAX, rest).await.is_err() {
        tracing::debug!("redis did not take the last announcements in time");
    }
}

/// Sends jobs, and announcements from before. Values that cannot be sent now are not shared.
async fn send(remote: &Remote, jobs: &mut Vec<Job>, unsent: &mut Unsent) {
    let mut values = redis::pipe();
    for job in jobs.drain(..) {
        match job {
            Job::Put { key, value } => {
                let ttl = u64::try_from(remote.ttl.as_millis()).unwrap_or(u64::MAX);
                let command = values.cmd("EVAL").arg(PUT).arg(1).arg(key);
                command.arg(value).arg(ttl.max(1)).arg(ORDER_BYTES).ignore();
            }
            Job::Remove { key } => {
                values.cmd("DEL").arg(key).ignore();
            }
            Job::Announce { message } => unsent.push(message),
        }
    }
    let were_dropped = remote.is_unheard.swap(false, Ordering::AcqRel);
    if were_dropped || unsent.bytes > UNSENT_BYTES_MAX {
        unsent.replace(remote.message(Content::Anything));
    }
    let Some(mut link) = remote.link() else {
        return;
    };
    // A full Redis refuses values and passes on messages: one must not fail with the other.
    let channel = remote.keys.channel();
    while !unsent.messages.is_empty() {
        let mut messages = redis::pipe();
        for message in unsent.messages.iter().take(TOGETHER_MAX) {
            let command = messages.cmd("PUBLISH").arg(&channel);
            command.arg(message.as_slice()).ignore();
        }
        if !sent(&messages, &mut link).await {
            return;
        }
        unsent.taken();
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
