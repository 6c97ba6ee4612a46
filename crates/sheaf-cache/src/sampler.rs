//! Samples: of the answers from memory, one in so many is compared with the primary, and the share that was behind is
//! told. It measures what the freshness of answers claims.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::instruments::{SAMPLES_TOTAL, STALE_RATIO};

/// Samples that the ratio is of.
const WINDOW: usize = 1_000;

pub(crate) struct Sampler {
    every: u64,
    answers: AtomicU64,
    /// One comparison at a time: a sampler never becomes a load.
    free: Arc<Semaphore>,
    window: Arc<Mutex<VecDeque<bool>>>,
}

/// An answer that is to be compared with the primary.
#[derive(Debug)]
pub struct Sample {
    version: i64,
    window: Arc<Mutex<VecDeque<bool>>>,
    _permit: OwnedSemaphorePermit,
}

impl Sampler {
    pub(crate) fn new(every: u64) -> Sampler {
        Sampler {
            every: every.max(1),
            answers: AtomicU64::new(0),
            free: Arc::new(Semaphore::new(1)),
            window: Arc::default(),
        }
    }

    /// Counts an answer of this version, and takes it as a sample if its turn has come.
    pub(crate) fn claim(&self, version: i64) -> Option<Sample> {
        let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        if !number.is_multiple_of(self.every) {
            return None;
        }
        Some(Sample {
            version,
            window: Arc::clone(&self.window),
            _permit: Arc::clone(&self.free).try_acquire_owned().ok()?,
        })
    }
}

impl Sample {
    /// The primary has this version now.
    pub fn compare(self, current: i64) {
        let is_stale = current > self.version;
        let result = if is_stale { "stale" } else { "fresh" };
        metrics::counter!(SAMPLES_TOTAL, "result" => result).increment(1);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.len() == WINDOW {
            window.pop_front();
        }
        window.push_back(is_stale);
        metrics::gauge!(STALE_RATIO).set(ratio(&window));
    }
}

fn ratio(window: &VecDeque<bool>) -> f64 {
    let stale = window.iter().filter(|is_stale| **is_stale).count();
    stale as f64 / window.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_in_so_many_is_compared_and_one_at_a_time() {
        let sampler = Sampler::new(3);
        assert!(sampler.claim(1).is_none() && sampler.claim(1).is_none());
        let sample = sampler.claim(1).expect("the third");
        let further: Vec<_> = (0..3).filter_map(|_| sampler.claim(2)).collect();
        assert!(further.is_empty(), "another comparison is running");
        sample.compare(2);
        let sample = (0..3).find_map(|_| sampler.claim(2)).expect("the ninth");
        sample.compare(2);
        let window = sampler.window.lock().expect("not poisoned");
        assert_eq!(ratio(&window), 0.5);
    }
}
