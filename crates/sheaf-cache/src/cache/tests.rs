//! Every interleaving that a seed draws of writes, reads of a primary and a replica, and announcements that are late or lost,
//! between two servers and a shared memory in which anything that was ever put may come back; against a model that knows what
//! each read must show.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

const TENANT: TenantId = TenantId(1);
const SYSTEM_ID: u64 = 7;
const ENTITIES: usize = 3;
const SERVERS: usize = 2;
/// Reads and writes under way at once.
const RUNNING_MAX: usize = 8;

/// An entity, and the version and position of a write of it; none where its name got a number.
type Message = (usize, Option<(i64, Position)>);
/// A read, or the write of an entity.
type Running = (Option<usize>, Pin<Box<dyn Future<Output = ()>>>);

/// The database as far as it matters here: a log, who sees how much of it, and a replica.
#[derive(Default)]
struct World {
    lsn: u64,
    replayed: u64,
    /// For each entity, its writes: where each is in the log, and whether it is seen on the primary.
    writes: [Vec<(u64, bool)>; ENTITIES],
    /// What clients know: a position, and the version that it must show.
    promised: [Vec<(u64, i64)>; ENTITIES],
    /// For each entity, where in the log its name got a number.
    numbered: [Option<u64>; ENTITIES],
    /// For each server, the names whose numbers it has learned.
    learned: [[bool; ENTITIES]; SERVERS],
    /// For each server and entity, the newest version that it wrote, and that it was told of.
    own: [[i64; ENTITIES]; SERVERS],
    told: [[i64; ENTITIES]; SERVERS],
    /// Announcements on their way to each server.
    on_the_way: [Vec<Message>; SERVERS],
    /// Every value that any server has put into the shared memory.
    shared: Vec<(usize, Value)>,
    remembered_count: usize,
}

impl World {
    fn seen_on_primary(&self, entity: usize) -> i64 {
        let seen = self.writes[entity].iter().filter(|(_, seen)| *seen);
        seen.count() as i64
    }

    fn seen_on_replica(&self, entity: usize, replayed: u64) -> i64 {
        let seen = self.writes[entity].iter();
        seen.filter(|(lsn, _)| *lsn <= replayed).count() as i64
    }

    fn must_show(&self, entity: usize, token: u64) -> i64 {
        let promised = self.promised[entity].iter();
        let until = promised.filter(|(lsn, _)| *lsn <= token);
        until.map(|(_, version)| *version).max().unwrap_or(0)
    }
}

type Shared = Rc<RefCell<World>>;

fn at(lsn: u64) -> Position {
    Position {
        system_id: SYSTEM_ID,
        timeline: 1,
        lsn: Lsn(lsn),
    }
}

/// Lets others go first, once.
async fn step() {
    let mut is_second = false;
    std::future::poll_fn(|_| {
        if std::mem::replace(&mut is_second, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn number(entity: usize) -> EntityId {
    EntityId(entity as i64 + 1)
}

/// A write: in the log, seen, its token read, the server told, the client told; with time for others between them.
async fn write(world: Shared, caches: Rc<[Cache; SERVERS]>, server: usize, entity: usize) {
    let is_new = {
        let mut world = world.borrow_mut();
        let is_new = world.numbered[entity].is_none();
        if is_new {
            world.lsn += 1;
            world.numbered[entity] = Some(world.lsn);
        }
        is_new
    };
    step().await;
    if !world.borrow().learned[server][entity] {
        caches[server].named(TENANT, is_new);
        let mut world = world.borrow_mut();
        world.learned[server][entity] = true;
        if is_new {
            for other in (0..SERVERS).filter(|other| *other != server) {
                world.on_the_way[other].push((entity, None));
            }
        }
    }
    step().await;
    // The writer of an entity is alone: it has a lock.
    let version = {
        let mut world = world.borrow_mut();
        world.lsn += 1;
        let lsn = world.lsn;
        world.writes[entity].push((lsn, false));
        world.writes[entity].len() as i64
    };
    step().await;
    world.borrow_mut().writes[entity][version as usize - 1].1 = true;
    step().await;
    let token = world.borrow().lsn;
    step().await;
    let written = WrittenEntity {
        tenant: TENANT,
        entity: number(entity),
    };
    caches[server].committed(at(token), &[written]);
    let mut world = world.borrow_mut();
    world.own[server][entity] = version;
    let told = &mut world.told[server][entity];
    *told = version.max(*told);
    for other in (0..SERVERS).filter(|other| *other != server) {
        world.on_the_way[other].push((entity, Some((version, at(token)))));
    }
    world.promised[entity].push((token, version));
}

/// What a source says: how far it had come, then its snapshot, then a position that covers it.
async fn ask(
    world: Shared,
    entity: usize,
    token: Option<u64>,
    from_replica: bool,
) -> Result<(Fetched, (i64, u64)), Infallible> {
    let replayed = world.borrow().replayed;
    let from_replica = from_replica && token.is_none_or(|token| token <= replayed);
    let covers = if from_replica {
        replayed
    } else {
        world.borrow().lsn
    };
    step().await;
    let (version, has_number) = {
        let world = world.borrow();
        let numbered = world.numbered[entity];
        if from_replica {
            let has_number = numbered.is_some_and(|lsn| lsn <= world.replayed);
            (world.seen_on_replica(entity, world.replayed), has_number)
        } else {
            (world.seen_on_primary(entity), numbered.is_some())
        }
    };
    step().await;
    let position = if from_replica {
        world.borrow().replayed
    } else {
        world.borrow().lsn
    };
    step().await;
    let body = (version > 0 && version % 5 != 0).then(|| Bytes::from(version.to_string()));
    let fetched = Fetched {
        is_primary: !from_replica,
        entity: has_number.then(|| number(entity)),
        version,
        body,
        position: at(position),
        covers: Some(Lsn(covers)),
        lag: Some(Duration::ZERO),
        data_timestamp: Timestamp::from_micros(1).expect("a small time"),
    };
    Ok((fetched, (version, position)))
}

struct Asked {
    server: usize,
    entity: usize,
    token: Option<u64>,
    from_replica: bool,
    /// One of the values that were ever shared comes back.
    comes_back: Option<usize>,
}

/// A read, and what must hold of its answer.
async fn read(world: Shared, caches: Rc<[Cache; SERVERS]>, asked: Asked) {
    let Asked {
        server,
        entity,
        token,
        from_replica,
        comes_back,
    } = asked;
    let cache = &caches[server];
    let demand = Demand {
        lag_max: Duration::from_secs(3_600),
        token: token.map(at),
    };
    let (own, told, must_show) = {
        let world = world.borrow();
        let must_show = token.map_or(0, |token| world.must_show(entity, token));
        (
            world.own[server][entity],
            world.told[server][entity],
            must_show,
        )
    };
    let shared = comes_back.and_then(|place| {
        let world = world.borrow();
        let of_entity = world.shared.iter().filter(|(of, _)| *of == entity);
        let values: Vec<&Value> = of_entity.map(|(_, value)| value).collect();
        let place = place.checked_rem(values.len())?;
        Some(values[place].clone())
    });
    if let Some(value) = shared
        && let Some(held) = cache.inner.held(value, Instant::now())
        && let Some(answer) = cache.inner.answer(&held, &demand, Origin::Redis)
    {
        check_remembered(
            &mut world.borrow_mut(),
            entity,
            &answer,
            (own, told),
            must_show,
        );
        return;
    }
    let name = format!("e{entity}");
    let name = EntityName {
        tenant: TENANT,
        entity_type: "device",
        external_id: &name,
    };
    let asking = ask(Rc::clone(&world), entity, token, from_replica);
    let reading = match cache.read(name, &demand, asking).await {
        Ok(reading) => reading,
        Err(never) => match never {},
    };
    let mut world = world.borrow_mut();
    match reading {
        Reading::Remembered(answer) => {
            check_remembered(&mut world, entity, &answer, (own, told), must_show);
        }
        Reading::Asked((version, position)) => {
            assert!(
                version >= must_show,
                "a source showed {version} for {must_show}"
            );
            world.promised[entity].push((position, version));
        }
    }
    // What it has put into the shared memory stays there.
    if let Some(held) = cache.inner.local.get(cache.inner.local.key(
        name.tenant,
        name.entity_type,
        name.external_id,
    )) && held.value.entity.is_some()
    {
        world.shared.push((entity, held.value.clone()));
    }
}

fn check_remembered(
    world: &mut World,
    entity: usize,
    answer: &Answer,
    (own, told): (i64, i64),
    must_show: i64,
) {
    let version = answer.value.version;
    assert!(
        version >= must_show,
        "with a token: version {version} of {entity}, which must show {must_show}"
    );
    // A name without a number has no fence of its own: that it got one is told by itself, and may come later.
    let known = if answer.value.entity.is_some() {
        told
    } else {
        own
    };
    assert!(
        version >= known,
        "version {version} of {entity} on a server that knew of {known} before"
    );
    let is_found = version > 0 && version % 5 != 0;
    assert_eq!(answer.value.body.is_some(), is_found, "version {version}");
    // Who sends its token must not see less.
    let position = answer.value.position.lsn.0;
    world.promised[entity].push((position, version));
    world.remembered_count += 1;
}

fn run(choices: &[u16]) -> usize {
    let world = Shared::default();
    let options = Options {
        bytes_max: 1 << 16,
        age_max: Duration::from_secs(3_600),
        sample_every: u64::MAX,
    };
    let database = Database {
        system_id: SYSTEM_ID,
        signing_key: [7; 32],
    };
    let caches = Rc::new([(); SERVERS].map(|()| Cache::local(options, &database)));
    let mut running: Vec<Running> = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    for choice in choices {
        let drawn = usize::from(*choice);
        let (kind, drawn) = (drawn % 16, drawn / 16);
        let (server, drawn) = (drawn % SERVERS, drawn / SERVERS);
        let (entity, drawn) = (drawn % ENTITIES, drawn / ENTITIES);
        match kind {
            0 | 1 if running.len() < RUNNING_MAX => {
                let is_locked = running.iter().any(|(of, _)| *of == Some(entity));
                if !is_locked {
                    let write = write(Rc::clone(&world), Rc::clone(&caches), server, entity);
                    running.push((Some(entity), Box::pin(write)));
                }
            }
            2..=5 if running.len() < RUNNING_MAX => {
                let promised: Vec<u64> = world
                    .borrow()
                    .promised
                    .iter()
                    .flatten()
                    .map(|(lsn, _)| *lsn)
                    .collect();
                let token = promised.get(drawn % 64).copied().filter(|_| kind < 4);
                let asked = Asked {
                    server,
                    entity,
                    token,
                    from_replica: drawn % 2 == 1,
                    comes_back: (drawn % 3 == 0).then_some(drawn),
                };
                let read = read(Rc::clone(&world), Rc::clone(&caches), asked);
                running.push((None, Box::pin(read)));
            }
            6 => world.borrow_mut().lsn += 1,
            7 => {
                let mut world = world.borrow_mut();
                // A replica may show a commit a moment before the primary does, which no cache can make good.
                let unseen = world.writes.iter().flatten().filter(|(_, seen)| !seen);
                let before = unseen.map(|(lsn, _)| lsn - 1).min().unwrap_or(world.lsn);
                let replayed = (world.replayed + drawn as u64 % 4).min(before);
                world.replayed = replayed.max(world.replayed);
            }
            8 => {
                let message = world.borrow_mut().on_the_way[server].pop();
                if let Some((_, None)) = message {
                    caches[server].named(TENANT, false);
                }
                if let Some((entity, Some((version, position)))) = message {
                    let written = WrittenEntity {
                        tenant: TENANT,
                        entity: number(entity),
                    };
                    caches[server].learn(position, &[written]);
                    let told = &mut world.borrow_mut().told[server][entity];
                    *told = version.max(*told);
                }
            }
            9 if drawn % 8 == 0 => {
                // What was on the way is lost, and the server hears that.
                caches[server].lose();
                let mut world = world.borrow_mut();
                let lost = std::mem::take(&mut world.on_the_way[server]);
                for (entity, written) in lost {
                    let version = written.map_or(0, |(version, _)| version);
                    let told = &mut world.told[server][entity];
                    *told = version.max(*told);
                }
            }
            10 if !running.is_empty() && drawn % 8 == 0 => {
                // A client goes away; a writer does not.
                let place = drawn % running.len();
                if running[place].0.is_none() {
                    drop(running.swap_remove(place));
                }
            }
            _ if !running.is_empty() => {
                let place = drawn % running.len();
                if running[place].1.as_mut().poll(&mut context).is_ready() {
                    drop(running.swap_remove(place));
                }
            }
            _ => {}
        }
    }
    world.borrow().remembered_count
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_answer_from_memory_lacks_a_write_that_it_must_show(
        choices in proptest::collection::vec(any::<u16>(), 200..1_200)
    ) {
        run(&choices);
    }
}

#[test]
fn the_interleavings_do_answer_from_memory() {
    let mut drawn: u64 = 1;
    let choices: Vec<u16> = (0..20_000)
        .map(|_| {
            drawn = drawn
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (drawn >> 40) as u16
        })
        .collect();
    let count = run(&choices);
    assert!(count > 200, "only {count} answers were from memory");
}

#[test]
fn many_reads_at_once_ask_once_and_a_reader_that_goes_away_fails_nobody() {
    let cache = Cache::local(
        Options {
            bytes_max: 1 << 16,
            age_max: Duration::from_secs(3_600),
            sample_every: u64::MAX,
        },
        &Database {
            system_id: SYSTEM_ID,
            signing_key: [7; 32],
        },
    );
    let world = Shared::default();
    world.borrow_mut().writes[0].push((1, true));
    world.borrow_mut().numbered[0] = Some(1);
    world.borrow_mut().lsn = 5;
    let asked = Rc::new(RefCell::new(HashMap::new()));
    let mut readers: Vec<_> = (0..100)
        .map(|reader| {
            let (cache, world, asked) = (cache.clone(), Rc::clone(&world), Rc::clone(&asked));
            Box::pin(async move {
                let name = EntityName {
                    tenant: TENANT,
                    entity_type: "device",
                    external_id: "e0",
                };
                let demand = Demand {
                    lag_max: Duration::from_secs(3),
                    token: None,
                };
                let ask = async {
                    asked.borrow_mut().insert(reader, ());
                    ask(world, 0, None, false).await
                };
                match cache.read(name, &demand, ask).await {
                    Ok(Reading::Remembered(answer)) => answer.value.version,
                    Ok(Reading::Asked((version, _))) => version,
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
