//! Whose files they are: of which lake, and of a database on which timeline.

use std::io;
use std::path::Path;

use bytes::Bytes;
use object_store::{PutMode, PutOptions};
use uuid::Uuid;

use super::{READING, Store, Warehouse, object_of, path_of, write_file};
use crate::background::in_background;
use crate::error::LakeError;

/// What a lake's root has beside its tables: the number of the lake that it is of.
const OWNER: &str = "sheaf-lake.owner";
/// And the timeline of the database that has last begun it.
const TIMELINE: &str = "sheaf-lake.timeline";

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
                let name = object_of(scheme, &location)?;
                let options = PutOptions::from(PutMode::Create);
                match objects.put_opts(&name, bytes.into(), options).await {
                    Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
                    Err(error) => return Err(LakeError::file(STEP, &location)(error)),
                }
            }
        }
        self.require_owner(owner).await
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
