//! A database with tenants in it, and the model of what they wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use sheaf_model::{
    Appended, AttributeId, AttributeType, Attrs, BatchId, Cell, Decimal, Document, JsonText, Name,
    Op, StoredRow, Timestamp, Value, append, fold_rows, merge,
};
use sheaf_pg::{JsonbWrite, PgTime, Pool, Tls};
use sheaf_query::{ReadOptions, Reader};
use sheaf_store::TenantScope;
use sheaf_store::catalogue::{
    Catalogue, Catalogues, Description, NewAttribute, Temperature, declare_attribute,
};
use sheaf_store::settings::Settings;
use sheaf_store::stored::{PartsToWrite, write_attrs, write_document};
use sheaf_store::tenants::{TenantPolicy, create_tenant};
use sheaf_testkit::TestDatabase;
use tokio_postgres::Client;

pub(crate) struct World {
    #[allow(
        dead_code,
        reason = "where the tests of replicas find it; here it is only kept"
    )]
    pub(crate) database: TestDatabase,
    pub(crate) superuser: Client,
    pub(crate) app: Pool,
    pub(crate) reader: Reader,
    pub(crate) settings: Arc<Settings>,
}

pub(crate) struct Tenant {
    pub(crate) scope: TenantScope,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) entities: BTreeMap<(String, String), Entity>,
}

#[derive(Default)]
pub(crate) struct Entity {
    pub(crate) rows: BTreeMap<(Timestamp, i16), StoredRow>,
    pub(crate) document: Document,
}

/// One attribute of each type in each part of the document: `hot_int`, `cold_int` and so on.
pub(crate) fn names(kind: AttributeType) -> [String; 2] {
    [format!("hot_{kind}"), format!("cold_{kind}")]
}

impl World {
    pub(crate) async fn new() -> Result<World> {
        World::on(TestDatabase::create().await?).await
    }

    /// In this database.
    pub(crate) async fn on(database: TestDatabase) -> Result<World> {
        let app = Pool::new(&database.config("sheaf_app"), 4, &Tls::none());
        let search = Pool::new(&database.config("sheaf_search"), 4, &Tls::none());
        let settings = Arc::new(Settings::read(&app).await?);
        let catalogues = Arc::new(Catalogues::new(app.clone()));
        let reader = Reader::new(app.clone(), search, Arc::clone(&settings), catalogues);
        Ok(World {
            superuser: database.superuser().await?,
            database,
            app,
            reader,
            settings,
        })
    }

    /// A tenant with attributes of every type, hot and cold.
    pub(crate) async fn tenant(&self, name: &str) -> Result<Tenant> {
        let name = Name::parse(name)?;
        let tenant = create_tenant(&self.app, &name, &TenantPolicy::default(), now()).await?;
        let scope = TenantScope::authenticated(tenant.expect("a new name"));
        for kind in AttributeType::ALL {
            for (name, temperature) in names(kind)
                .iter()
                .zip([Temperature::Hot, Temperature::Cold])
            {
                self.declare(&scope, name, kind, temperature).await?;
            }
        }
        let catalogue = Catalogues::new(self.app.clone()).refresh(&scope).await?;
        Ok(Tenant {
            scope,
            catalogue,
            entities: BTreeMap::new(),
        })
    }

    pub(crate) async fn declare(
        &self,
        scope: &TenantScope,
        name: &str,
        kind: AttributeType,
        temperature: Temperature,
    ) -> Result<()> {
        let attribute = NewAttribute {
            name: name.to_owned(),
            kind,
            temperature,
        };
        declare_attribute(&self.app, scope, &attribute, &Description::default(), now()).await?;
        Ok(())
    }

    /// Gives every hot attribute that has an order a value index, as writers and upkeep would.
    pub(crate) async fn index(&self, tenant: &Tenant) -> Result<()> {
        let number = tenant.scope.tenant().0;
        self.superuser
            .batch_execute(&format!(
                "BEGIN;
                UPDATE sheaf.attributes SET value_index = 'filled', pin = 'hot'
                WHERE tenant_id = {number} AND temperature = 'hot' AND type NOT IN ('bool', 'json');
                SELECT sheaf.index_documents(array_agg(tenant_id), array_agg(entity_id))
                FROM sheaf.entity_jsonb WHERE tenant_id = {number};
                UPDATE sheaf.tenants SET catalogue_version = catalogue_version + 1 WHERE tenant_id = {number};
                COMMIT"
            ))
            .await?;
        Ok(())
    }

    /// Stores a tenant's entities, with the documents and events that the model says.
    pub(crate) async fn save(&self, tenant: &Tenant) -> Result<()> {
        let number = tenant.scope.tenant().0;
        for ((entity_type, external_id), entity) in &tenant.entities {
            let row = self
                .superuser
                .query_one(
                    "INSERT INTO sheaf.entities (tenant_id, entity_type, external_id, created_at)
                     VALUES ($1, $2, $3, now()) RETURNING entity_id",
                    &[&number, entity_type, external_id],
                )
                .await?;
            let id: i64 = row.get(0);
            let document = &entity.document;
            if document.newest.is_none() {
                continue;
            }
            let parts = write_document(document, &tenant.catalogue, PartsToWrite::ALL);
            self.superuser
                .execute(
                    "INSERT INTO sheaf.entity_jsonb (tenant_id, entity_id, version, newest, floor_at, deleted,
                        updated_at, hot_attrs, cold_attrs, present, times)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::bigint[], $11)",
                    &[
                        &number,
                        &id,
                        &document.version,
                        &document.newest.map(PgTime),
                        &document.floor.map(PgTime),
                        &document.deleted,
                        &document.newest.map(PgTime),
                        &parts.hot_attrs.map(JsonbWrite),
                        &parts.cold_attrs.map(JsonbWrite),
                        &parts.present,
                        &parts.times.map(JsonbWrite),
                    ],
                )
                .await?;
            self.save_rows(number, id, entity).await?;
        }
        Ok(())
    }

    async fn save_rows(&self, tenant: i64, entity: i64, model: &Entity) -> Result<()> {
        let (mut times, mut seqs, mut ops, mut all_attrs) = (vec![], vec![], vec![], vec![]);
        for row in model.rows.values() {
            times.push(PgTime(row.observed_at));
            seqs.push(row.seq);
            ops.push(char::from(u8::try_from(row.op.letter())?).to_string());
            let mut attrs = String::new();
            write_attrs(&row.attrs, &mut attrs);
            all_attrs.push(JsonbWrite(attrs));
        }
        self.superuser
            .execute(
                "SELECT sheaf.ensure_event_partition(t) FROM unnest($1::timestamptz[]) t",
                &[&times],
            )
            .await?;
        self.superuser
            .execute(
                "INSERT INTO sheaf.entity_events (tenant_id, entity_id, observed_at, seq, op, batch_id, ingested_at, attrs)
                 SELECT $1, $2, n.observed_at, n.seq, n.op::\"char\", $7, n.observed_at, n.attrs
                 FROM unnest($3::timestamptz[], $4::smallint[], $5::text[], $6::jsonb[]) n (observed_at, seq, op, attrs)",
                &[&tenant, &entity, &times, &seqs, &ops, &all_attrs, &BatchId::new().0],
            )
            .await?;
        Ok(())
    }
}

impl Tenant {
    pub(crate) fn id(&self, name: &str) -> AttributeId {
        self.catalogue.by_name(name).expect("a declared name").id
    }

    /// One event, as the write path would store it.
    pub(crate) fn write(
        &mut self,
        (entity_type, external_id): (&str, &str),
        at: Timestamp,
        op: Op,
        cells: &[(&str, Option<Value>)],
    ) {
        let mut distinct = BTreeMap::new();
        for (name, value) in cells {
            let cell = value.clone().map_or(Cell::Removed, Cell::Value);
            distinct.insert(self.id(name), cell);
        }
        let attrs = Attrs::from_distinct(distinct.into_iter().collect());
        let key = (entity_type.to_owned(), external_id.to_owned());
        let entity = self.entities.entry(key).or_default();
        let there: Vec<StoredRow> = entity
            .rows
            .range((at, 0)..=(at, i16::MAX))
            .map(|(_, row)| row.clone())
            .collect();
        let appended = append(&there, at, op, attrs);
        if let Appended::New(row) | Appended::Merged(row) | Appended::Corrected(row) = appended {
            merge(&mut entity.document, fold_rows([&row]));
            entity.rows.insert((at, row.seq), row);
        }
    }

    pub(crate) fn entity(&self, entity_type: &str, external_id: &str) -> &Entity {
        &self.entities[&(entity_type.to_owned(), external_id.to_owned())]
    }

    /// A document's values by name.
    pub(crate) fn values(&self, document: &Document) -> Vec<(String, Value)> {
        let mut values: Vec<(String, Value)> = document
            .values()
            .map(|(id, value, _)| (self.name(id), value.clone()))
            .collect();
        values.sort_by(|one, two| one.0.cmp(&two.0));
        values
    }

    pub(crate) fn name(&self, id: AttributeId) -> String {
        self.catalogue
            .by_id(id)
            .expect("a known number")
            .name
            .clone()
    }
}

pub(crate) fn now() -> Timestamp {
    at("2024-06-01T00:00:00Z")
}

pub(crate) fn options() -> ReadOptions {
    ReadOptions::new(None, now())
}

pub(crate) fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect(text).0
}

/// So many seconds after the beginning of 2013.
pub(crate) fn second(seconds: i64) -> Timestamp {
    at("2013-01-01T00:00:00Z").saturating_add_micros(seconds * 1_000_000)
}

/// Numbers at random from a fixed start: every run sees the same.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits fit a usize") % end
    }

    /// A value of this type, one of a few, so that equal ones meet.
    pub(crate) fn value(&mut self, kind: AttributeType) -> Value {
        let pick = self.below(6);
        match kind {
            AttributeType::Int => {
                let numbers = [0, -5, 7, 9_007_199_254_740_993, i64::MAX, i64::MIN];
                Value::Int(numbers[pick])
            }
            AttributeType::Float => Value::Float([0.0, -1.5, 0.1, 1e300, 1e-7, 72.25][pick]),
            AttributeType::Decimal => {
                let number = [
                    "0",
                    "12.50",
                    "12.5",
                    "-0.001",
                    "1e30",
                    "99999999999999999999.99",
                ];
                Value::Decimal(number[pick].parse::<Decimal>().expect("a number"))
            }
            AttributeType::Text => {
                Value::Text(["", "a", "B", "b", "é", "\u{10ffff}"][pick].to_owned())
            }
            AttributeType::Bool => Value::Bool(pick.is_multiple_of(2)),
            AttributeType::Time => {
                Value::Time(second(i64::try_from(pick).expect("small") * 7 - 10))
            }
            AttributeType::Json => {
                let json = ["{}", "[1,2]", "\"x\"", "1.50", "true", "[\"a\"]"];
                Value::Json(JsonText::parse(json[pick], 32).expect("JSON"))
            }
        }
    }
}
