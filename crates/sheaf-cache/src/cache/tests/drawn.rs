//! Every interleaving that a seed draws of writes, reads of a primary and a replica, and announcements that are late or lost,
//! between two servers and a shared memory in which anything that was ever put may come back.

use std::pin::Pin;

use proptest::prelude::*;

use super::*;

/// Reads and writes under way at once.
const RUNNING_MAX: usize = 8;

/// A read, or the write of an entity.
type Running = (Option<usize>, Pin<Box<dyn Future<Output = ()>>>);

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
                    caches[server].named(TENANT);
                }
                if let Some((entity, Some((version, position)))) = message {
                    let written = WrittenEntity {
                        tenant: TENANT,
                        entity: number(entity),
                        is_first: false,
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
