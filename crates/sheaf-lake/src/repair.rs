//! Events that the lake was found to have otherwise than PostgreSQL, put right beside the stream.
//!
//! Everything that the files have of these events is taken out, and what they are is put in, in one commit. What else is there of
//! their instants stays, and is where it has to be: among the facts, or among those that later events hide.

use std::collections::HashSet;

use sheaf_store::lake::CorrectionKey;

use crate::corrections::{At, Corrections, FactOf, fact_of};
use crate::error::LakeError;
use crate::facts::{NamedFacts, day_of};
use crate::files::Files;
use crate::rewrite::{Fate, Prepared, divide_file, look};
use crate::table::{TableChange, TableState};

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
    let hidden_there = look(files, corrected, &days, &mut corrections, counts)?;
    let shown_there = look(files, facts, &days, &mut corrections, counts)?;
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
