//! A watch on what keeps the primary from removing rows: a transaction that stays open on a replica, a slot that nobody
//! takes from. It removes nothing and ends nobody's transaction; it tells.

use std::time::Duration;

use metrics::gauge;
use sheaf_pg::{PgError, Pool, Reading};
use sheaf_store::holds::{Hold, Holder, list_holds};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How many transactions ago the oldest began that a kind of holder keeps rows for: zero where none keeps any, and no number
/// where it cannot be asked. Names are in the log and in `sheaf doctor`: of slots there may be ever new ones.
const HELD_TRANSACTIONS: &str = "sheaf_xmin_held_transactions";

/// A replica reports every ten seconds unless told otherwise (`wal_receiver_status_interval`); looks that are closer show
/// nothing new.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// A primary that takes longer does not say.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Each update of a document leaves a row behind that a hold keeps, and every read of the document passes it. No statement of
/// ours is waited for on a replica for more than 12 s, and the report is 10 s old at most: at 10,000 transactions a second that
/// makes 220,000. Four times that is somebody else's transaction. Larger would let tables grow for longer, smaller would tell
/// of a report of a minute.
const ROWS_HELD_MAX: u64 = 1_000_000;
/// Rows of the catalogue change rarely, so that what suffers is the freezing of old ones, which PostgreSQL forces from 200
/// million transactions on (`autovacuum_freeze_max_age`): a quarter leaves time. A slot that lags is told of long before, by
/// what it retains of the log.
const CATALOG_HELD_MAX: u64 = 50_000_000;

/// From where on a hold is an alarm.
pub fn held_max(holder: Holder) -> u64 {
    match holder {
        Holder::Replica | Holder::Slot => ROWS_HELD_MAX,
        Holder::SlotCatalog => CATALOG_HELD_MAX,
    }
}

/// Those that are an alarm.
pub fn beyond_bound(holds: &[Hold]) -> Vec<&Hold> {
    let is_beyond = |hold: &&Hold| hold.transactions > held_max(hold.holder);
    holds.iter().filter(is_beyond).collect()
}

/// The longest hold of this kind; zero where there is none.
fn longest(holds: &[Hold], holder: Holder) -> u64 {
    let of_kind = holds.iter().filter(|hold| hold.holder == holder);
    of_kind.map(|hold| hold.transactions).max().unwrap_or(0)
}

/// Those beyond their bound now that were not at the look before.
fn begun<'a>(before: &[Hold], now: &'a [Hold]) -> Vec<&'a Hold> {
    let before = beyond_bound(before);
    let is_same = |one: &Hold, other: &Hold| one.holder == other.holder && one.name == other.name;
    let mut begun = beyond_bound(now);
    begun.retain(|hold| !before.iter().any(|earlier| is_same(earlier, hold)));
    begun
}

/// Looks until told to stop. What goes beyond its bound is told once, as is that it cannot be asked.
pub(crate) async fn watch_holds(upkeep: &Pool, mut stop: watch::Receiver<bool>) {
    let mut before = Vec::new();
    let mut is_known = true;
    loop {
        let looked = timeout(LOOK_MAX, look(upkeep)).await;
        match looked {
            Ok(Ok(holds)) => {
                show(Some(&holds));
                for hold in begun(&before, &holds) {
                    tracing::warn!(
                        holder = hold.holder.as_str(),
                        name = hold.name,
                        transactions = hold.transactions,
                        transactions_max = held_max(hold.holder),
                        "rows that nobody needs are kept for a replica or a slot; tables grow until it lets go"
                    );
                }
                before = holds;
                is_known = true;
            }
            Ok(Err(_)) | Err(_) => {
                show(None);
                if is_known {
                    let error = looked.ok().and_then(Result::err);
                    tell_unknown(error.as_ref());
                }
                is_known = false;
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stopped| *stopped) => return,
        }
    }
}

async fn look(upkeep: &Pool) -> Result<Vec<Hold>, PgError> {
    let client = Reading::begin(upkeep).await?;
    let holds = list_holds(&client).await;
    client.rest();
    holds
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn show(holds: Option<&[Hold]>) {
    for holder in Holder::ALL {
        let held = holds.map_or(f64::NAN, |holds| longest(holds, holder) as f64);
        gauge!(HELD_TRANSACTIONS, "holder" => holder.as_str()).set(held);
    }
}

/// Without an error there was no answer in time.
fn tell_unknown(error: Option<&PgError>) {
    let cause = match error {
        Some(error) => sheaf_pg::chain(error),
        None => format!("no answer within {LOOK_MAX:?}"),
    };
    tracing::warn!(cause, "what replicas and slots hold back is unknown");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(holder: Holder, name: &str, transactions: u64) -> Hold {
        Hold {
            holder,
            name: name.to_owned(),
            transactions,
        }
    }

    #[test]
    fn each_kind_is_an_alarm_past_its_own_bound() {
        use Holder::{Replica, Slot, SlotCatalog};
        for (holder, transactions, expected) in [
            (Replica, 0, false),
            (Replica, 220_000, false),
            (Replica, 1_000_000, false),
            (Replica, 1_000_001, true),
            (Slot, 1_000_000, false),
            (Slot, 1_000_001, true),
            (SlotCatalog, 1_000_001, false),
            (SlotCatalog, 50_000_000, false),
            (SlotCatalog, 50_000_001, true),
            // The oldest age that PostgreSQL has.
            (SlotCatalog, 2_147_483_647, true),
        ] {
            let holds = [hold(holder, "one", transactions)];
            let is_beyond = !beyond_bound(&holds).is_empty();
            assert_eq!(is_beyond, expected, "{}", holds[0]);
        }
    }

    #[test]
    fn what_goes_beyond_its_bound_is_told_once_until_it_was_back() {
        let low = [hold(Holder::Replica, "one", 10)];
        let high = [hold(Holder::Replica, "one", 2_000_000)];
        let higher = [hold(Holder::Replica, "one", 3_000_000)];
        let both = [
            hold(Holder::Replica, "one", 4_000_000),
            hold(Holder::Slot, "one", 4_000_000),
        ];
        for (before, now, expected) in [
            (&[][..], &low[..], &[][..]),
            (&low[..], &high[..], &high[..]),
            (&[][..], &high[..], &high[..]),
            (&high[..], &higher[..], &[][..]),
            (&higher[..], &low[..], &[][..]),
            (&higher[..], &[][..], &[][..]),
            // A slot is another holder, whatever its name.
            (&high[..], &both[..], &both[1..]),
        ] {
            let told: Vec<Hold> = begun(before, now).into_iter().cloned().collect();
            assert_eq!(told, expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn the_longest_of_a_kind_counts_and_none_is_zero() {
        let holds = [
            hold(Holder::Replica, "one", 7),
            hold(Holder::Replica, "two", 9),
            hold(Holder::SlotCatalog, "three", 12),
        ];
        for (holder, expected) in [
            (Holder::Replica, 9),
            (Holder::Slot, 0),
            (Holder::SlotCatalog, 12),
        ] {
            assert_eq!(longest(&holds, holder), expected, "{holder:?}");
        }
    }
}
