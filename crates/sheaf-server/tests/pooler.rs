//! What sheaf asks of PostgreSQL survives a pooler that gives out a server connection for one transaction only, as
//! PgBouncer does: no named statements, no session settings, no session locks.
//!
//! The lane of the writer is left out: COPY in binary prepares a statement, so that `sheaf_writer` needs a direct
//! connection. What is read here was written over one.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sheaf_ingest::{Ack, BodyFormat, IngestRequest, OnError, Writer};
use sheaf_model::{AttributeType, BatchId, Limits, Name, Timestamp, Value};
use sheaf_pg::{Pool, Tls};
use sheaf_query::filter::parse_text;
use sheaf_query::{
    Aggregate, AggregateValue, BucketQuery, CountMode, EntityAnswer, EntityQuery, Fill,
    HistoryQuery, ListQuery, ReadOptions, Reader, SortKey,
};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    AttributeBounds, Catalogues, Description, NewAttribute, Temperature, ValueIndex,
    create_attributes, declare_attribute, describe_attribute,
};
use sheaf_store::entities::{create_entities, fetch_entities};
use sheaf_store::keys::{ApiKey, KeyOwner, KeyScope, fetch_key, insert_key, list_keys, revoke_key};
use sheaf_store::ledger::{fetch_batch, fetch_request};
use sheaf_store::rejections::{RejectionFilter, fetch_batch_rejections, list_rejections};
use sheaf_store::settings::Settings;
use sheaf_store::tenants::{
    TenantPolicy, create_tenant, fetch_tenant, list_tenants, update_tenant,
};
use sheaf_testkit::TestDatabase;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

#[path = "pooler/pgbouncer.rs"]
mod pgbouncer;

use pgbouncer::Pooler;

const TASKS: usize = 8;
const ROUNDS: usize = 8;
const ENTITIES: usize = 12;
const EVENTS_EACH: usize = 3;

/// A tenant and what every answer to it must be.
#[derive(Debug, Clone)]
struct Tenant {
    name: String,
    scope: TenantScope,
    batch: BatchId,
    key: ApiKey,
}

/// Tenants have the same entities; only the values tell whose they are.
async fn furnish(database: &TestDatabase, name: &str) -> Result<Tenant> {
    let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
    let writer = Pool::new(&database.config("sheaf_writer"), 2, &Tls::none());
    let settings = Arc::new(Settings::read(&app).await?);
    let catalogues = Arc::new(Catalogues::new(app.clone()));
    let (writer, _lane) = Writer::start(app.clone(), writer, settings, catalogues, Limits::DEFAULT);
    let policy = TenantPolicy::default();
    let tenant = create_tenant(&app, &Name::parse(name)?, &policy, Timestamp::now()).await?;
    let scope = TenantScope::authenticated(tenant.context("a new name")?);
    let mut lines = vec![format!("nonsense of {name}")];
    for number in 0..ENTITIES {
        for day in 1..=EVENTS_EACH {
            lines.push(format!(
                r#"{{"type":"thing","id":"t{number}","observed_at":"2024-03-0{day}T00:00:00Z","attributes":{{"owner":"{name}","number":{number},"day":{day}}}}}"#
            ));
        }
    }
    let request = IngestRequest {
        body: Bytes::from(lines.join("\n")),
        format: BodyFormat::Ndjson,
        ack: Ack::Durable,
        on_error: OnError::Partial,
        idempotency_key: None,
        received_at: Timestamp::now(),
    };
    let answer = writer.ingest(&scope, request).await?;
    ensure!(
        answer.bad_events == 1,
        "one line of {name} is refused: {answer:?}"
    );
    let key = ApiKey::generate();
    let scopes = [KeyScope::Read];
    insert_key(&app, &scope, &key, &scopes, Timestamp::now(), None).await?;
    Ok(Tenant {
        name: name.to_owned(),
        scope,
        batch: answer.batch,
        key,
    })
}

/// One of several that ask at the same time.
#[derive(Clone)]
struct Task {
    number: usize,
    app: Pool,
    reader: Reader,
    catalogues: Arc<Catalogues>,
    ours: Tenant,
    theirs: Tenant,
}

impl Task {
    /// What changes the catalogue is apart from the reads, which give up where it keeps changing under them.
    async fn run(&self, all_have_written: &Barrier) -> Result<()> {
        for round in 0..ROUNDS {
            self.attributes(round).await.context("attributes")?;
            self.tenants().await.context("tenants")?;
        }
        all_have_written.wait().await;
        for round in 0..ROUNDS {
            let number = round % ENTITIES;
            self.entity(number).await.context("an entity")?;
            self.history(number).await.context("a history")?;
            self.list().await.context("a list")?;
            self.names(round).await.context("names")?;
            self.keys().await.context("keys")?;
            self.requests().await.context("requests")?;
            let catalogue = self.catalogues.refresh(&self.ours.scope).await?;
            ensure!(catalogue.tenant.name == self.ours.name, "{catalogue:?}");
        }
        Ok(())
    }

    fn check_owner(&self, entity: &EntityAnswer) -> Result<()> {
        let owner = ("owner".to_owned(), Value::Text(self.ours.name.clone()));
        ensure!(
            entity.attributes.contains(&owner),
            "an entity of {} is {entity:?}",
            self.ours.name
        );
        Ok(())
    }

    async fn entity(&self, number: usize) -> Result<()> {
        let (scope, id) = (&self.ours.scope, format!("t{number}"));
        let query = EntityQuery {
            select: None,
            times: true,
        };
        let now = self
            .reader
            .entity(scope, "thing", &id, &query, &options())
            .await?
            .value
            .context("it is there")?;
        self.check_owner(&now)?;
        let then = self
            .reader
            .entity_as_of(scope, "thing", &id, march(2), &query, &options())
            .await?
            .value
            .context("it was there")?;
        self.check_owner(&then)?;
        ensure!(
            then.observed_at == march(2),
            "as of the second day: {then:?}"
        );
        Ok(())
    }

    async fn history(&self, number: usize) -> Result<()> {
        let (scope, id) = (&self.ours.scope, format!("t{number}"));
        let query = HistoryQuery {
            attributes: Some(vec!["owner".to_owned()]),
            from: None,
            to: None,
            descending: true,
            limit: 10,
            cursor: None,
            corrections: false,
        };
        let history = self
            .reader
            .history(scope, "thing", &id, &query, &options())
            .await?
            .value
            .context("it has a history")?;
        let owner = (
            "owner".to_owned(),
            Some(Value::Text(self.ours.name.clone())),
        );
        let items = &history.page.items;
        ensure!(items.len() == EVENTS_EACH, "{items:?}");
        ensure!(
            items.iter().all(|item| item.attributes.contains(&owner)),
            "{items:?}"
        );
        let query = BucketQuery {
            attributes: Some(vec!["owner".to_owned()]),
            from: None,
            to: None,
            descending: false,
            limit: 10,
            cursor: None,
            bucket: "1d".parse()?,
            aggregates: Some(vec![Aggregate::Last]),
            fill: Fill::None,
        };
        let buckets = self
            .reader
            .history_buckets(scope, "thing", &id, &query, &options())
            .await?
            .value
            .context("it has buckets")?;
        let last = AggregateValue::Value(Value::Text(self.ours.name.clone()));
        let expected = [("owner".to_owned(), vec![(Aggregate::Last, last)])];
        let items = &buckets.page.items;
        ensure!(items.len() == EVENTS_EACH, "{items:?}");
        ensure!(
            items.iter().all(|item| item.attributes == expected),
            "{items:?}"
        );
        Ok(())
    }

    /// All pages of a filtered list, counted.
    async fn list(&self) -> Result<()> {
        let mut query = ListQuery {
            entity_type: Some("thing".to_owned()),
            filter: Some(parse_text("number >= 2 AND owner IS NOT NULL")?),
            sort: vec![SortKey {
                name: "number".to_owned(),
                descending: true,
            }],
            select: None,
            limit: 6,
            cursor: None,
            count: CountMode::Exact,
            facets: Vec::new(),
        };
        let mut found = 0;
        loop {
            let scope = &self.ours.scope;
            let answer = self.reader.list(scope, &query, &options()).await?.value;
            let count = answer.count.context("it is counted")?.value;
            ensure!(count == i64::try_from(ENTITIES - 2)?, "{count} are counted");
            for entity in &answer.page.items {
                self.check_owner(entity)?;
            }
            found += answer.page.items.len();
            query.cursor = answer.page.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        ensure!(found == ENTITIES - 2, "{found} are listed");
        Ok(())
    }

    /// New names of entities, found again by their tenant alone.
    async fn names(&self, round: usize) -> Result<()> {
        let (app, scope, now) = (&self.app, &self.ours.scope, Timestamp::now());
        let name = format!("made_{}_{round}", self.number);
        let entities = [("thing", name.as_str())];
        create_entities(app, scope, &entities, now).await?;
        let found = fetch_entities(app, scope, &entities).await?;
        ensure!(found.numbers[0].is_some(), "{name} is found");
        let found = fetch_entities(app, &self.theirs.scope, &entities).await?;
        ensure!(
            found.numbers[0].is_none(),
            "{name} is not found by another tenant"
        );
        Ok(())
    }

    /// New attributes, found again in their tenant's catalogue alone.
    async fn attributes(&self, round: usize) -> Result<()> {
        let (app, scope, now) = (&self.app, &self.ours.scope, Timestamp::now());
        let name = format!("made_{}_{round}", self.number);
        let attribute = NewAttribute {
            name: name.clone(),
            kind: AttributeType::Int,
            temperature: Temperature::Cold,
        };
        let bounds = AttributeBounds {
            hot_max: 100,
            attributes_max: 1_000,
        };
        create_attributes(app, scope, std::slice::from_ref(&attribute), bounds, now).await?;
        let declared =
            declare_attribute(app, scope, &attribute, &Description::default(), now).await?;
        ensure!(!declared, "{name} is there already");
        let catalogue = self.catalogues.refresh(scope).await?;
        let made = catalogue.by_name(&name).context("a new attribute")?;
        let description = Description::default();
        // Either is right: another task may have moved the catalogue on.
        let (id, seen) = (made.id, catalogue.version());
        describe_attribute(
            app,
            scope,
            id,
            &description,
            Temperature::Cold,
            ValueIndex::None,
            seen,
        )
        .await?;
        let theirs = self.catalogues.refresh(&self.theirs.scope).await?;
        ensure!(
            theirs.by_name(&name).is_none(),
            "{name} is not another tenant's"
        );
        Ok(())
    }

    async fn keys(&self) -> Result<()> {
        let (app, scope, now) = (&self.app, &self.ours.scope, Timestamp::now());
        let key = ApiKey::generate();
        insert_key(app, scope, &key, &[KeyScope::Read], now, None).await?;
        let stored = fetch_key(app, key.id()).await?.context("a new key")?;
        ensure!(stored.admits(&key, now), "the new key is good");
        ensure!(
            revoke_key(app, scope, key.id(), now).await?,
            "the key is revoked"
        );
        let stored = fetch_key(app, self.ours.key.id()).await?.context("a key")?;
        let KeyOwner::Tenant { tenant, .. } = stored.owner else {
            anyhow::bail!("a tenant's key is an administrator's");
        };
        ensure!(tenant == scope.tenant(), "the key is of {tenant:?}");
        let listed = list_keys(app, scope).await?;
        ensure!(
            listed.iter().any(|row| row.id == *self.ours.key.id())
                && listed.iter().all(|row| row.id != *self.theirs.key.id()),
            "{listed:?}"
        );
        Ok(())
    }

    async fn requests(&self) -> Result<()> {
        let (app, scope) = (&self.app, &self.ours.scope);
        let page = list_rejections(app, scope, &RejectionFilter::default(), 10).await?;
        let raw = format!("nonsense of {}", self.ours.name);
        ensure!(
            page.rejections.len() == 1 && page.rejections[0].raw == raw.as_bytes(),
            "{page:?}"
        );
        let of_batch = fetch_batch_rejections(app, scope, self.ours.batch, 10).await?;
        ensure!(of_batch.bad_events == 1, "{of_batch:?}");
        let record = fetch_batch(app, scope, self.ours.batch).await?;
        let events = record.context("our request is in the ledger")?.events;
        ensure!(
            events == i64::try_from(ENTITIES * EVENTS_EACH + 1)?,
            "{events} events"
        );
        let other = fetch_batch(app, scope, self.theirs.batch).await?;
        ensure!(other.is_none(), "another tenant's request is not found");
        let unknown = fetch_request(app, scope, "never sent").await?;
        ensure!(unknown.is_none(), "{unknown:?}");
        Ok(())
    }

    async fn tenants(&self) -> Result<()> {
        let (app, id) = (&self.app, self.ours.scope.tenant());
        let tenant = fetch_tenant(app, &self.ours.name)
            .await?
            .context("we are")?;
        ensure!(tenant.tenant == id, "{tenant:?}");
        // Either is right, as above.
        update_tenant(app, id, &tenant.policy, tenant.catalogue_version).await?;
        let names = list_tenants(app, "", 10).await?;
        ensure!(names.len() == 2, "{names:?}");
        Ok(())
    }
}

fn march(day: u32) -> Timestamp {
    let text = format!("2024-03-0{day}T00:00:00Z");
    Timestamp::parse(&text).expect("a time").0
}

fn options() -> ReadOptions {
    ReadOptions::new(None, Timestamp::now())
}

#[tokio::test]
async fn everything_but_copy_works_through_a_transaction_pooler() -> Result<()> {
    let database = TestDatabase::create().await?;
    let tenants = [
        furnish(&database, "acme").await?,
        furnish(&database, "zenith").await?,
    ];
    let pooler = Pooler::start(&database).await?;
    let app = pooler.pool("sheaf_app", TASKS)?;
    let search = pooler.pool("sheaf_search", TASKS)?;
    let settings = Arc::new(Settings::read(&app).await?);
    let catalogues = Arc::new(Catalogues::new(app.clone()));
    let reader = Reader::new(app.clone(), search, settings, Arc::clone(&catalogues));
    let all_have_written = Arc::new(Barrier::new(TASKS));
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let task = Task {
            number,
            app: app.clone(),
            reader: reader.clone(),
            catalogues: Arc::clone(&catalogues),
            ours: tenants[number % 2].clone(),
            theirs: tenants[(number + 1) % 2].clone(),
        };
        let all_have_written = Arc::clone(&all_have_written);
        tasks.spawn(async move {
            let who = || format!("task {number} of {}", task.ours.name);
            task.run(&all_have_written).await.with_context(who)
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Else the test above would prove nothing.
#[tokio::test]
async fn the_pooler_loses_a_named_statement() -> Result<()> {
    let database = TestDatabase::create().await?;
    let pooler = Pooler::start(&database).await?;
    let app = pooler.pool("sheaf_app", 2)?;
    let (one, two) = (app.get().await?, app.get().await?);
    let statement = one.prepare("SELECT 1").await?;
    // Takes the only server connection there is, the one that knows the statement.
    two.batch_execute("BEGIN").await?;
    let error = one.query(&statement, &[]).await.err();
    let code = error.as_ref().and_then(|error| error.code());
    assert_eq!(
        code.map(|code| code.code()),
        Some("26000"),
        "the statement is unknown to the other server connection: {error:?}"
    );
    two.batch_execute("ROLLBACK").await?;
    Ok(())
}
