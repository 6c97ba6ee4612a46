use std::collections::HashMap;

use proptest::prelude::*;
use sheaf_model::TenantId;

use super::*;

const WIDE: FairQueueBounds = FairQueueBounds {
    quantum: 100,
    tenant_items_max: 10_000,
    tenant_weight_max: u64::MAX,
    items_max: 100_000,
    weight_max: u64::MAX,
};

fn tenant(number: i64) -> TenantId {
    TenantId(number)
}

fn queue(pushed: &[(i64, u64, &'static str)]) -> FairQueue<&'static str> {
    let mut queue = FairQueue::new(WIDE);
    for (number, weight, item) in pushed {
        queue.push(tenant(*number), *weight, *item).expect("room");
    }
    queue
}

fn drained<T>(queue: &mut FairQueue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn tenants_take_turns_of_a_quantum() {
    for (pushed, order) in [
        (vec![], vec![]),
        // One tenant alone is served in its order.
        (
            vec![(1, 300, "a"), (1, 1, "b"), (1, 50, "c")],
            vec!["a", "b", "c"],
        ),
        // Equal weights of a quantum: one each.
        (
            vec![(1, 100, "a"), (1, 100, "b"), (2, 100, "x"), (2, 100, "y")],
            vec!["a", "x", "b", "y"],
        ),
        // Two small ones of one tenant fit its turn.
        (
            vec![(1, 50, "a"), (1, 50, "b"), (1, 50, "c"), (2, 100, "x")],
            vec!["a", "b", "x", "c"],
        ),
        // A heavy one is saved for, while the other takes its turns.
        (
            vec![(1, 250, "a"), (2, 100, "x"), (2, 100, "y"), (2, 100, "z")],
            vec!["x", "y", "a", "z"],
        ),
        // Nobody can pay at once: rounds are skipped, and the turns stay as they were.
        (
            vec![(1, 1_000_000, "a"), (2, 1_000_001, "x"), (3, 999_999, "m")],
            vec!["a", "m", "x"],
        ),
        // A weight of nothing is not free.
        (vec![(1, 0, "a"), (2, 0, "x")], vec!["a", "x"]),
    ] {
        assert_eq!(drained(&mut queue(&pushed)), order, "{pushed:?}");
    }
}

#[test]
fn the_largest_weights_do_not_overflow() {
    let mut queue = FairQueue::new(WIDE);
    queue.push(tenant(1), u64::MAX, 1).expect("the first");
    assert_eq!((queue.len(), queue.weight()), (1, u64::MAX));
    assert_eq!(queue.pop(), Some(1));
    assert_eq!((queue.len(), queue.weight()), (0, 0));
}

#[test]
fn a_flood_delays_the_item_of_another_by_one_turn() {
    for flooders in [1, 10] {
        for weight in [1, 10, 100] {
            let mut queue = FairQueue::new(WIDE);
            for number in 0..1_000 {
                for flooder in 1..=flooders {
                    queue
                        .push(tenant(flooder), weight, (flooder, number))
                        .expect("room");
                }
            }
            for _ in 0..7 {
                queue.pop();
            }
            queue.push(tenant(99), 100, (99, 0)).expect("room");
            let before = std::iter::from_fn(|| queue.pop()).take_while(|(number, _)| *number != 99);
            let weight_before = before.count() as u64 * weight;
            let most = flooders as u64 * WIDE.quantum;
            assert!(
                weight_before <= most,
                "{weight_before} of {most} with {flooders} of weight {weight}"
            );
        }
    }
}

#[test]
fn a_full_line_refuses_its_tenant_and_a_full_queue_everybody() {
    let bounds = FairQueueBounds {
        quantum: 10,
        tenant_items_max: 2,
        tenant_weight_max: 50,
        items_max: 4,
        weight_max: 100,
    };
    for (pushed, next, refused) in [
        (vec![], (1, 1_000), None),
        (vec![(1, 10)], (1, 40), None),
        (vec![(1, 10)], (1, 41), Some(Full::Tenant)),
        (vec![(1, 1), (1, 1)], (1, 1), Some(Full::Tenant)),
        (vec![(1, 1), (1, 1)], (2, 1), None),
        (
            vec![(1, 1), (1, 1), (2, 1), (3, 1)],
            (4, 1),
            Some(Full::Queue),
        ),
        (vec![(1, 50), (2, 40)], (3, 11), Some(Full::Queue)),
        (vec![(1, 50), (2, 40)], (3, 10), None),
        (vec![(1, 1_000)], (2, 1), Some(Full::Queue)),
    ] {
        let mut queue = FairQueue::new(bounds);
        for (number, weight) in &pushed {
            queue.push(tenant(*number), *weight, ()).expect("room");
        }
        let outcome = queue.push(tenant(next.0), next.1, ());
        assert_eq!(outcome.err(), refused, "{pushed:?} and then {next:?}");
        let kept = pushed.len() + usize::from(refused.is_none());
        assert_eq!(queue.len(), kept, "{pushed:?} and then {next:?}");
    }
}

#[test]
fn a_group_takes_the_next_items_up_to_its_weight_and_at_least_one() {
    let mut queue = queue(&[(1, 60, "a"), (1, 60, "b"), (2, 30, "x"), (2, 500, "y")]);
    assert_eq!(queue.pop_group(100), ["a", "x"]);
    assert_eq!(queue.pop_group(100), ["b"]);
    assert_eq!(queue.pop_group(100), ["y"]);
    assert!(queue.pop_group(100).is_empty());
}

#[test]
fn an_item_that_does_not_fit_stays_the_next_one() {
    let mut queue = queue(&[(1, 60, "a"), (2, 30, "x")]);
    for _ in 0..100 {
        assert_eq!(queue.pop_if(|weight, _| weight < 60), None);
    }
    assert_eq!(drained(&mut queue), ["a", "x"]);
}

proptest! {
    #[test]
    fn everything_comes_out_once_and_each_tenants_items_in_their_order(
        steps in proptest::collection::vec((1_i64..6, 0_u64..500, any::<bool>()), 0..300),
    ) {
        let mut queue = FairQueue::new(WIDE);
        let mut waiting: HashMap<i64, VecDeque<(u64, usize)>> = HashMap::new();
        let check = |(number, weight, place): (i64, u64, usize), waiting: &mut HashMap<i64, VecDeque<(u64, usize)>>| {
            waiting.get_mut(&number).and_then(VecDeque::pop_front) == Some((weight, place))
        };
        for (place, (number, weight, pops)) in steps.into_iter().enumerate() {
            queue.push(tenant(number), weight, (number, weight, place)).expect("room");
            waiting.entry(number).or_default().push_back((weight, place));
            if pops {
                let popped = queue.pop().expect("something waits");
                prop_assert!(check(popped, &mut waiting), "{popped:?} is out of order");
            }
            let weights = waiting.values().flatten().map(|(weight, _)| (*weight).max(1)).sum::<u64>();
            prop_assert_eq!(queue.weight(), weights);
            prop_assert_eq!(queue.len(), waiting.values().map(VecDeque::len).sum::<usize>());
        }
        while let Some(popped) = queue.pop() {
            prop_assert!(check(popped, &mut waiting), "{popped:?} is out of order");
        }
        prop_assert!(waiting.values().all(VecDeque::is_empty), "something never came out");
        prop_assert!(queue.is_empty() && queue.weight() == 0);
        prop_assert!(queue.lines.is_empty() && queue.turns.is_empty(), "tenants are remembered");
    }

    #[test]
    fn tenants_that_always_wait_get_the_same_weight_whatever_their_items(
        weights in proptest::collection::vec(1_u64..1_000, 2..6),
    ) {
        let mut queue = FairQueue::new(WIDE);
        let mut served = vec![0_u64; weights.len()];
        let number_of = |place: usize| tenant(i64::try_from(place).expect("few") + 1);
        for (place, weight) in weights.iter().enumerate() {
            for _ in 0..2 {
                queue.push(number_of(place), *weight, place).expect("room");
            }
        }
        for _ in 0..2_000 {
            let place = queue.pop().expect("all always wait");
            served[place] += weights[place];
            queue.push(number_of(place), weights[place], place).expect("room");
        }
        let heaviest = weights.iter().max().copied().unwrap_or_default();
        let (least, most) = (served.iter().min(), served.iter().max());
        let apart = most.copied().unwrap_or_default() - least.copied().unwrap_or_default();
        prop_assert!(apart <= 2 * (WIDE.quantum + heaviest), "{served:?} of {weights:?}");
    }
}
