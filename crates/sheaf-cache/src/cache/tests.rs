//! Writes and reads of two servers with time for others between their steps, and a model that knows what each read must show.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use sheaf_model::{EntityId, Lsn, Timestamp};

use super::*;

mod alone;
mod drawn;

const TENANT: TenantId = TenantId(1);
const SYSTEM_ID: u64 = 7;
const ENTITIES: usize = 3;
const SERVERS: usize = 2;

/// An entity, and the version and position of a write of it; none where it was its first.
type Message = (usize, Option<(i64, Position)>);

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
    {
        let mut world = world.borrow_mut();
        if world.numbered[entity].is_none() {
            world.lsn += 1;
            world.numbered[entity] = Some(world.lsn);
        }
    }
    step().await;
    if !world.borrow().learned[server][entity] {
        caches[server].named(TENANT);
        world.borrow_mut().learned[server][entity] = true;
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
        is_first: version == 1,
    };
    caches[server].committed(at(token), &[written]);
    let mut world = world.borrow_mut();
    world.own[server][entity] = version;
    let told = &mut world.told[server][entity];
    *told = version.max(*told);
    for other in (0..SERVERS).filter(|other| *other != server) {
        if version == 1 {
            world.on_the_way[other].push((entity, None));
        }
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
        && let Verdict::Answers { lag } = cache.inner.verdict(&held, &demand, cache.inner.arrival())
    {
        let answer = cache.inner.answer(&held, &demand, lag, Origin::Redis);
        check_remembered(
            &mut world.borrow_mut(),
            entity,
            &answer,
            (own, told),
            (token.unwrap_or(0), must_show),
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
            check_remembered(
                &mut world,
                entity,
                &answer,
                (own, told),
                (token.unwrap_or(0), must_show),
            );
        }
        Reading::Asked {
            answer: (version, reached),
            position,
        } => {
            assert!(
                version >= must_show,
                "a source showed {version} for {must_show}"
            );
            assert!(position.lsn.0 <= reached, "a token beyond what was read");
            assert!(
                position.lsn.0 >= token.unwrap_or(0),
                "a token before the one that was sent"
            );
            world.promised[entity].push((position.lsn.0, version));
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
    (token, must_show): (u64, i64),
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
    assert!(position >= token, "a token before the one that was sent");
    world.promised[entity].push((position, version));
    world.remembered_count += 1;
}
