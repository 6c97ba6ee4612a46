//! One server and one entity: herds, a session, a reader that goes away, and what is believed after something was lost.

use super::*;

fn local() -> Cache {
    Cache::local(
        Options {
            bytes_max: 1 << 16,
            age_max: Duration::from_secs(3_600),
            sample_every: u64::MAX,
        },
        &Database {
            system_id: SYSTEM_ID,
            signing_key: [7; 32],
        },
    )
}

const NAME: EntityName<'static> = EntityName {
    tenant: TENANT,
    entity_type: "device",
    external_id: "e0",
};

/// Asks the primary, which something else is written to all the time. True where it was asked.
async fn read_once(
    cache: &Cache,
    world: &Shared,
    token: Option<Position>,
) -> (bool, i64, Position) {
    world.borrow_mut().lsn += 1;
    let demand = Demand {
        lag_max: Duration::from_secs(3_600),
        token,
    };
    let asking = ask(Rc::clone(world), 0, None, false);
    match cache.read(NAME, &demand, asking).await {
        Ok(Reading::Asked { answer, position }) => (true, answer.0, position),
        Ok(Reading::Remembered(answer)) => (false, answer.value.version, answer.value.position),
        Err(never) => match never {},
    }
}

/// Runs what waits for nothing but its turn.
fn run_alone<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}

#[test]
fn a_session_that_sends_its_newest_token_is_answered_from_memory_until_there_is_something_new() {
    let (cache, world) = (local(), Shared::default());
    world.borrow_mut().numbered[0] = Some(1);
    for version in 1..=5 {
        let mut token = {
            let mut world = world.borrow_mut();
            world.lsn += 1;
            let lsn = world.lsn;
            world.writes[0].push((lsn, true));
            world.lsn += 1;
            let written = WrittenEntity {
                tenant: TENANT,
                entity: number(0),
                is_first: version == 1,
            };
            cache.committed(at(world.lsn), &[written]);
            // It is the session's own.
            Some(at(world.lsn))
        };
        let mut asked = 0;
        for _ in 0..50 {
            let (was_asked, shown, position) = run_alone(read_once(&cache, &world, token));
            assert_eq!(shown, version);
            assert!(token.is_some_and(|token| token.lsn <= position.lsn));
            token = Some(position);
            asked += usize::from(was_asked);
        }
        // What is shown first is newer than what it was read after; what is shown next is the same, and covers it.
        assert!(asked <= 2, "{asked} of 50 reads asked");
    }
}

#[test]
fn a_herd_whose_answers_cannot_be_remembered_asks_twice() {
    let (cache, world) = (local(), Shared::default());
    world.borrow_mut().numbered[0] = Some(1);
    world.borrow_mut().writes[0].push((1, true));
    world.borrow_mut().lsn = 5;
    let token = Some(at(5));
    let mut readers: Vec<_> = (0..100)
        .map(|_| Box::pin(read_once(&cache, &world, token)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut asked = 0;
    let mut rounds = 0;
    while !readers.is_empty() && rounds < 50 {
        rounds += 1;
        readers.retain_mut(|reader| match reader.as_mut().poll(&mut context) {
            Poll::Ready((was_asked, version, _)) => {
                assert_eq!(version, 1);
                asked += usize::from(was_asked);
                false
            }
            Poll::Pending => true,
        });
        // It is written in the log, and announced, all the time.
        let written = WrittenEntity {
            tenant: TENANT,
            entity: number(0),
            is_first: false,
        };
        let lsn = world.borrow().lsn;
        cache.committed(at(lsn), &[written]);
    }
    assert!(readers.is_empty(), "{} still wait", readers.len());
    assert!((1..=2).contains(&asked), "{asked} of a hundred asked");
}

#[test]
fn where_asking_fails_nobody_waits_for_more_than_two_others() {
    const STEPS: usize = 10;
    let cache = local();
    let asked = Rc::new(RefCell::new(0));
    let demand = Demand {
        lag_max: Duration::from_secs(3),
        token: None,
    };
    let mut readers: Vec<_> = (0..100)
        .map(|_| {
            let (cache, asked) = (cache.clone(), Rc::clone(&asked));
            Box::pin(async move {
                let ask = async {
                    *asked.borrow_mut() += 1;
                    for _ in 0..STEPS {
                        step().await;
                    }
                    Err::<(Fetched, ()), _>(())
                };
                cache.read(NAME, &demand, ask).await.is_err()
            })
        })
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    // Two that fail one after the other, its own, and the turns between them.
    for _ in 0..3 * (STEPS + 1) {
        readers.retain_mut(|reader| match reader.as_mut().poll(&mut context) {
            Poll::Ready(has_failed) => {
                assert!(has_failed);
                false
            }
            Poll::Pending => true,
        });
    }
    assert!(readers.is_empty(), "{} still wait", readers.len());
    assert_eq!(*asked.borrow(), 100);
}

#[test]
fn what_replicas_say_is_remembered_again_once_the_primary_was_seen() {
    let cache = local();
    let of_replica = |covers| Fetched {
        is_primary: false,
        entity: Some(number(0)),
        version: 1,
        body: Some("1".into()),
        position: at(covers),
        covers: Some(Lsn(covers)),
        lag: Some(Duration::ZERO),
        data_timestamp: Timestamp::from_micros(1).expect("a small time"),
    };
    let demand = Demand {
        lag_max: Duration::from_secs(3),
        token: None,
    };
    let is_asked = |covers| {
        let ask = async { Ok::<_, Infallible>((of_replica(covers), ())) };
        let reading = run_alone(cache.read(NAME, &demand, ask));
        matches!(reading, Ok(Reading::Asked { .. }))
    };
    assert!(is_asked(10));
    assert!(!is_asked(10));
    let before = Instant::now();
    cache.lose();
    assert!(cache.awaits_primary());
    assert!(is_asked(20) && is_asked(20), "it may lack what was lost");
    cache.saw_primary(at(30), before - Duration::from_millis(1));
    assert!(cache.awaits_primary(), "it was asked before");
    cache.saw_primary(at(30), Instant::now());
    assert!(!cache.awaits_primary());
    assert!(
        is_asked(30) && is_asked(31),
        "the first may lack what was lost"
    );
    assert!(!is_asked(31));
}

#[test]
fn many_reads_at_once_ask_once_and_a_reader_that_goes_away_fails_nobody() {
    let cache = local();
    let world = Shared::default();
    world.borrow_mut().writes[0].push((1, true));
    world.borrow_mut().numbered[0] = Some(1);
    world.borrow_mut().lsn = 5;
    let asked = Rc::new(RefCell::new(HashMap::new()));
    let mut readers: Vec<_> = (0..100)
        .map(|reader| {
            let (cache, world, asked) = (cache.clone(), Rc::clone(&world), Rc::clone(&asked));
            Box::pin(async move {
                let demand = Demand {
                    lag_max: Duration::from_secs(3),
                    token: None,
                };
                let ask = async {
                    asked.borrow_mut().insert(reader, ());
                    ask(world, 0, None, false).await
                };
                match cache.read(NAME, &demand, ask).await {
                    Ok(Reading::Remembered(answer)) => answer.value.version,
                    Ok(Reading::Asked { answer, .. }) => answer.0,
                    Err(never) => match never {},
                }
            })
        })
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    for reader in &mut readers {
        assert!(reader.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(asked.borrow().len(), 1);
    // The one that asks goes away; another takes its place.
    drop(readers.remove(0));
    let mut versions = Vec::new();
    for _ in 0..50 {
        readers.retain_mut(|reader| match reader.as_mut().poll(&mut context) {
            Poll::Ready(version) => {
                versions.push(version);
                false
            }
            Poll::Pending => true,
        });
    }
    assert_eq!(versions, vec![1; 99]);
    assert_eq!(asked.borrow().len(), 2);
}
