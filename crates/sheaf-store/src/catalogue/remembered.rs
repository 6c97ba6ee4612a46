//! Catalogues that a server remembers, within a bound of bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use sheaf_model::{Lineage, TenantId, Timestamp};
use sheaf_pg::{Access, NewestTimeline, PgError, Pool};

use super::flight::Flights;
use super::{
    AttributeBounds, Catalogue, NewAttribute, catalogue_after, create_attributes, read_catalogue,
    read_version,
};
use crate::scope::TenantScope;

/// What remembered catalogues may take. The server is to stay below 400 MB under full load; catalogues get a sixth of
/// that: those of 25 tenants with 10,000 attributes each, or of a thousand with 250. More saves reading them again for
/// more tenants at once. A catalogue that is larger by itself, by its schemas, is read for every request.
///
/// A process grew by 262 bytes an attribute for catalogues of 10,000, where 256 were counted, and by 236 KB for one
/// more version of such a catalogue.
const CATALOGUES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Tables are made for so many; more tenants are remembered where their catalogues are small.
const TENANTS_ESTIMATE: usize = 1_000;
/// How long a remembered catalogue is used before its version is asked for again. Longer lets another server's change
/// of a policy go unseen; shorter asks more often. Nothing is placed or found wrongly meanwhile: versions are compared.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Remembered catalogues.
#[derive(Debug)]
pub struct Catalogues {
    app: Pool,
    remembered: Cache<TenantId, Remembered, Weight>,
    reads: Flights<Arc<Catalogue>>,
    creators: Flights<()>,
    newest: Arc<NewestTimeline>,
}

#[derive(Debug, Clone)]
struct Remembered {
    catalogue: Arc<Catalogue>,
    /// When the primary last had it; absent where only a replica was asked.
    checked_at: Option<Instant>,
    /// When it was last read anywhere.
    read_at: Instant,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<TenantId, Remembered> for Weight {
    fn weight(&self, _: &TenantId, remembered: &Remembered) -> u64 {
        remembered.catalogue.bytes() as u64
    }
}

impl Catalogues {
    /// Remembers nothing yet.
    pub fn new(app: Pool) -> Catalogues {
        Catalogues::within(app, CATALOGUES_BYTES_MAX)
    }

    fn within(app: Pool, bytes_max: usize) -> Catalogues {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(TENANTS_ESTIMATE)
            .weight_capacity(bytes_max as u64)
            // The bound holds for each shard by itself, and a large catalogue is to have all of it.
            .shards(1)
            .build()
            .expect("invariant: both capacities are set");
        Catalogues {
            newest: Arc::clone(app.newest_timeline()),
            app,
            remembered: Cache::with_options(
                options,
                Weight,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            reads: Flights::new(),
            creators: Flights::new(),
        }
    }

    /// The newest timeline of the cluster that is known of. No catalogue of an earlier one is given, and without a
    /// catalogue of its own lineage nothing is read from a primary and nothing written to it.
    pub fn newest_timeline(&self) -> &NewestTimeline {
        &self.newest
    }

    /// The catalogue, as it was at most a second ago.
    pub async fn current(&self, scope: &TenantScope) -> Result<Arc<Catalogue>, PgError> {
        let remembered = self.remembered.get(&scope.tenant());
        let Some(remembered) = remembered.filter(|known| !self.is_left_behind(known)) else {
            return Box::pin(self.refresh(scope)).await;
        };
        let checked_at = remembered.checked_at;
        if checked_at.is_some_and(|checked_at| checked_at.elapsed() < CHECK_EVERY) {
            return Ok(remembered.catalogue);
        }
        // Not part of every caller's future: most need it once a second.
        Box::pin(self.checked(scope, remembered.catalogue)).await
    }

    fn is_left_behind(&self, known: &Remembered) -> bool {
        let lineage = known.catalogue.lineage();
        lineage.is_some_and(|lineage| self.newest.require(lineage).is_err())
    }

    /// The remembered catalogue where it is still the one in force, and otherwise that.
    async fn checked(
        &self,
        scope: &TenantScope,
        catalogue: Arc<Catalogue>,
    ) -> Result<Arc<Catalogue>, PgError> {
        let tenant = scope.tenant();
        let rows = scope
            .run_one(&self.app, Access::Read, read_version(&tenant))
            .await?;
        if !catalogue.is_current(&rows)? {
            return self.refresh(scope).await;
        }
        self.remember(Arc::clone(&catalogue));
        Ok(catalogue)
    }

    /// The catalogue as it is now. Callers at the same time share one read.
    pub async fn refresh(&self, scope: &TenantScope) -> Result<Arc<Catalogue>, PgError> {
        let tenant = scope.tenant();
        let read = async {
            let rows = scope
                .run(&self.app, Access::Read, &read_catalogue(&tenant))
                .await?;
            let earlier = self.remembered.get(&tenant).map(|known| known.catalogue);
            let catalogue = Arc::new(catalogue_after(earlier.as_deref(), &rows)?);
            if let Some(lineage) = catalogue.lineage() {
                self.newest.require(lineage)?;
            }
            self.remember(Arc::clone(&catalogue));
            Ok(catalogue)
        };
        self.reads.share(tenant, read).await
    }

    /// Creates attributes that are not there yet, and gives a catalogue that has them, within the bounds. What this
    /// server creates it adds to what it remembers: reading 10,000 attributes for each new one would be quadratic.
    pub async fn create_attributes(
        &self,
        scope: &TenantScope,
        attributes: &[NewAttribute],
        bounds: AttributeBounds,
        created_at: Timestamp,
    ) -> Result<Arc<Catalogue>, PgError> {
        let create = self.create_and_add(scope, attributes, bounds, created_at);
        // The database has creators of a tenant take turns. Taking them here keeps those who wait from holding
        // connections, and adds what they create in the order of its versions.
        let catalogue = self.creators.alone(scope.tenant(), create).await?;
        match catalogue {
            Some(catalogue) => Ok(catalogue),
            None => self.refresh(scope).await,
        }
    }

    /// Nothing where the catalogue has to be read to know it.
    async fn create_and_add(
        &self,
        scope: &TenantScope,
        attributes: &[NewAttribute],
        bounds: AttributeBounds,
        created_at: Timestamp,
    ) -> Result<Option<Arc<Catalogue>>, PgError> {
        let known = || Some(self.remembered.get(&scope.tenant())?.catalogue);
        let has_all = |catalogue: &Catalogue| {
            let mut names = attributes.iter().map(|attribute| &attribute.name);
            names.all(|name| catalogue.by_name(name).is_some())
        };
        if let Some(catalogue) = known().filter(|catalogue| has_all(catalogue)) {
            return Ok(Some(catalogue));
        }
        let created = create_attributes(&self.app, scope, attributes, bounds, created_at).await?;
        let (Some(created), Some(before)) = (created, known()) else {
            return Ok(None);
        };
        if before.lineage() != created.lineage || before.version() + 1 < created.version {
            return Ok(None);
        }
        if before.version() >= created.version {
            return Ok(Some(before));
        }
        let next = Arc::new(before.with(created));
        self.remember(Arc::clone(&next));
        Ok(Some(next))
    }

    /// A catalogue that was read within this time, be it on a replica; for whoever cannot have it checked now.
    pub fn recent(&self, tenant: TenantId, within: Duration) -> Option<Arc<Catalogue>> {
        let known = self.remembered.get(&tenant)?;
        let timeline = known.catalogue.lineage().map(|lineage| lineage.timeline);
        let is_recent = known.read_at.elapsed() < within && timeline == self.newest.get();
        is_recent.then_some(known.catalogue)
    }

    /// The catalogue at this version, where it is remembered.
    pub fn recall(
        &self,
        tenant: TenantId,
        lineage: Option<Lineage>,
        version: i64,
    ) -> Option<Arc<Catalogue>> {
        let known = self.remembered.get(&tenant)?.catalogue;
        known.is_version(lineage, version).then_some(known)
    }

    /// Remembers a catalogue that was read from the primary elsewhere, unless a newer one of its lineage is remembered
    /// already.
    pub fn remember(&self, catalogue: Arc<Catalogue>) {
        self.remember_as(catalogue, Some(Instant::now()));
    }

    /// The same of a catalogue that was read from a replica, and may be as old as that is: whoever needs the primary's has
    /// it checked there first.
    pub fn remember_of_replica(&self, catalogue: Arc<Catalogue>) {
        self.remember_as(catalogue, None);
    }

    fn remember_as(&self, catalogue: Arc<Catalogue>, checked_at: Option<Instant>) {
        let tenant = catalogue.tenant.tenant;
        let known = self.remembered.get(&tenant);
        let known = known.filter(|known| known.catalogue.lineage() == catalogue.lineage());
        if let Some(known) = &known
            && known.catalogue.version() > catalogue.version()
        {
            return;
        }
        let checked_before = known
            .filter(|known| known.catalogue.version() == catalogue.version())
            .and_then(|known| known.checked_at);
        let remembered = Remembered {
            catalogue,
            checked_at: checked_at.or(checked_before),
            read_at: Instant::now(),
        };
        self.remembered.insert(tenant, remembered);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use sheaf_model::{AttributeId, AttributeType};
    use sheaf_pg::Tls;

    use super::*;
    use crate::catalogue::{Attribute, Description, Temperature, ValueIndex};
    use crate::tenants::{Tenant, TenantPolicy};

    const BYTES_MAX: usize = 100_000;

    fn lineage(timeline: u32) -> Option<Lineage> {
        Some(Lineage {
            system_id: 7,
            timeline,
        })
    }

    fn catalogue(tenant: TenantId, version: i64, count: i64) -> Catalogue {
        catalogue_of(lineage(1), tenant, version, count)
    }

    fn catalogue_of(
        lineage: Option<Lineage>,
        tenant: TenantId,
        version: i64,
        count: i64,
    ) -> Catalogue {
        let now = Timestamp::now();
        let tenant = Tenant {
            tenant,
            name: "acme".to_owned(),
            policy: TenantPolicy::default(),
            catalogue_version: version,
            created_at: now,
        };
        let attribute = |number| Attribute {
            id: AttributeId(number),
            name: format!("reading_{number}"),
            kind: AttributeType::Float,
            declared: false,
            description: Description::default(),
            temperature: Temperature::Cold,
            value_index: ValueIndex::None,
            series_tag: false,
            created_at: now,
        };
        let attributes = (0..count).map(attribute).collect();
        Catalogue::new(tenant, lineage, attributes, None)
    }

    fn nowhere() -> Catalogues {
        let config = tokio_postgres::Config::new();
        Catalogues::within(Pool::new(&config, 1, &Tls::none()), BYTES_MAX)
    }

    proptest! {
        #[test]
        fn remembered_catalogues_keep_to_their_bytes_and_to_their_newest_version(
            changes in vec((0_i64..20, 1_i64..6, 0_i64..200), 1..60),
        ) {
            let catalogues = nowhere();
            for (tenant, version, count) in changes {
                let tenant = TenantId(tenant);
                let version_known = || Some(catalogues.remembered.get(&tenant)?.catalogue.version());
                let before = version_known();
                catalogues.remember(Arc::new(catalogue(tenant, version, count)));
                match before {
                    Some(newer) if newer > version => prop_assert_eq!(version_known(), before),
                    // Where others are asked for more, it may be forgotten at once.
                    _ => prop_assert!(version_known().is_none_or(|known| known == version)),
                }
                let known = catalogues.remembered.iter();
                let bytes: usize = known.map(|(_, known)| known.catalogue.bytes()).sum();
                prop_assert!(bytes <= BYTES_MAX, "{bytes}");
            }
        }
    }

    #[test]
    fn as_many_catalogues_as_fit_are_remembered() {
        let catalogues = nowhere();
        let fitting = BYTES_MAX / catalogue(TenantId(1), 1, 20).bytes();
        for tenant in (1_i64..).take(fitting) {
            catalogues.remember(Arc::new(catalogue(TenantId(tenant), 1, 20)));
        }
        let remembered = |tenant| catalogues.recall(TenantId(tenant), lineage(1), 1).is_some();
        let count = (1_i64..)
            .take(fitting)
            .filter(|tenant| remembered(*tenant))
            .count();
        assert!(fitting > 10 && count == fitting, "{count} of {fitting}");
    }

    #[test]
    fn a_version_of_another_lineage_replaces_one_with_a_higher_number() {
        let (catalogues, tenant) = (nowhere(), TenantId(1));
        catalogues.remember(Arc::new(catalogue_of(lineage(1), tenant, 9, 1)));
        catalogues.remember(Arc::new(catalogue_of(lineage(2), tenant, 5, 1)));
        assert!(catalogues.recall(tenant, lineage(1), 5).is_none());
        assert!(catalogues.recall(tenant, lineage(2), 5).is_some());
        catalogues.remember(Arc::new(catalogue_of(lineage(2), tenant, 4, 1)));
        assert!(catalogues.recall(tenant, lineage(2), 5).is_some());
    }

    #[test]
    fn what_a_replica_has_counts_as_read_and_not_as_checked_on_the_primary() {
        let (catalogues, tenant) = (nowhere(), TenantId(1));
        catalogues.newest.saw(1);
        let remembered = |version| Arc::new(catalogue(tenant, version, 1));
        let checked_at = || {
            catalogues
                .remembered
                .get(&tenant)
                .expect("it is remembered")
                .checked_at
        };
        catalogues.remember_of_replica(remembered(1));
        assert_eq!(checked_at(), None);
        let minute = Duration::from_secs(60);
        assert!(catalogues.recent(tenant, minute).is_some());
        catalogues.remember(remembered(1));
        let checked = checked_at();
        assert!(checked.is_some());
        catalogues.remember_of_replica(remembered(1));
        assert_eq!(checked_at(), checked, "the same as before");
        catalogues.remember_of_replica(remembered(2));
        assert_eq!(checked_at(), None, "the primary was not asked for this one");
    }

    #[test]
    fn a_catalogue_that_is_larger_than_the_bound_is_not_remembered() {
        let (catalogues, tenant) = (nowhere(), TenantId(1));
        catalogues.remember(Arc::new(catalogue(tenant, 1, 1_000)));
        assert!(catalogues.recall(tenant, lineage(1), 1).is_none());
        assert_eq!(catalogues.remembered.weight(), 0);
    }
}
