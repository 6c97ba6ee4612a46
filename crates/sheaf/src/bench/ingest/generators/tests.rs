use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn events(workload: &Workload, count: u64) -> Vec<Event> {
    (0..count)
        .map(|index| {
            let mut event = Event::default();
            workload.fill(index, &mut event);
            event
        })
        .collect()
}

#[test]
fn a_seed_decides_every_event() {
    let workload = Workload {
        late_percent: 20,
        duplicate_percent: 5,
        ..Workload::devices("d", 50)
    };
    let other = Workload {
        seed: 2,
        ..workload.clone()
    };
    assert_eq!(events(&workload, 500), events(&workload, 500));
    assert_ne!(events(&workload, 500), events(&other, 500));
}

#[test]
fn no_two_events_are_about_one_entity_and_instant_but_for_duplicates() {
    for (order, late_percent) in [
        (Order::Turns, 0),
        (Order::Turns, 20),
        (Order::HotFew { hot: 5 }, 0),
        (
            Order::Blocks {
                entities: 10,
                instants: 5,
            },
            0,
        ),
    ] {
        let workload = Workload {
            order,
            late_percent,
            ..Workload::devices("d", 100)
        };
        let events = events(&workload, 20_000);
        let keys: BTreeSet<_> = events
            .iter()
            .map(|event| (event.entity, event.micros))
            .collect();
        assert_eq!(keys.len(), events.len(), "{order:?}");
    }
}

#[test]
fn late_and_duplicate_shares_are_what_they_say() {
    let workload = Workload {
        late_percent: 20,
        duplicate_percent: 5,
        ..Workload::devices("d", 100)
    };
    let mut newest = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let (mut late, mut duplicates) = (0.0, 0.0);
    for event in events(&workload, 100_000) {
        if !seen.insert((event.entity, event.micros)) {
            duplicates += 1.0;
            continue;
        }
        let newest = newest.entry(event.entity).or_insert(event.micros);
        late += f64::from(u8::from(event.micros < *newest));
        *newest = event.micros.max(*newest);
    }
    assert!(
        (duplicates / 100_000.0 - 0.05_f64).abs() < 0.005,
        "{duplicates}"
    );
    assert!(
        (late / (100_000.0 - duplicates) - 0.20_f64).abs() < 0.01,
        "{late}"
    );
}

#[test]
fn a_duplicate_repeats_the_whole_event() {
    let workload = Workload {
        duplicate_percent: 50,
        ..Workload::devices("d", 10)
    };
    let mut first: BTreeMap<(u64, i64), Event> = BTreeMap::new();
    for event in events(&workload, 1_000) {
        let known = first
            .entry((event.entity, event.micros))
            .or_insert(event.clone());
        assert_eq!(*known, event);
    }
}

#[test]
fn the_hot_few_take_nine_events_of_ten() {
    let workload = Workload {
        order: Order::HotFew { hot: 10 },
        ..Workload::devices("d", 10_000)
    };
    let hot = events(&workload, 50_000)
        .iter()
        .filter(|event| event.entity < 10)
        .count();
    assert!((44_500..45_700).contains(&hot), "{hot}");
}

#[test]
fn a_block_is_a_hundred_entities_at_fifty_instants_and_blocks_take_turns() {
    let workload = Workload::agents(400);
    for block in events(&workload, 40_000).chunks(5_000) {
        let entities: BTreeSet<_> = block.iter().map(|event| event.entity).collect();
        let instants: BTreeSet<_> = block.iter().map(|event| event.micros).collect();
        assert_eq!((entities.len(), instants.len()), (100, 50));
    }
    let all: BTreeSet<_> = events(&workload, workload.events_of_all())
        .iter()
        .map(|event| event.entity)
        .collect();
    assert_eq!(all.len(), 400);
}

#[test]
fn sparse_entities_keep_their_own_ten_of_thousands() {
    let workload = Workload {
        fields: Fields::Sparse {
            each: 10,
            of: 2_000,
        },
        ..Workload::devices("d", 1_000)
    };
    let places = |event: &Event| {
        event
            .fields
            .iter()
            .map(|(place, _)| *place)
            .collect::<BTreeSet<_>>()
    };
    let events = events(&workload, 2_000);
    let mut all = BTreeSet::new();
    for (first, second) in events[..1_000].iter().zip(&events[1_000..]) {
        assert_eq!(places(first).len(), 10);
        assert_eq!(places(first), places(second));
        all.extend(places(first));
    }
    assert!(all.len() > 1_900, "{}", all.len());
}

#[test]
fn one_value_in_turn_comes_to_every_attribute() {
    let workload = Workload {
        fields: Fields::OneInTurn(10),
        ..Workload::devices("d", 3)
    };
    let events = events(&workload, 30);
    assert!(events.iter().all(|event| event.fields.len() == 1));
    let of_first: BTreeSet<_> = events
        .iter()
        .filter(|event| event.entity == 0)
        .map(|event| event.fields[0].0)
        .collect();
    assert_eq!(of_first.len(), 10);
}

#[test]
fn ids_and_tags_tell_entities_apart() {
    let long = Workload {
        long_ids: true,
        ..Workload::devices("d", 10)
    };
    let ids: BTreeSet<_> = (0..10_000).map(|entity| id(&long, entity)).collect();
    assert_eq!(ids.len(), 10_000);
    assert!(ids.iter().all(|id| id.len() == 36));
    assert_ne!(tag_value(2, 1), tag_value(2, 2));
    assert_eq!(tag_value(0, 1), tag_value(0, 1));
}
