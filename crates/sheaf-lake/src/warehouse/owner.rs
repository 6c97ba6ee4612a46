//! Whose files they are: of which lake, and of a database on which timeline.

use std::io;
use std::path::Path;

use bytes::Bytes;
use object_store::{ObjectStore, PutMode, PutOptions};
use uuid::Uuid;

use super::{READING, Store, Warehouse, object_of, path_of, write_file};
use crate::background::in_background;
use crate::error::LakeError;

/// What a lake's root has beside its tables: the number of the lake that it is of.
const OWNER: &str = "sheaf-lake.owner";
/// And the timeline of the database that has last begun it.
const TIMELINE: &str = "sheaf-lake.timeline";
/// What is written twice before a lake begins in a bucket.
const PROBE: &str = "sheaf-lake.probe";

impl Warehouse {
    /// Whether these files are of the lake of this number.
    pub(crate) async fn require_owner(&self, owner: &str) -> Result<(), LakeError> {
        let of_another = || LakeError::Foreign {
            root: self.root.clone(),
        };
        match self.read(&self.owner_location()).await {
            Ok(found) if found == owner.as_bytes() => Ok(()),
            Ok(_) | Err(LakeError::Missing { .. }) => Err(of_another()),
            Err(error) => Err(error),
        }
    }

    /// Makes the place that of the lake of this number, if it is nobody's.
    pub(crate) async fn claim(&self, owner: &str) -> Result<(), LakeError> {
        const STEP: &str = "writing file";
        let location = self.owner_location();
        let bytes = Bytes::from(owner.to_owned());
        match &self.store {
            Store::Folder(_) => {
                let fault = LakeError::file(STEP, &location);
                let path = path_of(&location).to_owned();
                in_background(move || claim_file(&path, &bytes).map_err(fault)).await?;
                self.settle(vec![location]).await?;
            }
            Store::Bucket { objects, scheme } => {
                self.require_refusal(&**objects, scheme).await?;
                // What is there may be ours, written by an attempt that was not answered.
                create(&**objects, scheme, &location, bytes).await?;
            }
        }
        self.require_owner(owner).await
    }

    /// Whether the place refuses to write what must not be there over what is. Else two lakes take it for theirs, and each the
    /// other's files for nobody's.
    async fn require_refusal(
        &self,
        objects: &dyn ObjectStore,
        scheme: &str,
    ) -> Result<(), LakeError> {
        let probe = format!("{}/{PROBE}-{}", self.root, Uuid::new_v4());
        let bytes = Bytes::from_static(b"probe");
        create(objects, scheme, &probe, bytes.clone()).await?;
        let is_refused = !create(objects, scheme, &probe, bytes).await?;
        self.delete(&probe).await?;
        if is_refused {
            return Ok(());
        }
        Err(LakeError::Overwrites {
            root: self.root.clone(),
        })
    }

    /// Whether no database of a later timeline has begun a lake here. One that was left behind by a promotion would take the files
    /// of the other for nobody's.
    pub(crate) async fn require_timeline(&self, timeline: u32) -> Result<(), LakeError> {
        match self.newest_timeline().await? {
            Some(newest) if newest > timeline => Err(LakeError::LeftBehind {
                root: self.root.clone(),
                newest,
                timeline,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether every database that has begun a lake here was on an earlier timeline.
    pub(crate) async fn is_before(&self, timeline: u32) -> Result<bool, LakeError> {
        let newest = self.newest_timeline().await?;
        Ok(newest.is_none_or(|newest| newest < timeline))
    }

    /// Makes the place that of a database on this timeline.
    pub(crate) async fn begin_timeline(&self, timeline: u32) -> Result<(), LakeError> {
        const STEP: &str = "writing file";
        self.require_timeline(timeline).await?;
        if self.newest_timeline().await? == Some(timeline) {
            return Ok(());
        }
        let location = self.timeline_location();
        let bytes = Bytes::from(timeline.to_string());
        match &self.store {
            Store::Folder(_) => {
                let fault = LakeError::file(STEP, &location);
                let path = path_of(&location).to_owned();
                in_background(move || replace_file(&path, &bytes).map_err(fault)).await?;
                self.settle(vec![location]).await
            }
            Store::Bucket { .. } => self.write(&location, bytes).await,
        }
    }

    /// The latest timeline of a database that has begun a lake here; absent where none said so.
    async fn newest_timeline(&self) -> Result<Option<u32>, LakeError> {
        let location = self.timeline_location();
        let found = match self.read(&location).await {
            Ok(found) => found,
            Err(LakeError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let timeline = std::str::from_utf8(&found)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let unreadable = || LakeError::file(READING, &location)("no timeline");
        timeline.map(Some).ok_or_else(unreadable)
    }

    fn timeline_location(&self) -> String {
        format!("{}/{TIMELINE}", self.root)
    }

    fn owner_location(&self) -> String {
        format!("{}/{OWNER}", self.root)
    }
}

/// Writes an object unless one is there. Gives back whether it was this that wrote it; where an answer was lost, nobody knows.
async fn create(
    objects: &dyn ObjectStore,
    scheme: &str,
    location: &str,
    bytes: Bytes,
) -> Result<bool, LakeError> {
    let name = object_of(scheme, location)?;
    let options = PutOptions::from(PutMode::Create);
    match objects.put_opts(&name, bytes.into(), options).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(LakeError::file("writing file", location)(error)),
    }
}

/// Under another name first: a crash leaves no half a number.
fn claim_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unnamed = path.with_extension(format!("owner-{}", Uuid::new_v4()));
    write_file(&unnamed, bytes)?;
    let claimed = match std::fs::hard_link(&unnamed, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    std::fs::remove_file(&unnamed)?;
    claimed
}

/// Whole or as it was before.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unnamed = path.with_extension(format!("timeline-{}", Uuid::new_v4()));
    write_file(&unnamed, bytes)?;
    std::fs::rename(&unnamed, path)
}
