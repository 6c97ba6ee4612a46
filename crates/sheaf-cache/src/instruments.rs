//! What the cache counts.

use metrics::{Counter, Gauge};

/// Reads by how they ended: hit, negative (not found, from memory), miss, stale (there and not fresh enough), bypass.
pub const REQUESTS_TOTAL: &str = "sheaf_cache_requests_total";
/// Answers of sources that were not remembered, because something was written meanwhile or their age is not known.
pub const REFUSED_TOTAL: &str = "sheaf_cache_refused_fills_total";
/// How often everything was forgotten, because writes may have gone unnoticed.
pub const LOST_TOTAL: &str = "sheaf_cache_losses_total";
/// Bytes of remembered values in this process.
pub const BYTES: &str = "sheaf_cache_bytes";
/// Answers from memory that were compared with the primary, by what was found: fresh or stale.
pub const SAMPLES_TOTAL: &str = "sheaf_cache_samples_total";
/// The share of the last thousand samples that were stale.
pub const STALE_RATIO: &str = "sheaf_cache_stale_ratio";
/// Requests to Redis by how they ended: hit, miss, invalid, timeout, error, skipped.
pub const REDIS_TOTAL: &str = "sheaf_cache_redis_requests_total";
/// Whether Redis is connected, for requests and for announcements.
pub const REDIS_UP: &str = "sheaf_cache_redis_up";

/// How a request to Redis can end.
pub const REDIS_RESULTS: [&str; 6] = ["hit", "miss", "invalid", "timeout", "error", "skipped"];

/// The instruments of every read, found once.
pub(crate) struct Counted {
    hit: Counter,
    negative: Counter,
    miss: Counter,
    stale: Counter,
    bypass: Counter,
    refused: Counter,
    losses: Counter,
    bytes: Gauge,
}

impl Counted {
    pub(crate) fn new() -> Counted {
        let requests = |result: &'static str| {
            let counter = metrics::counter!(REQUESTS_TOTAL, "result" => result);
            counter.absolute(0);
            counter
        };
        for result in ["fresh", "stale"] {
            metrics::counter!(SAMPLES_TOTAL, "result" => result).absolute(0);
        }
        Counted {
            hit: requests("hit"),
            negative: requests("negative"),
            miss: requests("miss"),
            stale: requests("stale"),
            bypass: requests("bypass"),
            refused: metrics::counter!(REFUSED_TOTAL),
            losses: metrics::counter!(LOST_TOTAL),
            bytes: metrics::gauge!(BYTES),
        }
    }

    pub(crate) fn answered(&self, is_found: bool) {
        if is_found {
            self.hit.increment(1);
        } else {
            self.negative.increment(1);
        }
    }

    pub(crate) fn asked(&self, was_known: bool) {
        if was_known {
            self.stale.increment(1);
        } else {
            self.miss.increment(1);
        }
    }

    pub(crate) fn bypassed(&self) {
        self.bypass.increment(1);
    }

    pub(crate) fn refused(&self) {
        self.refused.increment(1);
    }

    pub(crate) fn lost(&self) {
        self.losses.increment(1);
    }

    pub(crate) fn holds(&self, bytes: u64) {
        self.bytes.set(bytes as f64);
    }
}
