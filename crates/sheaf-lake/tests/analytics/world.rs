//! Two tenants in one lake, with the same names for everything and rows in the same files; and a lake that one of them has alone.

use std::sync::Arc;

use anyhow::Result;
use sheaf_cdc::change::{Catalogue, CatalogueRow, ChangedRow, EventRow};
use sheaf_cdc::column::ColumnValue;
use sheaf_cdc::conformance::{position, transaction};
use sheaf_cdc::sink::Sink;
use sheaf_export::{Cell, Column};
use sheaf_lake::analytics::{
    Answer, LakeReader, LakeSnapshot, Param, QueryBounds, QueryError, Question, ReaderOptions,
    Scanned, ShownFrom,
};
use sheaf_lake::{LakeOptions, LakeSink};
use sheaf_model::{BatchId, EntityId, Op, TenantId, Timestamp};
use sheaf_pg::{Pool, Tls};
use sheaf_store::TenantScope;
use sheaf_store::settings::Settings;
use sheaf_testkit::{ScratchDir, TestDatabase};
use uuid::Uuid;

/// The attributes of both tenants, by their numbers within it.
pub(crate) const KINDS: [&str; 7] = ["int", "float", "decimal", "text", "bool", "time", "json"];
/// The tenant that asks.
pub(crate) const OWN: TenantId = TenantId(1);
/// The first tenant whose rows are in the same files.
pub(crate) const OTHER: TenantId = TenantId(2);
/// What only the other tenant has.
pub(crate) const SECRET: &str = "globex-secret";
/// A number that only the other tenant has.
pub(crate) const SECRET_INT: i64 = 424_242;

/// One event, as the naive computations know it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) tenant: TenantId,
    pub(crate) entity: i64,
    pub(crate) at: Timestamp,
    pub(crate) int: i64,
    pub(crate) float: f64,
    pub(crate) text: String,
    pub(crate) truth: bool,
}

pub(crate) struct World {
    pub(crate) database: Arc<TestDatabase>,
    dir: ScratchDir,
    pub(crate) other: TenantId,
    pub(crate) events: Vec<Known>,
}

impl World {
    pub(crate) async fn create() -> Result<World> {
        let database = Arc::new(TestDatabase::create().await?);
        let other = OTHER;
        let world = World {
            database,
            dir: ScratchDir::new("analytics")?,
            other,
            events: events(other),
        };
        let mut sql = String::new();
        for (tenant, name) in [(OWN, "acme"), (other, "globex")] {
            sql.push_str(&format!(
                "INSERT INTO sheaf.tenants (tenant_id, name, created_at) OVERRIDING SYSTEM VALUE VALUES ({tenant}, '{name}', now());"
            ));
            for (place, kind) in (1..).zip(KINDS) {
                let number = attribute_number(tenant, place);
                sql.push_str(&format!(
                    "INSERT INTO sheaf.attributes (tenant_id, attribute_id, name, type, origin, temperature, created_at)
                     VALUES ({tenant}, {number}, 'an {kind}', '{kind}', 'declared', 'cold', now());"
                ));
            }
        }
        let client = world.database.superuser().await?;
        client.batch_execute(&sql).await?;
        Ok(world)
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn pool(&self, role: &str) -> Pool {
        Pool::new(&self.database.config(role), 4, &Tls::none())
    }

    /// What writes a lake of this name.
    pub(crate) fn sink(&self, catalog: &str) -> Result<LakeSink> {
        let cdc = self.pool("sheaf_cdc");
        Ok(LakeSink::new(&cdc, self.options(catalog))?)
    }

    pub(crate) fn options(&self, catalog: &str) -> LakeOptions {
        let mut options = LakeOptions {
            // Commits only where a test asks for one.
            pending_age_max: std::time::Duration::from_secs(3600),
            ..LakeOptions::in_folder(self.dir.path().join(catalog))
        };
        options.name.catalog = catalog.to_owned();
        options
    }

    /// A lake of both tenants, written in several commits, each a file a day.
    pub(crate) async fn shared(&self) -> Result<()> {
        self.fill("sheaf", &[OWN, self.other]).await
    }

    /// A lake that these tenants have for themselves.
    pub(crate) async fn fill(&self, catalog: &str, tenants: &[TenantId]) -> Result<()> {
        let mut sink = self.sink(catalog)?;
        sink.held().await?;
        sink.begin(position(10, 0)).await?;
        let mut names = Vec::new();
        for tenant in tenants {
            names.extend(catalogues(*tenant, self.other));
        }
        sink.apply(&transaction(20, names)).await?;
        let own: Vec<&Known> = self
            .events
            .iter()
            .filter(|event| tenants.contains(&event.tenant))
            .collect();
        for (lsn, part) in (30..).zip(own.chunks(own.len() / 3 + 1)) {
            let rows = part.iter().map(|event| row_of(event)).collect();
            sink.apply(&transaction(lsn, rows)).await?;
            sink.flush().await?;
        }
        Ok(())
    }

    pub(crate) async fn reader(&self, catalog: &str) -> Result<LakeReader> {
        self.bounded(catalog, QueryBounds::default()).await
    }

    pub(crate) async fn bounded(&self, catalog: &str, bounds: QueryBounds) -> Result<LakeReader> {
        let app = self.pool("sheaf_app");
        let settings = Arc::new(Settings::read(&app).await?);
        let options = self.options(catalog);
        let options = ReaderOptions {
            bounds,
            threads: Some(2),
            ..ReaderOptions::of(&options, "sheaf".to_owned())
        };
        Ok(LakeReader::new(&app, settings, options)?)
    }
}

pub(crate) fn attribute_number(tenant: TenantId, place: i64) -> i64 {
    if tenant == OWN { place } else { 100 + place }
}

/// Four days, six entities of each tenant, one event each two hours.
fn events(other: TenantId) -> Vec<Known> {
    let first = Timestamp::parse("2013-01-01T00:00:00Z").expect("a time").0;
    let mut events = Vec::new();
    for step in 0..48i64 {
        for entity in 1..=6i64 {
            for tenant in [OWN, other] {
                let number = step * 7 + entity * 13;
                let is_own = tenant == OWN;
                events.push(Known {
                    tenant,
                    entity,
                    at: first.saturating_add_micros(step * 7_200_000_000 + entity),
                    int: if is_own { number - 50 } else { SECRET_INT },
                    float: f64::from(i32::try_from(number % 97).expect("small")) / 4.0,
                    text: match is_own {
                        true => format!("word {}", number % 5),
                        false => format!("{SECRET} {number}"),
                    },
                    truth: number % 3 == 0,
                });
            }
        }
    }
    events
}

pub(crate) fn row_of(event: &Known) -> ChangedRow {
    let number = |place| attribute_number(event.tenant, place);
    let (int, float, text, truth) = (number(1), number(2), number(4), number(5));
    let attrs = format!(
        r#"{{"{int}":{},"{float}":{:?},"{text}":"{}","{truth}":{}}}"#,
        event.int, event.float, event.text, event.truth
    );
    ChangedRow::Event(EventRow {
        tenant: event.tenant,
        entity: EntityId(event.entity),
        observed_at: event.at,
        seq: 0,
        op: Op::Patch,
        batch: BatchId(Uuid::from_u128(u128::from(event.tenant.0.unsigned_abs()))),
        ingested_at: Timestamp::parse("2024-05-01T00:00:00Z").expect("a time").0,
        attrs: attrs.into(),
    })
}

pub(crate) fn catalogues(tenant: TenantId, other: TenantId) -> Vec<ChangedRow> {
    let name = if tenant == other { "globex" } else { "acme" };
    let entities = (1..=6).map(|entity| {
        // The other tenant has a type of its own.
        let of = if tenant == other && entity == 6 {
            "globex type"
        } else {
            "thing"
        };
        (entity, of.to_owned(), format!("{name} {entity}"))
    });
    catalogues_of(tenant, other, entities.collect())
}

/// The names of a tenant with these entities: number, type and id.
pub(crate) fn catalogues_of(
    tenant: TenantId,
    other: TenantId,
    entities: Vec<(i64, String, String)>,
) -> Vec<ChangedRow> {
    let text = |text: String| ColumnValue::Text(text);
    let int = ColumnValue::Int;
    let name = if tenant == other { "globex" } else { "acme" };
    let mut rows = vec![row(
        Catalogue::Tenants,
        &[
            ("tenant_id", int(tenant.0)),
            ("name", text(name.to_owned())),
        ],
    )];
    for (place, kind) in (1..).zip(KINDS) {
        rows.push(row(
            Catalogue::Attributes,
            &[
                ("tenant_id", int(tenant.0)),
                ("attribute_id", int(attribute_number(tenant, place))),
                ("name", text(format!("an {kind}"))),
                ("type", text(kind.to_owned())),
                ("unit", text(format!("{name} unit"))),
            ],
        ));
    }
    for (entity, of, id) in entities {
        rows.push(row(
            Catalogue::Entities,
            &[
                ("tenant_id", int(tenant.0)),
                ("entity_id", int(entity)),
                ("entity_type", text(of)),
                ("external_id", text(id)),
                ("created_at", ColumnValue::Time(Timestamp::MIN)),
            ],
        ));
    }
    rows
}

/// A row of a catalogue.
pub(crate) fn row(catalogue: Catalogue, columns: &[(&str, ColumnValue)]) -> ChangedRow {
    ChangedRow::Catalogue(CatalogueRow {
        catalogue,
        is_new: true,
        columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        values: columns.iter().map(|(_, value)| value.clone()).collect(),
    })
}

/// What is asked, and by whom.
pub(crate) async fn ask(
    reader: &LakeReader,
    snapshot: &LakeSnapshot,
    tenant: TenantId,
    query: &str,
    params: &[Param],
) -> Result<Answer, QueryError> {
    let question = Question {
        query: query.to_owned(),
        params: params.to_vec(),
        shown: ShownFrom::default(),
    };
    let scope = TenantScope::system(tenant, "a test asks");
    reader.ask(&scope, snapshot, question).await
}

/// All rows as text, and the columns.
pub(crate) async fn rows(
    reader: &LakeReader,
    tenant: TenantId,
    query: &str,
    params: &[Param],
) -> Result<(Vec<Column>, Vec<Vec<String>>), QueryError> {
    let snapshot = reader.look(None).await?;
    let mut answer = ask(reader, &snapshot, tenant, query, params).await?;
    let mut all = Vec::new();
    while let Some(rows) = answer.next().await? {
        all.extend(rows.iter().map(|row| row.iter().map(text_of).collect()));
    }
    Ok((answer.columns, all))
}

pub(crate) fn text_of(cell: &Cell) -> String {
    match cell {
        Cell::Absent => "-".to_owned(),
        Cell::Digits(digits) => digits.clone(),
        Cell::Value(value) => {
            let json = serde_json::to_string(value).expect("JSON");
            json.trim_matches('"').to_owned()
        }
    }
}

/// What was read for a question, once all of it was answered.
pub(crate) async fn scanned(reader: &LakeReader, query: &str) -> Result<Scanned> {
    let snapshot = reader.look(None).await?;
    let mut answer = ask(reader, &snapshot, OWN, query, &[]).await?;
    while answer.next().await?.is_some() {}
    Ok(answer.scanned())
}
