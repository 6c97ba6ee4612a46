//! Where the files of the lake are. A file that was written is on disk, under a name that nobody wrote before; it is never
//! changed after.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use iceberg::io::FileIO;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt};
use uuid::Uuid;

use crate::background::in_background;
use crate::error::LakeError;

mod owner;

/// The scheme of locations in a folder.
const FILE: &str = "file://";

/// Where a lake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A folder of this machine, or one that looks like it.
    Folder(PathBuf),
    /// A bucket of S3, or of something with the same interface.
    Bucket(Bucket),
}

/// A bucket. Without keys it is opened as the machine is known there.
#[derive(Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// What the names of all files begin with; may be empty.
    pub prefix: String,
    /// Where it is.
    pub region: String,
    /// Where it is asked for, where that is not the region's own place.
    pub endpoint: Option<String>,
    /// The key's number and secret.
    pub keys: Option<(String, String)>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Bucket({}/{} in {})",
            self.name, self.prefix, self.region
        )
    }
}

/// The files of one lake.
#[derive(Debug, Clone)]
pub(crate) struct Warehouse {
    store: Store,
    root: String,
}

#[derive(Debug, Clone)]
enum Store {
    Folder(PathBuf),
    Bucket {
        objects: Arc<dyn ObjectStore>,
        /// What locations have before the name of the object.
        scheme: String,
    },
}

/// A file that is there, and when it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundFile {
    pub(crate) location: String,
    pub(crate) written_at: SystemTime,
}

impl Warehouse {
    pub(crate) fn open(location: &Location) -> Result<Warehouse, LakeError> {
        match location {
            Location::Folder(folder) => Warehouse::open_folder(folder),
            Location::Bucket(bucket) => Warehouse::open_bucket(bucket),
        }
    }

    fn open_folder(folder: &Path) -> Result<Warehouse, LakeError> {
        let name = folder.display().to_string();
        make_folder(folder).map_err(LakeError::file("making folder", &name))?;
        // Readers elsewhere start in another directory.
        let folder = folder
            .canonicalize()
            .map_err(LakeError::file("finding folder", &name))?;
        let root = folder.to_str().ok_or(LakeError::Folder)?;
        Ok(Warehouse {
            root: format!("{FILE}{root}"),
            store: Store::Folder(folder),
        })
    }

    fn open_bucket(bucket: &Bucket) -> Result<Warehouse, LakeError> {
        let scheme = format!("s3://{}/", bucket.name);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket.name)
            .with_region(&bucket.region);
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder
                .with_endpoint(endpoint)
                .with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some((id, secret)) = &bucket.keys {
            builder = builder
                .with_access_key_id(id)
                .with_secret_access_key(secret);
        }
        let objects = builder.build();
        let objects = objects.map_err(LakeError::file("opening bucket", &scheme))?;
        let prefix = bucket.prefix.trim_matches('/');
        Ok(Warehouse {
            root: format!("{scheme}{prefix}").trim_end_matches('/').to_owned(),
            store: Store::Bucket {
                objects: Arc::new(objects),
                scheme,
            },
        })
    }

    /// Where tables are.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// Writes a whole file. Its name in a folder is on disk only after [`Warehouse::settle`].
    pub(crate) async fn write(&self, location: &str, bytes: Bytes) -> Result<(), LakeError> {
        const STEP: &str = "writing file";
        match &self.store {
            Store::Folder(_) => {
                let fault = LakeError::file(STEP, location);
                let path = path_of(location).to_owned();
                in_background(move || write_file(&path, &bytes).map_err(fault)).await
            }
            Store::Bucket { objects, scheme } => {
                let name = object_of(scheme, location)?;
                let put = objects.put(&name, bytes.into()).await;
                put.map(|_| ()).map_err(LakeError::file(STEP, location))
            }
        }
    }

    /// What time it is where the times of files come from.
    pub(crate) async fn now(&self) -> Result<SystemTime, LakeError> {
        const STEP: &str = "reading the time of file";
        let location = format!("{}/sheaf-lake.now-{}", self.root, Uuid::new_v4());
        self.write(&location, Bytes::from_static(b"now")).await?;
        let now = match &self.store {
            Store::Folder(_) => {
                let fault = LakeError::file(STEP, &location);
                let path = path_of(&location).to_owned();
                let modified = move || std::fs::metadata(path)?.modified();
                in_background(move || modified().map_err(fault)).await
            }
            Store::Bucket { objects, scheme } => {
                let name = object_of(scheme, &location)?;
                let head = objects.head(&name).await;
                head.map(|object| object.last_modified.into())
                    .map_err(LakeError::file(STEP, &location))
            }
        };
        self.delete(&location).await?;
        now
    }

    /// Reads a whole file.
    pub(crate) async fn read(&self, location: &str) -> Result<Bytes, LakeError> {
        match &self.store {
            Store::Folder(_) => {
                let fault = unread_file(location);
                let path = path_of(location).to_owned();
                in_background(move || std::fs::read(path).map(Bytes::from).map_err(fault)).await
            }
            Store::Bucket { objects, scheme } => {
                let name = object_of(scheme, location)?;
                let read = async { objects.get(&name).await?.bytes().await };
                read.await.map_err(unread_object(location))
            }
        }
    }

    /// Reads parts of a file.
    pub(crate) async fn read_ranges(
        &self,
        location: &str,
        ranges: Vec<Range<u64>>,
    ) -> Result<Vec<Bytes>, LakeError> {
        match &self.store {
            Store::Folder(_) => {
                let fault = unread_file(location);
                let path = path_of(location).to_owned();
                in_background(move || read_ranges_of(&path, &ranges).map_err(fault)).await
            }
            Store::Bucket { objects, scheme } => {
                let name = object_of(scheme, location)?;
                let read = objects.get_ranges(&name, &ranges).await;
                read.map_err(unread_object(location))
            }
        }
    }

    pub(crate) async fn delete(&self, location: &str) -> Result<(), LakeError> {
        const STEP: &str = "deleting file";
        match &self.store {
            Store::Folder(_) => {
                let fault = LakeError::file(STEP, location);
                let path = path_of(location).to_owned();
                in_background(move || std::fs::remove_file(path).map_err(fault)).await
            }
            Store::Bucket { objects, scheme } => {
                let name = object_of(scheme, location)?;
                objects
                    .delete(&name)
                    .await
                    .map_err(LakeError::file(STEP, location))
            }
        }
    }

    /// Puts the names of written files on disk, and those of the folders that they are in.
    pub(crate) async fn settle(&self, locations: Vec<String>) -> Result<(), LakeError> {
        match &self.store {
            Store::Folder(root) => {
                let root = root.clone();
                in_background(move || settle_folders(&root, &locations)).await
            }
            // An object that was put is there.
            Store::Bucket { .. } => Ok(()),
        }
    }

    /// Every file below a location.
    pub(crate) async fn list(&self, location: &str) -> Result<Vec<FoundFile>, LakeError> {
        const STEP: &str = "listing";
        match &self.store {
            Store::Folder(_) => {
                let fault = LakeError::file(STEP, location);
                let path = path_of(location).to_owned();
                in_background(move || {
                    let mut found = Vec::new();
                    list_below(&path, &mut found).map_err(fault)?;
                    Ok(found)
                })
                .await
            }
            Store::Bucket { objects, scheme } => {
                let name = object_of(scheme, location)?;
                let found = objects.list(Some(&name)).map_ok(|object| FoundFile {
                    location: format!("{scheme}{}", object.location),
                    written_at: object.last_modified.into(),
                });
                found
                    .try_collect()
                    .await
                    .map_err(LakeError::file(STEP, location))
            }
        }
    }

    /// A file as the Iceberg crate reads it: of its own storages only the one in memory is used.
    pub(crate) async fn load(&self, location: &str) -> Result<FileIO, LakeError> {
        let bytes = self.read(location).await?;
        let memory = FileIO::new_with_memory();
        let output = memory.new_output(location);
        let output = output.map_err(LakeError::file("naming file", location))?;
        let written = output.write(bytes).await;
        written.map_err(LakeError::file("reading file", location))?;
        Ok(memory)
    }

    /// Writes a file that the Iceberg crate has written into memory.
    pub(crate) async fn keep(&self, memory: &FileIO, location: &str) -> Result<(), LakeError> {
        let input = memory.new_input(location);
        let input = input.map_err(LakeError::file("naming file", location))?;
        let bytes = input.read().await;
        let bytes = bytes.map_err(LakeError::file("making file", location))?;
        self.write(location, bytes).await
    }
}

fn path_of(location: &str) -> &Path {
    Path::new(location.strip_prefix(FILE).unwrap_or(location))
}

fn object_of(scheme: &str, location: &str) -> Result<object_store::path::Path, LakeError> {
    let name = location.strip_prefix(scheme).unwrap_or(location);
    object_store::path::Path::parse(name).map_err(LakeError::file("naming file", location))
}

const READING: &str = "reading file";

/// Why a file could not be read: one that is not there says so by itself.
fn unread_file(location: &str) -> impl FnOnce(io::Error) -> LakeError + use<> {
    let location = location.to_owned();
    move |error| match error.kind() {
        io::ErrorKind::NotFound => LakeError::Missing { location },
        _ => LakeError::file(READING, &location)(error),
    }
}

fn unread_object(location: &str) -> impl FnOnce(object_store::Error) -> LakeError + use<> {
    let location = location.to_owned();
    move |error| match error {
        object_store::Error::NotFound { .. } => LakeError::Missing { location },
        error => LakeError::file(READING, &location)(error),
    }
}

/// What tenants wrote is in it: for nobody else on the machine, as PostgreSQL keeps its own.
fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_ranges_of(path: &Path, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
    let file = std::fs::File::open(path)?;
    let read = ranges.iter().map(|range| {
        let count = usize::try_from(range.end.saturating_sub(range.start));
        let mut bytes = vec![0; count.map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(Bytes::from(bytes))
    });
    read.collect()
}

fn settle_folders(root: &Path, locations: &[String]) -> Result<(), LakeError> {
    let mut folders = BTreeSet::new();
    for location in locations {
        let inside = path_of(location).ancestors().skip(1);
        folders.extend(inside.take_while(|folder| folder.starts_with(root)));
    }
    for folder in folders {
        let synced = std::fs::File::open(folder).and_then(|opened| opened.sync_all());
        let name = folder.display().to_string();
        synced.map_err(LakeError::file("writing folder", &name))?;
    }
    Ok(())
}

fn list_below(folder: &Path, found: &mut Vec<FoundFile>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            list_below(&entry.path(), found)?;
        } else if let Some(path) = entry.path().to_str() {
            found.push(FoundFile {
                location: format!("{FILE}{path}"),
                written_at: metadata.modified()?,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sheaf_testkit::ScratchDir;

    use super::*;

    #[tokio::test]
    async fn the_time_is_that_of_the_files_and_asking_leaves_none() {
        let dir = ScratchDir::new("warehouse").expect("a folder");
        let location = Location::Folder(dir.path().join("lake"));
        let warehouse = Warehouse::open(&location).expect("it opens");
        let mark = format!("{}/mark", warehouse.root());
        warehouse
            .write(&mark, Bytes::from_static(b"mark"))
            .await
            .expect("it writes");
        let now = warehouse.now().await.expect("it tells the time");
        let found = warehouse.list(warehouse.root()).await.expect("it lists");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].written_at <= now);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_said_to_be_missing() {
        let dir = ScratchDir::new("warehouse").expect("a folder");
        let location = Location::Folder(dir.path().join("lake"));
        let warehouse = Warehouse::open(&location).expect("it opens");
        let gone = format!("{}/gone", warehouse.root());
        let is_missing =
            |error| matches!(error, LakeError::Missing { location } if location == gone);
        assert!(warehouse.read(&gone).await.is_err_and(is_missing));
        let ranges = warehouse.read_ranges(&gone, vec![0..1, 1..2]).await;
        assert!(ranges.is_err_and(is_missing));
    }
}
