//! Events that the lake was found to have otherwise than PostgreSQL, put right beside the stream.
//!
//! Everything that the files have of these events is taken out, and what they are is put in, in one commit. What else is there of
//! their instants stays, and is where it has to be: among the facts, or among those that later events hide.

use std::collections::HashSet;

use sheaf_store::lake::CorrectionKey;
use sheaf_store::reconcile::{LakeRepair, Span};

use crate::corrections::{At, Corrections, FactOf, fact_of};
use crate::error::LakeError;
use crate::facts::{NamedFacts, day_of};
use crate::files::Files;
use crate::rewrite::{Fate, Prepared, divide_file, look};
use crate::table::{TableChange, TableState};

/// What PostgreSQL has of the times and keys of repairs when it is their turn.
#[derive(Debug, Default)]
pub(crate) struct Here {
    /// The times that it has all events of: before it was asked for the keys, and after that.
    pub(crate) held: [Vec<Span>; 2],
    /// Keys that it has an event of, which came after it was found to have none.
    pub(crate) come_since: HashSet<CorrectionKey>,
}

impl Here {
    /// Whether a repair is still what PostgreSQL says. Of a time that it has given away the lake's is the only copy, and an event
    /// that came since is not the one that was not there: the stream brings it.
    pub(crate) fn vouches_for(&self, repair: &LakeRepair) -> bool {
        let at = repair.key.observed_at;
        let is_held = |spans: &Vec<Span>| spans.iter().any(|span| span.has(at));
        let is_removal = repair.event.is_none();
        self.held.iter().all(is_held) && !(is_removal && self.come_since.contains(&repair.key))
    }
}

/// Puts events of one day right: those with these keys are as they are given, or nowhere.
pub(crate) fn repair(
    files: &Files,
    facts: &TableState,
    corrected: &TableState,
    events: &NamedFacts,
    keys: Vec<CorrectionKey>,
) -> Result<Prepared, LakeError> {
    let pending = &events.pending;
    let days = keys.iter();
    let days = days
        .map(|key| day_of(key.observed_at.as_micros()))
        .collect();
    let taken: HashSet<(At, i64)> = keys
        .iter()
        .map(|key| (at_of(key), key.seq.into()))
        .collect();
    let is_taken = |fact: &FactOf| taken.contains(&(fact.at, fact.seq));
    let mut corrections = Corrections::of_instants(pending, keys.iter().map(at_of));
    let counts = |fact: &FactOf| !is_taken(fact);
    let fails = |_: i32, error: LakeError| Err(error);
    let at = (&days, &mut corrections);
    let hidden_there = look(files, corrected, at, counts, fails)?;
    let at = (&days, &mut corrections);
    let shown_there = look(files, facts, at, counts, fails)?;
    let is_hidden = |place| corrections.hide(fact_of(pending, pending.fact(place)));
    let mut kept = TableChange {
        added: files.write_facts(facts, events, |place| !is_hidden(place))?,
        ..TableChange::default()
    };
    let mut replaced = TableChange {
        added: files.write_facts(corrected, events, is_hidden)?,
        ..TableChange::default()
    };
    for (file, found) in shown_there {
        let fate = |fact: &FactOf| fate(&corrections, fact, is_taken(fact), false);
        if found.iter().any(|fact| fate(fact) != Fate::Stays) {
            let (rest, hidden) = divide_file(files, facts, corrected, &file, fate)?;
            kept.removed.insert(file.file_path().to_owned());
            kept.added.extend(rest);
            replaced.added.extend(hidden);
        }
    }
    for (file, found) in hidden_there {
        let fate = |fact: &FactOf| fate(&corrections, fact, is_taken(fact), true);
        if found.iter().any(|fact| fate(fact) != Fate::Stays) {
            let (rest, shown) = divide_file(files, corrected, facts, &file, fate)?;
            replaced.removed.insert(file.file_path().to_owned());
            replaced.added.extend(rest);
            kept.added.extend(shown);
        }
    }
    Ok(Prepared {
        repaired: keys,
        ..Prepared::of_facts(kept, replaced)
    })
}

/// What becomes of a fact that is in a table already.
fn fate(corrections: &Corrections, fact: &FactOf, is_taken: bool, is_hidden: bool) -> Fate {
    if is_taken {
        Fate::Ends
    } else if corrections.concerns(fact) && corrections.hide(*fact) != is_hidden {
        Fate::Goes
    } else {
        Fate::Stays
    }
}

fn at_of(key: &CorrectionKey) -> At {
    At {
        tenant: key.tenant.0,
        entity: key.entity.0,
        observed_at: key.observed_at.as_micros(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_model::{BatchId, ChangePosition, EntityId, Lsn, Op, TenantId, Timestamp};
    use sheaf_store::lake::LakeCorrection;
    use uuid::Uuid;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000).expect("a time")
    }

    #[test]
    fn nothing_is_put_right_of_a_time_that_postgresql_gave_away_nor_removed_that_came_since() {
        let key = CorrectionKey {
            observed_at: at(50),
            tenant: TenantId(1),
            entity: EntityId(2),
            seq: 0,
        };
        let event = LakeCorrection {
            key,
            op: Op::Patch,
            batch: BatchId(Uuid::nil()),
            ingested_at: at(60),
            attrs: "{}".into(),
        };
        let span = |lower, upper| Span {
            lower: at(lower),
            upper: at(upper),
        };
        let has = || vec![span(0, 50), span(50, 100)];
        let lacks = || vec![span(0, 50), span(51, 100)];
        for (claim, event, held, has_come, wanted) in [
            ("extra", None, [has(), has()], false, true),
            ("missing", Some(event.clone()), [has(), has()], false, true),
            ("detached meanwhile", None, [has(), lacks()], false, false),
            ("attached meanwhile", None, [lacks(), has()], false, false),
            ("gone", None, [lacks(), lacks()], false, false),
            (
                "gone, of one that was there",
                Some(event.clone()),
                [lacks(), lacks()],
                false,
                false,
            ),
            ("another came", None, [has(), has()], true, false),
            (
                "it is as it was asked for",
                Some(event),
                [has(), has()],
                true,
                true,
            ),
        ] {
            let repair = LakeRepair {
                key,
                event,
                base: ChangePosition::before(1, Lsn(1)),
                asked_at: at(70),
            };
            let come_since = has_come.then_some(key).into_iter().collect();
            let here = Here { held, come_since };
            assert_eq!(here.vouches_for(&repair), wanted, "{claim}");
        }
    }
}
