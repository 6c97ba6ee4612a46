//! Value indexes hold what documents hold, whoever writes those and whenever an index is filled or emptied.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use sheaf_ingest::{Ack, EditRequest, Writer};
use sheaf_model::{
    AttributeType, Attrs, Cell, EntityId, Event, Limits, Op, Tags, Timestamp, Value,
};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogues, Description, NewAttribute, Pin, Temperature, ValueIndex, declare_attribute,
    describe_attribute,
};
use sheaf_store::documents::await_writers;
use sheaf_store::entities::fetch_entities;
use sheaf_store::invariants::ALL;
use sheaf_store::value_index::{
    INDEXED_TEXT_CHARS_MAX, IndexStep, list_moving_indexes, step_index,
};

use world::{World, event, ingest};

const KINDS: [AttributeType; 5] = [
    AttributeType::Int,
    AttributeType::Float,
    AttributeType::Decimal,
    AttributeType::Text,
    AttributeType::Time,
];

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit a usize") % end
    }

    fn value(&mut self, kind: AttributeType) -> String {
        let pick = self.below(6);
        if pick == 5 {
            return "null".to_owned();
        }
        match kind {
            AttributeType::Int => {
                ["0", "-7", "9223372036854775807", "12", "9007199254740993"][pick].to_owned()
            }
            AttributeType::Float => ["0.1", "-2.5", "1e300", "5e-324", "3"][pick].to_owned(),
            AttributeType::Decimal => {
                ["\"12.50\"", "12.5", "\"1e30\"", "-0.001", "0"][pick].to_owned()
            }
            AttributeType::Text => {
                format!("\"{}{pick}\"", "é".repeat(98 + pick))
            }
            AttributeType::Time => {
                format!("\"201{pick}-01-01T00:00:00.00000{pick}+02:00\"")
            }
            AttributeType::Bool | AttributeType::Json => "true".to_owned(),
        }
    }

    fn attributes(&mut self) -> String {
        let mut members = Vec::new();
        for kind in KINDS {
            if self.below(3) > 0 {
                members.push(format!("\"a_{kind}\":{}", self.value(kind)));
            }
        }
        format!("{{{}}}", members.join(","))
    }

    fn time(&mut self) -> String {
        format!("2024-01-01T00:00:{:02}Z", self.below(30))
    }
}

async fn declare(world: &World, scope: &TenantScope, pin: Option<Pin>) -> Result<()> {
    for kind in KINDS {
        let attribute = NewAttribute {
            name: format!("a_{kind}"),
            kind,
            temperature: Temperature::Hot,
        };
        let description = Description {
            pin,
            ..Description::default()
        };
        let now = Timestamp::now();
        declare_attribute(&world.app, scope, &attribute, &description, now).await?;
    }
    Ok(())
}

async fn pin(world: &World, scope: &TenantScope, pin: Option<Pin>) -> Result<()> {
    let catalogues = Catalogues::new(world.app.clone());
    for kind in KINDS {
        let catalogue = catalogues.refresh(scope).await?;
        let known = catalogue
            .by_name(&format!("a_{kind}"))
            .context("declared")?;
        let description = Description {
            pin,
            ..known.description.clone()
        };
        let index = known.value_index.after(kind, pin);
        let (id, seen) = (known.id, catalogue.version());
        let hot = Temperature::Hot;
        assert!(describe_attribute(&world.app, scope, id, &description, hot, index, seen).await?);
    }
    Ok(())
}

/// Moves every index until each has settled, as upkeep does; small steps, so that there are several.
async fn settle(world: &World) -> Result<usize> {
    let upkeep = world.pool("sheaf_upkeep", 2);
    let mut settled = 0;
    for index in list_moving_indexes(&upkeep).await? {
        await_writers(&upkeep, 64).await?;
        let mut after = EntityId(i64::MIN);
        loop {
            match step_index(&upkeep, &index, after, 7).await? {
                IndexStep::Through(entity) => after = entity,
                IndexStep::Settled => {
                    settled += 1;
                    break;
                }
                IndexStep::Overtaken => break,
            }
        }
    }
    Ok(settled)
}

async fn require_sound(world: &World) -> Result<()> {
    let upkeep = world.database.client("sheaf_upkeep").await?;
    for invariant in ALL {
        if invariant.name.starts_with("value_indexes") {
            let found = invariant.check(&upkeep).await?;
            assert_eq!(found, Vec::new());
        }
    }
    Ok(())
}

async fn rows(world: &World) -> Result<i64> {
    let counts = KINDS.map(|kind| format!("(SELECT count(*) FROM sheaf.entity_index_{kind})"));
    world.count(&format!("SELECT {}", counts.join(" + "))).await
}

async fn edit(
    writer: &Writer,
    scope: &TenantScope,
    id: &str,
    op: Op,
    attributes: &str,
) -> Result<()> {
    let body = match op {
        Op::Delete => String::new(),
        Op::Patch | Op::Replace | Op::Correct => format!("{{\"attributes\":{attributes}}}"),
    };
    let request = EditRequest {
        entity_type: "thing".into(),
        external_id: id.into(),
        op,
        body: Bytes::from(body),
        observed_at: None,
        precondition: None,
        ack: Ack::Durable,
        received_at: Timestamp::now(),
    };
    // Deleting what is not there is refused, and changes nothing.
    let _ = writer.edit(scope, request).await;
    Ok(())
}

/// Writes by every way that there is: many events, late ones among them; single edits; staged ones and their flush.
async fn write(world: &World, writer: &Writer, scope: &TenantScope, dice: &mut Dice) -> Result<()> {
    let mut lines = Vec::new();
    for _ in 0..40 {
        let id = dice.below(25).to_string();
        let time = dice.time();
        lines.push(event(&id, &time, &dice.attributes()));
    }
    ingest(writer, scope, &lines).await?;
    for _ in 0..8 {
        let id = dice.below(25).to_string();
        let op = [Op::Patch, Op::Patch, Op::Replace, Op::Delete][dice.below(4)];
        edit(writer, scope, &id, op, &dice.attributes()).await?;
    }
    let names: Vec<String> = (0..25).map(|number| number.to_string()).collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| ("thing", name.as_str())).collect();
    let known = fetch_entities(&world.app, scope, &pairs).await?;
    let numbers: Vec<EntityId> = known.numbers.into_iter().flatten().collect();
    let catalogue = Catalogues::new(world.app.clone()).refresh(scope).await?;
    let mut staged = Vec::new();
    for number in numbers.iter().step_by(3) {
        let mut cells = Vec::new();
        for kind in KINDS {
            let id = catalogue
                .by_name(&format!("a_{kind}"))
                .context("declared")?
                .id;
            let text = dice.value(kind);
            let cell = match text.as_str() {
                "null" => Cell::Removed,
                text => Cell::Value(
                    Value::from_json(kind, "a", text, &Limits::DEFAULT).expect("a value"),
                ),
            };
            cells.push((id, cell));
        }
        let op = [Op::Patch, Op::Replace, Op::Delete][dice.below(3)];
        let event = Event {
            observed_at: [None, Some(Timestamp::parse(&dice.time())?.0)][dice.below(2)],
            op,
            attrs: match op {
                Op::Delete => Attrs::default(),
                Op::Patch | Op::Replace | Op::Correct => Attrs::from_distinct(cells),
            },
            tags: Tags::None,
        };
        staged.push((*number, event));
    }
    world.stage(scope, None, &staged).await?;
    let flusher = world.database.client("sheaf_writer").await?;
    flusher.execute("SELECT sheaf.stage_flush()", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn whoever_writes_documents_keeps_their_value_indexes() -> Result<()> {
    let world = World::create().await?;
    let (scope, other) = (world.tenant("acme").await?, world.tenant("bare").await?);
    declare(&world, &scope, Some(Pin::Hot)).await?;
    declare(&world, &other, None).await?;
    let writer = world.writer().await?;
    let mut dice = Dice(5);
    for _ in 0..6 {
        write(&world, &writer, &scope, &mut dice).await?;
        require_sound(&world).await?;
        write(&world, &writer, &other, &mut dice).await?;
        require_sound(&world).await?;
    }
    assert!(rows(&world).await? > 30, "{}", rows(&world).await?);
    let admin = world.database.superuser().await?;
    // Documents that went wrong, and are made anew from their history.
    admin
        .batch_execute("UPDATE sheaf.entity_jsonb SET hot_attrs = '{}', present = '{}'")
        .await?;
    for tenant in [&scope, &other] {
        let rebuild = "SELECT sheaf.upsert_hot_attrs($1, array_agg(entity_id))
            FROM sheaf.entity_jsonb WHERE tenant_id = $1";
        admin.execute(rebuild, &[&tenant.tenant().0]).await?;
    }
    require_sound(&world).await?;
    assert!(rows(&world).await? > 30);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_filled_and_emptied_beside_writers_and_holds_everything_once_it_says_so()
-> Result<()> {
    let world = Arc::new(World::create().await?);
    let scope = world.tenant("acme").await?;
    declare(&world, &scope, None).await?;
    let writer = world.writer().await?;
    let mut dice = Dice(11);
    write(&world, &writer, &scope, &mut dice).await?;
    assert_eq!(rows(&world).await?, 0, "nothing is pinned");
    let stop = Arc::new(AtomicBool::new(false));
    let task = {
        let (world, scope, stop) = (Arc::clone(&world), scope.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let writer = world.writer().await?;
            let (mut dice, mut written) = (Dice(13), 0);
            while !stop.load(Ordering::Relaxed) {
                write(&world, &writer, &scope, &mut dice).await?;
                written += 1;
            }
            anyhow::Ok(written)
        })
    };
    for _ in 0..3 {
        pin(&world, &scope, Some(Pin::Hot)).await?;
        assert_eq!(settle(&world).await?, KINDS.len());
        require_sound(&world).await?;
        let catalogue = Catalogues::new(world.app.clone()).refresh(&scope).await?;
        for kind in KINDS {
            let known = catalogue
                .by_name(&format!("a_{kind}"))
                .context("declared")?;
            assert_eq!(known.value_index, ValueIndex::Filled);
        }
        pin(&world, &scope, None).await?;
        // Pinned again before it was empty: it is emptied first, and then filled.
        pin(&world, &scope, Some(Pin::Hot)).await?;
        assert_eq!(settle(&world).await?, KINDS.len());
        assert_eq!(
            list_moving_indexes(&world.pool("sheaf_upkeep", 1))
                .await?
                .len(),
            KINDS.len()
        );
        assert_eq!(settle(&world).await?, KINDS.len());
        require_sound(&world).await?;
        pin(&world, &scope, Some(Pin::Cold)).await?;
        assert_eq!(settle(&world).await?, KINDS.len());
        assert_eq!(rows(&world).await?, 0, "everything is emptied");
    }
    stop.store(true, Ordering::Relaxed);
    let written = task.await??;
    assert!(written > 0, "somebody wrote meanwhile");
    Ok(())
}

#[tokio::test]
async fn a_step_of_another_move_than_was_seen_does_nothing() -> Result<()> {
    let world = World::create().await?;
    let scope = world.tenant("acme").await?;
    declare(&world, &scope, None).await?;
    write(&world, &world.writer().await?, &scope, &mut Dice(3)).await?;
    pin(&world, &scope, Some(Pin::Hot)).await?;
    let upkeep = world.pool("sheaf_upkeep", 1);
    let seen = list_moving_indexes(&upkeep).await?;
    pin(&world, &scope, None).await?;
    for index in seen {
        let step = step_index(&upkeep, &index, EntityId(i64::MIN), 100).await?;
        assert_eq!(step, IndexStep::Overtaken);
    }
    assert_eq!(rows(&world).await?, 0);
    Ok(())
}

#[tokio::test]
async fn the_database_keeps_as_many_characters_of_a_text_as_filters_expect() -> Result<()> {
    let world = World::create().await?;
    let admin = world.database.superuser().await?;
    let sql = "SELECT sheaf.put_index('text', '{1}', '{1}', '{1}', ARRAY[repeat('é', 300)])";
    admin.execute(sql, &[]).await?;
    let kept = world
        .count("SELECT char_length(value)::bigint FROM sheaf.entity_index_text")
        .await?;
    assert_eq!(usize::try_from(kept)?, INDEXED_TEXT_CHARS_MAX);
    Ok(())
}
