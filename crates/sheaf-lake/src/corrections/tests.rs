use std::collections::BTreeSet;

use sheaf_cdc::change::EventRow;
use sheaf_model::{AttributeId, AttributeType, BatchId, EntityId, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use uuid::Uuid;

use super::*;
use crate::names::Names;

/// An event of one entity and instant.
type Said = (i16, Op, &'static str);

fn pending(events: &[Said]) -> Pending {
    // Never asked: everything is learned.
    let nowhere = Pool::new(
        &"host=/nowhere user=nobody".parse().expect("a config"),
        1,
        &Tls::none(),
    );
    let mut names = Names::new(nowhere);
    for id in 1..=9 {
        names.learn_attribute(TenantId(1), AttributeId(id), "a name", AttributeType::Int);
    }
    let mut pending = Pending::default();
    for (seq, op, attrs) in events {
        let row = EventRow {
            tenant: TenantId(1),
            entity: EntityId(2),
            observed_at: Timestamp::MIN,
            seq: *seq,
            op: *op,
            batch: BatchId(Uuid::nil()),
            ingested_at: Timestamp::MIN,
            attrs: (*attrs).into(),
        };
        pending.push_event(&row, &names).expect("it is good");
    }
    pending
}

fn here() -> At {
    At {
        tenant: 1,
        entity: 2,
        observed_at: Timestamp::MIN.as_micros(),
    }
}

/// A fact as its `seq` and its attribute, 0 for none.
fn named(pending: &Pending, facts: &HashSet<u32>) -> BTreeSet<(i16, i64)> {
    let name = |place: &u32| {
        let fact = &pending.facts[usize::try_from(*place).expect("small")];
        let attribute = fact.attribute.map_or(0, NonZeroI64::get);
        (pending.event_of(fact).seq, attribute)
    };
    facts.iter().map(name).collect()
}

use Op::{Correct, Delete, Patch, Replace};

/// What is given, then what waits (by `seq`) and what is hidden (by `seq` and attribute).
type Case = (&'static str, bool, Vec<Said>, Vec<i16>, Vec<(i16, i64)>);

#[test]
fn what_is_at_hand_is_sorted_out_at_once_and_what_may_be_in_a_file_waits() {
    let cases: Vec<Case> = vec![
        (
            "a first",
            false,
            vec![(0, Patch, r#"{"1":1}"#)],
            vec![],
            vec![],
        ),
        (
            "a merge adds",
            false,
            vec![(0, Patch, r#"{"1":1}"#), (1, Patch, r#"{"2":1}"#)],
            vec![],
            vec![],
        ),
        (
            "a correction replaces what it says again and nothing else",
            false,
            vec![
                (0, Patch, r#"{"1":1,"2":1}"#),
                (1, Correct, r#"{"2":2,"3":3}"#),
            ],
            vec![],
            vec![(0, 2)],
        ),
        (
            "of three the last counts",
            false,
            vec![
                (2, Correct, r#"{"1":1}"#),
                (0, Patch, r#"{"1":1}"#),
                (1, Correct, r#"{"1":2}"#),
            ],
            vec![],
            vec![(0, 1), (1, 1)],
        ),
        (
            "a removal is said too",
            false,
            vec![(0, Patch, r#"{"1":1}"#), (1, Correct, r#"{"1":null}"#)],
            vec![],
            vec![(0, 1)],
        ),
        (
            "a delete hides everything, a replace before it too",
            false,
            vec![
                (0, Patch, r#"{"1":1}"#),
                (1, Replace, r#"{"2":1}"#),
                (2, Delete, "{}"),
                (3, Patch, r#"{"1":3}"#),
            ],
            vec![],
            vec![(0, 1), (1, 0), (1, 2)],
        ),
        (
            "an event without attributes stays beside others",
            false,
            vec![(0, Patch, "{}"), (1, Patch, r#"{"1":1}"#)],
            vec![],
            vec![],
        ),
        (
            "a replace as the first hides nothing",
            false,
            vec![(0, Replace, r#"{"1":1}"#)],
            vec![],
            vec![],
        ),
        (
            "a merge of what is elsewhere adds",
            false,
            vec![(1, Patch, r#"{"2":1}"#)],
            vec![],
            vec![],
        ),
        (
            "a correction of what is elsewhere waits, and what follows it",
            false,
            vec![
                (1, Patch, r#"{"2":1}"#),
                (2, Correct, r#"{"1":1}"#),
                (3, Patch, r#"{"4":1}"#),
                (4, Correct, r#"{"4":2}"#),
            ],
            vec![2, 3, 4],
            vec![],
        ),
        (
            "with a hole it is not all at hand",
            false,
            vec![(0, Patch, r#"{"1":1}"#), (2, Correct, r#"{"1":2}"#)],
            vec![2],
            vec![],
        ),
        (
            "where others wait, later ones wait, and the first does not",
            true,
            vec![
                (0, Patch, r#"{"1":1}"#),
                (1, Patch, r#"{"2":1}"#),
                (2, Correct, r#"{"1":2}"#),
            ],
            vec![1, 2],
            vec![],
        ),
        (
            "one that came late was compared with nothing",
            false,
            vec![(LATE_SEQ, Patch, r#"{"2":1}"#)],
            vec![LATE_SEQ],
            vec![],
        ),
    ];
    for (claim, is_waiting, events, waiting, hidden) in cases {
        let pending = pending(&events);
        let resolved = resolve(&pending, |at| is_waiting && *at == here());
        let seqs = resolved
            .waiting
            .iter()
            .map(|place| pending.event(*place).seq);
        assert_eq!(
            seqs.collect::<BTreeSet<_>>(),
            waiting.into_iter().collect(),
            "{claim}"
        );
        assert_eq!(
            named(&pending, &resolved.hidden),
            hidden.into_iter().collect(),
            "{claim}"
        );
        for place in &resolved.waiting {
            let correction = pending.correction(*place).expect("it can wait");
            let said = events.iter().find(|(seq, ..)| *seq == correction.key.seq);
            assert_eq!(Some(&*correction.attrs), said.map(|(.., attrs)| *attrs));
        }
    }
}

#[test]
fn what_waited_hides_exactly_what_came_before_it_and_is_hidden_by_what_came_after() {
    let pending = pending(&[
        (2, Correct, r#"{"1":1,"2":1}"#),
        (3, Correct, r#"{"1":2}"#),
        (5, Replace, r#"{"3":1}"#),
        (6, Patch, r#"{"1":3,"4":1}"#),
    ]);
    let mut corrections = Corrections::new(&pending);
    let here = here();
    let elsewhere = At { entity: 3, ..here };
    let fact = |at, seq, attribute| FactOf { at, seq, attribute };
    for (stored, hides_all, is_about) in [
        (fact(here, 0, Some(1)), false, true),
        (fact(here, 6, Some(1)), false, true),
        (fact(here, 7, Some(4)), false, true),
        (fact(elsewhere, 7, Some(1)), true, false),
    ] {
        assert_eq!(corrections.see(stored, hides_all), is_about, "{stored:?}");
    }
    for (fact, is_hidden) in [
        (fact(here, 0, Some(1)), true),
        (fact(here, 0, Some(7)), true),
        (fact(here, 2, Some(2)), true),
        (fact(here, 3, Some(1)), true),
        (fact(here, 4, None), true),
        (fact(here, 5, None), false),
        (fact(here, 5, Some(3)), false),
        (fact(here, 5, Some(1)), true),
        (fact(here, 6, Some(1)), false),
        (fact(here, 6, Some(4)), true),
        (fact(here, 7, Some(1)), false),
        (fact(elsewhere, 0, Some(1)), false),
    ] {
        assert_eq!(corrections.hide(fact), is_hidden, "{fact:?}");
    }
    assert!(corrections.see(fact(here, 9, None), true));
    assert!(corrections.hide(fact(here, 6, Some(1))));
    for (seq, is_present) in [(2, false), (6, true), (7, false), (9, false)] {
        assert_eq!(
            corrections.is_present(fact(here, seq, Some(1))),
            is_present,
            "{seq}"
        );
    }
    let ranges = Ranges {
        tenants: (0, 9),
        entities: (2, 2),
        instants: (i64::MIN, i64::MAX),
    };
    assert!(corrections.may_be_in(&ranges));
    for others in [
        Ranges {
            entities: (3, 9),
            ..ranges
        },
        Ranges {
            tenants: (2, 9),
            ..ranges
        },
        Ranges {
            instants: (0, 9),
            ..ranges
        },
    ] {
        assert!(!corrections.may_be_in(&others), "{others:?}");
    }
}
