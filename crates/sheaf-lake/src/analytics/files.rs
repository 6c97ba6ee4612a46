//! Which data files a table has, and what is in each: read once for each description and manifest, as neither ever changes.

use std::sync::Arc;

use iceberg::spec::{DataFile, Datum, Literal, ManifestFile, PrimitiveLiteral};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::LakeError;
use crate::schema::LakeTable;
use crate::table::TableState;
use crate::tenant_buckets::TenantBuckets;
use crate::warehouse::Warehouse;

/// Files that are remembered, of all tables and states. Each takes about a kilobyte.
const FILES_MAX: u64 = 100_000;
/// Descriptions that are remembered: of each table the newest, and those that running questions began with.
const STATES_MAX: usize = 32;

/// The least or the greatest value of a column in a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Edge {
    Int(i32),
    Long(i64),
    Double(f64),
    Bool(bool),
    Text(Box<str>),
}

/// What is known of a column in a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ColumnBounds {
    pub(crate) least: Option<Edge>,
    pub(crate) greatest: Option<Edge>,
    pub(crate) nulls: Option<u64>,
}

/// A data file.
#[derive(Debug, PartialEq)]
pub(crate) struct KnownFile {
    pub(crate) location: String,
    pub(crate) bytes: u64,
    pub(crate) rows: u64,
    /// How many groups of rows it has; 1 where that is not said.
    pub(crate) groups: usize,
    /// Which bucket of tenants it is of; absent where the table has none.
    pub(crate) bucket: Option<i32>,
    /// In the order of the table's columns.
    pub(crate) columns: Box<[ColumnBounds]>,
}

impl KnownFile {
    fn tenants(&self, table: LakeTable) -> Option<&ColumnBounds> {
        let columns = table.columns().iter();
        let mut places = columns.zip(&self.columns);
        let found = places.find(|(column, _)| column.name == "tenant_id");
        found.map(|(_, bounds)| bounds)
    }

    /// Whether all of its rows are the tenant's.
    pub(crate) fn is_of(&self, table: LakeTable, tenant: i64) -> bool {
        self.tenants(table).is_some_and(|bounds| {
            let edges = [&bounds.least, &bounds.greatest];
            edges
                .into_iter()
                .all(|edge| matches!(edge, Some(Edge::Long(of)) if *of == tenant))
        })
    }
}

/// A table's files, manifest by manifest.
pub(crate) type KnownFiles = Vec<Arc<Vec<Arc<KnownFile>>>>;

#[derive(Debug, Clone)]
struct ByFiles;

impl Weighter<String, Arc<Vec<Arc<KnownFile>>>> for ByFiles {
    fn weight(&self, _: &String, files: &Arc<Vec<Arc<KnownFile>>>) -> u64 {
        u64::try_from(files.len()).unwrap_or(u64::MAX) + 1
    }
}

/// What is remembered of the lake's tables.
#[derive(Debug)]
pub(crate) struct FileBook {
    warehouse: Warehouse,
    /// By the location of the description.
    states: Cache<String, Arc<TableState>>,
    /// By the location of the manifest.
    manifests: Cache<String, Arc<Vec<Arc<KnownFile>>>, ByFiles>,
}

impl FileBook {
    pub(crate) fn new(warehouse: Warehouse) -> FileBook {
        FileBook {
            warehouse,
            states: Cache::new(STATES_MAX),
            manifests: Cache::with_weighter(1_024, FILES_MAX, ByFiles),
        }
    }

    /// The files of a table as of one description.
    pub(crate) async fn files(
        &self,
        table: LakeTable,
        description: &str,
    ) -> Result<KnownFiles, LakeError> {
        let state = match self.states.get(description) {
            Some(state) => state,
            None => {
                let state = TableState::load(table, &self.warehouse, description).await?;
                let state = Arc::new(state);
                self.states.insert(description.to_owned(), state.clone());
                state
            }
        };
        let mut files = Vec::with_capacity(state.manifests.len());
        for manifest in &state.manifests {
            files.push(self.files_of(&state, manifest).await?);
        }
        Ok(files)
    }

    async fn files_of(
        &self,
        state: &TableState,
        manifest: &ManifestFile,
    ) -> Result<Arc<Vec<Arc<KnownFile>>>, LakeError> {
        let location = &manifest.manifest_path;
        if let Some(files) = self.manifests.get(location) {
            return Ok(files);
        }
        let files = state.files_of(&self.warehouse, manifest).await?;
        let files = files.iter().map(|file| Arc::new(known(state.table, file)));
        let files = Arc::new(files.collect::<Vec<_>>());
        self.manifests.insert(location.clone(), files.clone());
        Ok(files)
    }
}

fn known(table: LakeTable, file: &DataFile) -> KnownFile {
    let bucket = match table {
        LakeTable::Tenants | LakeTable::Attributes => None,
        _ => match file.partition().fields().last() {
            Some(Some(Literal::Primitive(PrimitiveLiteral::Int(bucket)))) => Some(*bucket),
            _ => None,
        },
    };
    let columns = (1..).zip(table.columns()).map(|(number, _)| ColumnBounds {
        least: file.lower_bounds().get(&number).and_then(edge),
        greatest: file.upper_bounds().get(&number).and_then(edge),
        nulls: file.null_value_counts().get(&number).copied(),
    });
    KnownFile {
        location: file.file_path().to_owned(),
        bytes: file.file_size_in_bytes(),
        rows: file.record_count(),
        groups: file.split_offsets().map_or(1, <[i64]>::len).max(1),
        bucket,
        columns: columns.collect(),
    }
}

fn edge(datum: &Datum) -> Option<Edge> {
    Some(match datum.literal() {
        PrimitiveLiteral::Int(number) => Edge::Int(*number),
        PrimitiveLiteral::Long(number) => Edge::Long(*number),
        PrimitiveLiteral::Double(number) => Edge::Double(number.into_inner()),
        PrimitiveLiteral::Boolean(is_true) => Edge::Bool(*is_true),
        PrimitiveLiteral::String(text) => Edge::Text(text.as_str().into()),
        _ => return None,
    })
}

/// The files that may hold rows of a tenant: those of its bucket whose bounds have room for it.
pub(crate) fn of_tenant(
    table: LakeTable,
    files: &KnownFiles,
    tenant: i64,
) -> Result<Vec<Arc<KnownFile>>, LakeError> {
    let bucket = TenantBuckets::new(table)?.of(tenant)?;
    let may_hold = |file: &&Arc<KnownFile>| {
        let is_in_bucket = file.bucket.is_none_or(|of_file| of_file == bucket);
        let is_within = file.tenants(table).is_none_or(|bounds| {
            let is_above = matches!(bounds.least, Some(Edge::Long(least)) if least > tenant);
            let is_below = matches!(bounds.greatest, Some(Edge::Long(most)) if most < tenant);
            !is_above && !is_below
        });
        is_in_bucket && is_within
    };
    let all = files.iter().flat_map(|manifest| manifest.iter());
    Ok(all.filter(may_hold).cloned().collect())
}

/// A part of a file that is read at once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Portion {
    pub(crate) file: Arc<KnownFile>,
    /// Its groups of rows from this place on, so many; all of them where the number is not known to be right.
    pub(crate) groups: Option<std::ops::Range<usize>>,
}

impl Portion {
    /// How many rows it has, whosever they are.
    pub(crate) fn rows(&self) -> u64 {
        self.part_of(self.file.rows)
    }

    fn bytes(&self) -> u64 {
        self.part_of(self.file.bytes)
    }

    fn part_of(&self, whole: u64) -> u64 {
        let all = u64::try_from(self.file.groups).unwrap_or(1).max(1);
        match &self.groups {
            Some(groups) => whole * u64::try_from(groups.len()).unwrap_or(1) / all,
            None => whole,
        }
    }
}

/// Divides files over readers that work side by side, about as many bytes for each. Large files are divided between their
/// groups of rows. The portions of a reader are in the order of their files.
pub(crate) fn divide(files: &[Arc<KnownFile>], readers: usize) -> Vec<Vec<Portion>> {
    let readers = readers.max(1);
    let all: u64 = files.iter().map(|file| file.bytes).sum();
    // A quarter of a reader's share: what is left over at the end is small against all of it.
    let share = all / u64::try_from(readers * 4).unwrap_or(u64::MAX);
    let mut portions = Vec::new();
    for (place, file) in files.iter().enumerate() {
        if readers == 1 || file.groups == 1 || file.bytes <= share {
            let file = Arc::clone(file);
            portions.push((place, Portion { file, groups: None }));
            continue;
        }
        let a_group = file.bytes / u64::try_from(file.groups).unwrap_or(u64::MAX);
        let at_once = usize::try_from(share / a_group.max(1)).unwrap_or(1).max(1);
        for first in (0..file.groups).step_by(at_once) {
            let groups = first..file.groups.min(first + at_once);
            let file = Arc::clone(file);
            let groups = Some(groups);
            portions.push((place, Portion { file, groups }));
        }
    }
    portions.sort_by_key(|(_, portion)| std::cmp::Reverse(portion.bytes()));
    let mut shares: Vec<(u64, Vec<(usize, Portion)>)> = vec![(0, Vec::new()); readers];
    for (place, portion) in portions {
        let least = shares.iter_mut().min_by_key(|(bytes, _)| *bytes);
        let (bytes, least) = least.expect("invariant: there is a reader");
        *bytes += portion.bytes().max(1);
        least.push((place, portion));
    }
    let in_order = |(_, mut portions): (u64, Vec<(usize, Portion)>)| {
        portions.sort_by_key(|(place, portion)| {
            (*place, portion.groups.as_ref().map(|groups| groups.start))
        });
        portions.into_iter().map(|(_, portion)| portion).collect()
    };
    let shares = shares.into_iter().map(in_order);
    // A reader without work is a task in vain.
    let mut shares: Vec<Vec<Portion>> = shares
        .filter(|share: &Vec<Portion>| !share.is_empty())
        .collect();
    if shares.is_empty() {
        shares.push(Vec::new());
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn file(
        name: &str,
        bytes: u64,
        groups: usize,
        bucket: i32,
        tenants: (i64, i64),
    ) -> Arc<KnownFile> {
        let mut columns = vec![ColumnBounds::default(); LakeTable::Facts.columns().len()];
        columns[0] = ColumnBounds {
            least: Some(Edge::Long(tenants.0)),
            greatest: Some(Edge::Long(tenants.1)),
            nulls: Some(0),
        };
        Arc::new(KnownFile {
            location: name.to_owned(),
            bytes,
            rows: bytes,
            groups,
            bucket: Some(bucket),
            columns: columns.into(),
        })
    }

    #[test]
    fn a_tenant_is_in_files_of_its_bucket_that_have_room_for_it() {
        let bucket = TenantBuckets::new(LakeTable::Facts)
            .expect("a transform")
            .of(7)
            .expect("a bucket");
        let files = vec![
            Arc::new(vec![
                file("own", 1, 1, bucket, (7, 7)),
                file("among others", 1, 1, bucket, (1, 9)),
            ]),
            Arc::new(vec![
                file("before", 1, 1, bucket, (1, 6)),
                file("after", 1, 1, bucket, (8, 9)),
                file("another bucket", 1, 1, bucket + 1, (1, 9)),
            ]),
        ];
        let found = of_tenant(LakeTable::Facts, &files, 7).expect("files");
        let mut names: Vec<_> = found.iter().map(|file| &*file.location).collect();
        names.sort_unstable();
        assert_eq!(names, ["among others", "own"]);
    }

    #[test]
    fn a_file_is_a_tenants_alone_where_its_bounds_name_no_other() {
        for (tenants, is_own) in [
            ((7, 7), true),
            ((1, 9), false),
            ((7, 8), false),
            ((8, 8), false),
        ] {
            let file = file("a file", 1, 1, 0, tenants);
            assert_eq!(file.is_of(LakeTable::Facts, 7), is_own, "{tenants:?}");
        }
    }

    #[test]
    fn readers_get_about_as_much_each_and_every_group_once() {
        let files: Vec<_> = [(900, 9), (100, 1), (50, 1), (50, 2), (10, 1), (400, 16)]
            .iter()
            .enumerate()
            .map(|(place, (bytes, groups))| file(&place.to_string(), *bytes, *groups, 0, (1, 1)))
            .collect();
        let all: u64 = files.iter().map(|file| file.bytes).sum();
        for readers in 1..9u64 {
            let shares = divide(&files, usize::try_from(readers).expect("small"));
            assert_eq!(u64::try_from(shares.len()).expect("small"), readers);
            let mut seen: HashMap<(&str, usize), usize> = HashMap::new();
            for share in &shares {
                let bytes: u64 = share.iter().map(Portion::bytes).sum();
                assert!(bytes <= all / readers * 5 / 4 + 100, "{readers}: {bytes}");
                for portion in share {
                    let groups = portion.groups.clone().unwrap_or(0..portion.file.groups);
                    for group in groups {
                        *seen.entry((&portion.file.location, group)).or_default() += 1;
                    }
                }
            }
            let groups: usize = files.iter().map(|file| file.groups).sum();
            assert_eq!(seen.len(), groups);
            assert!(seen.values().all(|count| *count == 1));
        }
        assert_eq!(divide(&[], 4), [Vec::new()]);
    }
}
