//! The events of a benchmark. An event is a pure function of a seed and its place, so that case and baseline write the
//! same, and nothing has to be kept.

/// 2013-01-01T00:00:00Z in microseconds: old enough that no two cases' partitions depend on the day they run on.
const EPOCH_MICROS: i64 = 1_356_998_400_000_000;
const SECOND: i64 = 1_000_000;
/// A late event is this much older than its turn. The half second keeps it off every instant that is on time.
const LATE_MICROS: i64 = 3_600 * SECOND + SECOND / 2;

/// Whose event comes next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Every entity once an instant.
    Turns,
    /// A few entities take nine events of ten; instants are a millisecond apart.
    HotFew { hot: u64 },
    /// As agents send: a block of entities for several instants, then the next block.
    Blocks { entities: u64, instants: u64 },
}

/// Which attributes an event has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fields {
    /// The first few, all of them.
    All(u64),
    /// One of the first few, in turn.
    OneInTurn(u64),
    /// Each entity its own few of many.
    Sparse { each: u64, of: u64 },
}

/// A kind of load.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Workload {
    /// The entities' type.
    pub(super) kind: &'static str,
    pub(super) seed: u64,
    pub(super) entities: u64,
    pub(super) order: Order,
    /// Between two instants of an entity that reports in turn.
    pub(super) step_micros: i64,
    pub(super) fields: Fields,
    /// Whole numbers instead of ones with two decimals.
    pub(super) whole: bool,
    /// Tags of each entity, which never change; line protocol only.
    pub(super) tags: usize,
    /// Events of a hundred that are older than their entity's newest.
    pub(super) late_percent: u64,
    /// Events of a hundred that repeat an earlier one.
    pub(super) duplicate_percent: u64,
    /// Ids of 36 characters instead of a letter and a number.
    pub(super) long_ids: bool,
}

/// One event. Values are in hundredths, or whole numbers where the load has those.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Event {
    pub(super) entity: u64,
    pub(super) micros: i64,
    pub(super) fields: Vec<(u64, i64)>,
}

impl Workload {
    /// Devices of ten sensors that all report each time.
    pub(in crate::bench) fn devices(kind: &'static str, entities: u64) -> Workload {
        Workload {
            kind,
            seed: 1,
            entities,
            order: Order::Turns,
            step_micros: SECOND,
            fields: Fields::All(10),
            whole: false,
            tags: 0,
            late_percent: 0,
            duplicate_percent: 0,
            long_ids: false,
        }
    }

    /// The same, so many seconds apart.
    pub(in crate::bench) fn every(self, seconds: u64) -> Workload {
        let seconds = i64::try_from(seconds).expect("less than a year");
        Workload {
            step_micros: seconds * SECOND,
            ..self
        }
    }

    /// What servers' agents send: ten whole numbers, ten tags that never change.
    pub(super) fn agents(entities: u64) -> Workload {
        Workload {
            order: Order::Blocks {
                entities: entities.min(100),
                instants: 50,
            },
            whole: true,
            tags: TAGS.len(),
            ..Workload::devices("agent", entities)
        }
    }

    /// How many events it takes until every entity has had its turn (of the hot few: until most have).
    pub(in crate::bench) fn events_of_all(&self) -> u64 {
        match self.order {
            Order::Turns | Order::HotFew { .. } => self.entities,
            Order::Blocks { instants, .. } => self.entities * instants,
        }
    }

    /// Makes an event in place.
    pub(super) fn fill(&self, index: u64, event: &mut Event) {
        let index = self.original(index);
        let (entity, instant_micros) = self.turn(index);
        let late = self.percent(index, Draw::Late) < self.late_percent;
        event.entity = entity;
        event.micros = EPOCH_MICROS + instant_micros - if late { LATE_MICROS } else { 0 };
        event.fields.clear();
        let mut push = |place: u64| {
            let value = self.draw(index, Draw::Value(place)) % 10_000;
            event
                .fields
                .push((place, i64::try_from(value).expect("below ten thousand")));
        };
        match self.fields {
            Fields::All(count) => (0..count).for_each(&mut push),
            // Entities start at different attributes, or all would report the same one.
            Fields::OneInTurn(count) => push((index / self.entities + entity) % count),
            Fields::Sparse { each, of } => {
                // A step this short does not come round, so that no attribute stands twice.
                let step = 1 + self.draw(entity, Draw::Step) % ((of - 1) / each).max(1);
                let first = self.draw(entity, Draw::First) % of;
                (0..each).for_each(|n| push((first + n * step) % of));
            }
        }
    }

    /// The event that an event repeats, or itself.
    fn original(&self, mut index: u64) -> u64 {
        while index >= self.entities
            && self.percent(index, Draw::Duplicate) < self.duplicate_percent
        {
            index -= self.entities;
        }
        index
    }

    fn turn(&self, index: u64) -> (u64, i64) {
        let at = |instants: u64| i64::try_from(instants).expect("fewer than 2^63 instants");
        match self.order {
            Order::Turns => (
                index % self.entities,
                at(index / self.entities) * self.step_micros,
            ),
            Order::HotFew { hot } => {
                let draw = self.draw(index, Draw::Entity);
                let cold = self.percent(index, Draw::Cold) < 10;
                let entity = draw % if cold { self.entities } else { hot };
                (entity, at(index) * 1_000)
            }
            Order::Blocks { entities, instants } => {
                let (block, within) =
                    (index / (entities * instants), index % (entities * instants));
                let blocks = self.entities / entities;
                let entity = block % blocks * entities + within % entities;
                let instant = block / blocks * instants + within / entities;
                (entity, at(instant) * SECOND)
            }
        }
    }

    fn percent(&self, index: u64, draw: Draw) -> u64 {
        self.draw(index, draw) % 100
    }

    /// A number that looks random: splitmix64 over seed, place and purpose.
    fn draw(&self, index: u64, draw: Draw) -> u64 {
        let purpose = match draw {
            Draw::Late => 1,
            Draw::Duplicate => 2,
            Draw::Entity => 3,
            Draw::Cold => 4,
            Draw::Step => 5,
            Draw::First => 6,
            Draw::Value(place) => 16 + place,
        };
        mixed(mixed(self.seed ^ purpose << 40) ^ index)
    }
}

/// What a random number is for.
#[derive(Clone, Copy)]
enum Draw {
    Late,
    Duplicate,
    Entity,
    Cold,
    Step,
    First,
    Value(u64),
}

fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// Names of tags as such agents have them; a value is two characters and the entity's number in some range.
pub(super) const TAGS: [&str; 10] = [
    "arch",
    "datacenter",
    "host",
    "os",
    "rack",
    "region",
    "service",
    "service_environment",
    "service_version",
    "team",
];

/// The value of a tag of an entity. The host is its own, the others are shared.
pub(super) fn tag_value(place: usize, entity: u64) -> String {
    match TAGS[place] {
        "host" => format!("host_{entity}"),
        name => format!("{}_{}", &name[..2], mixed(entity ^ name.len() as u64) % 20),
    }
}

/// The id of an entity.
pub(super) fn id(workload: &Workload, entity: u64) -> String {
    if workload.long_ids {
        let (high, low) = (
            mixed(entity ^ workload.seed << 32),
            mixed(entity.wrapping_neg()),
        );
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    } else {
        format!("d{entity}")
    }
}

#[cfg(test)]
mod tests;
