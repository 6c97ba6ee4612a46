//! The interval of new partitions follows the rate: the indexes of the newest partition are what every write touches, and
//! they shall fit in a stated share of the server's memory.
//!
//! Only partitions that are made from now on are meant; those that are there keep their bounds. How many may be attached
//! is not decided here: the function that makes them widens the interval near that bound, and a gauge says when it does.

use metrics::{counter, gauge};
use sheaf_model::Timestamp;
use sheaf_pg::{PgError, Pool};
use sheaf_store::interval::{
    IntervalDecision, NewInterval, PartitionInterval, decide_interval, read_interval,
};
use sheaf_store::maintenance::{MeasuredPartition, measure_partitions};

/// How wide new partitions are.
const INTERVAL_SECONDS: &str = "sheaf_partition_interval_seconds";
/// Whether too many partitions are attached for the interval that the rate asks for: 1, else 0.
const INTERVAL_BOUNDED: &str = "sheaf_partition_interval_bounded";
/// How often the interval that the rate asks for was changed by this server.
pub const INTERVAL_CHANGES_TOTAL: &str = "sheaf_partition_interval_changes_total";
/// How many partitions the history has.
const PARTITIONS_ATTACHED: &str = "sheaf_partitions_attached";
/// What the indexes of the newest partition with rows take.
const NEWEST_INDEX_BYTES: &str = "sheaf_partition_newest_index_bytes";

/// Fewer rows say little: a B-tree of them is a few pages, most of them half empty.
const ROWS_LEAST: i64 = 10_000;
/// A partition that has just begun has no rate yet. A quarter of the narrowest interval, so that hours have one.
const ELAPSED_LEAST_MICROS: i64 = 900_000_000;
/// Narrower only if the indexes would exceed the memory by a quarter, wider only if they would fill less than half of it:
/// the steps between intervals are factors of four to seven, so that a rate near a bound changes nothing.
const NARROWER_ABOVE: f64 = 1.25;
const WIDER_BELOW: f64 = 0.5;

/// What was measured of the newest partitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Rows a second of the time that they hold.
    pub rows_per_second: f64,
    /// What the indexes of a row take.
    pub index_bytes_per_row: f64,
}

/// What follows from a measurement.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The interval stays.
    Keep,
    /// New partitions get another.
    Change {
        /// Which.
        to: PartitionInterval,
        /// Why, for people.
        reason: String,
    },
}

/// Decides on the interval. `decided_at` is when the current one was decided, absent if nobody has.
pub fn decide(
    measured: Option<Measured>,
    memory_bytes: i64,
    current: PartitionInterval,
    decided_at: Option<Timestamp>,
    now: Timestamp,
) -> Decision {
    let Some(measured) = measured else {
        return Decision::Keep;
    };
    let memory = as_float(memory_bytes);
    let projected = |interval: PartitionInterval| {
        let seconds = as_float(interval.micros_max()) / 1e6;
        measured.rows_per_second * seconds * measured.index_bytes_per_row
    };
    let widest = |share: f64| {
        let fits = |interval: &PartitionInterval| projected(*interval) <= memory * share;
        PartitionInterval::ALL.into_iter().rev().find(fits)
    };
    let reason = |to: PartitionInterval| {
        format!(
            "{:.1} rows a second with {:.0} bytes of index each make {:.0} MB a {}, {:.0} MB a {}, and {:.0} MB may be used",
            measured.rows_per_second,
            measured.index_bytes_per_row,
            projected(current) / 1e6,
            current.as_str(),
            projected(to) / 1e6,
            to.as_str(),
            memory / 1e6,
        )
    };
    let to = if projected(current) > memory * NARROWER_ABOVE {
        widest(1.0).unwrap_or(PartitionInterval::Hour)
    } else {
        // One measurement a decision: the partitions of the last one must have shown what they hold.
        let has_rested = decided_at
            .is_none_or(|decided_at| now >= decided_at.saturating_add_micros(current.micros_max()));
        match widest(WIDER_BELOW) {
            Some(wider) if wider > current && has_rested => wider,
            Some(_) | None => current,
        }
    };
    if to == current {
        return Decision::Keep;
    }
    Decision::Change {
        to,
        reason: reason(to),
    }
}

/// The rate of the newest partitions: that of now, if it has been filled for long enough, and the one before it. The higher
/// rate counts, so that a quiet hour does not widen what the busy one needed.
pub fn measure(partitions: &[MeasuredPartition], now: Timestamp) -> Option<Measured> {
    let begun = partitions
        .iter()
        .filter(|measured| measured.partition.lower <= now);
    let mut found: Option<Measured> = None;
    for measured in begun.rev().take(2) {
        let (lower, upper) = (measured.partition.lower, measured.partition.upper);
        let elapsed = upper.min(now).as_micros() - lower.as_micros();
        let Some(rows) = measured.row_estimate else {
            continue;
        };
        if rows < ROWS_LEAST || elapsed < ELAPSED_LEAST_MICROS {
            continue;
        }
        let rows_per_second = as_float(rows) / (as_float(elapsed) / 1e6);
        if found.is_none_or(|found| rows_per_second > found.rows_per_second) {
            found = Some(Measured {
                rows_per_second,
                index_bytes_per_row: as_float(measured.index_bytes) / as_float(rows),
            });
        }
    }
    found
}

/// Measures, decides and records. `memory_percent` is the share of the server's shared memory that the indexes of the newest
/// partition may take. Gives back the interval of new partitions, as the number of them lets it be.
pub async fn reconcile_interval(
    upkeep: &Pool,
    memory_percent: u32,
    now: Timestamp,
) -> Result<PartitionInterval, PgError> {
    let seen = read_interval(upkeep).await?;
    let partitions = measure_partitions(upkeep).await?;
    let memory_bytes = seen.shared_bytes / 100 * i64::from(memory_percent);
    let measured = measure(&partitions, now);
    let decision = decide(measured, memory_bytes, seen.interval, seen.decided_at, now);
    let is_recorded = match (decision, measured) {
        (Decision::Change { to, reason }, Some(measured)) => {
            let new = NewInterval {
                interval: to,
                reason,
                rows_per_second: measured.rows_per_second,
                index_bytes_per_row: measured.index_bytes_per_row,
                memory_bytes,
            };
            record(upkeep, &seen, &new, now).await?
        }
        (Decision::Keep | Decision::Change { .. }, _) => false,
    };
    let current = match is_recorded {
        true => read_interval(upkeep).await?,
        false => seen,
    };
    tell(&partitions, &current, now);
    Ok(current.bounded)
}

async fn record(
    upkeep: &Pool,
    seen: &IntervalDecision,
    new: &NewInterval,
    now: Timestamp,
) -> Result<bool, PgError> {
    if !decide_interval(upkeep, seen, new, now).await? {
        // Another server has decided since; its decision is seen in the next round.
        return Ok(false);
    }
    counter!(INTERVAL_CHANGES_TOTAL).increment(1);
    tracing::info!(
        from = seen.interval.as_str(),
        to = new.interval.as_str(),
        reason = new.reason,
        "the rate asks for another interval of partitions"
    );
    Ok(true)
}

fn tell(partitions: &[MeasuredPartition], current: &IntervalDecision, now: Timestamp) {
    gauge!(INTERVAL_SECONDS).set(as_float(current.bounded.micros_max()) / 1e6);
    gauge!(INTERVAL_BOUNDED).set(f64::from(u8::from(current.is_bounded())));
    gauge!(PARTITIONS_ATTACHED).set(partitions.len() as f64);
    let newest = partitions
        .iter()
        .find(|measured| measured.partition.holds(now));
    // Unknown, and not zero, where there is none.
    let bytes = newest.map_or(f64::NAN, |newest| as_float(newest.index_bytes));
    gauge!(NEWEST_INDEX_BYTES).set(bytes);
}

/// Sizes and rates are estimates far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "estimates")]
fn as_float(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
