//! Why the lake could not do what was asked.

use sheaf_model::{ChangePosition, Timestamp};
use sheaf_pg::PgError;

use crate::checksums::Damage;
use crate::fact::EventFault;
use crate::rest::RestFault;
use crate::rows::RowFault;

/// What went wrong underneath.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the lake could not do what was asked. What it holds after that is read again from PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// PostgreSQL failed, or another writer was faster.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// A file could not be written or read.
    #[error("{step} {location}")]
    File {
        /// What was being attempted.
        step: &'static str,
        /// The file.
        location: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// A table's description could not be made or read.
    #[error("{step} of table {table}")]
    Table {
        /// What was being attempted.
        step: &'static str,
        /// The table.
        table: &'static str,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// An event that the lake cannot hold.
    #[error("reading the event of change {position}")]
    Event {
        /// Where it is.
        position: ChangePosition,
        /// What is wrong with it.
        #[source]
        source: EventFault,
    },
    /// A row of a catalogue that the lake cannot hold.
    #[error("reading the row of change {position}")]
    Row {
        /// Where it is.
        position: ChangePosition,
        /// What is wrong with it.
        #[source]
        source: RowFault,
    },
    /// A file that is needed is not there. Under a question: the state that it is of is not kept any more, and it can be asked again.
    #[error("file {location} is not there")]
    Missing {
        /// The file.
        location: String,
    },
    /// A file has other bytes than were written. It stays so until somebody puts back what was there.
    #[error("file {location} is damaged")]
    Damaged {
        /// The file.
        location: String,
        /// Which bytes.
        #[source]
        source: Cause,
    },
    /// A table is at another place than the one that the lake was opened at.
    #[error(
        "the tables are at {known} and not below {root}: the location of a lake cannot be changed"
    )]
    Elsewhere {
        /// Where the table's newest description is, or the table itself.
        known: String,
        /// Where the lake was opened.
        root: String,
    },
    /// The location belongs to another lake.
    #[error("the files at {root} are of another lake: a lake needs a location of its own")]
    Foreign {
        /// Where the lake was opened.
        root: String,
    },
    /// The place writes over what is there although it was asked not to.
    #[error(
        "the bucket at {root} writes over what is there, so that it could be two lakes' at once: it has to know `If-None-Match`"
    )]
    Overwrites {
        /// Where the lake was opened.
        root: String,
    },
    /// The files are of a later timeline than the database.
    #[error(
        "the files at {root} are of timeline {newest} and the database is on timeline {timeline}: a promotion has left it behind"
    )]
    LeftBehind {
        /// Where the lake was opened.
        root: String,
        /// The timeline that the files are of.
        newest: u32,
        /// The database's.
        timeline: u32,
    },
    /// The catalogue did not do what it was asked, or it is not known whether it did.
    #[error("asking the catalogue: {step}")]
    Catalog {
        /// What was being attempted.
        step: &'static str,
        /// What it answered.
        #[source]
        source: RestFault,
    },
    /// Another writer has committed to the table.
    #[error("table {table} was changed by another writer")]
    Overtaken {
        /// The table.
        table: &'static str,
    },
    /// The catalogue's tables hold more than the database knows of.
    #[error(
        "the tables in the catalogue are of commit {found} and the database is at {named}: it is a copy, or was put back to an earlier time"
    )]
    Ahead {
        /// The commit that the tables are of.
        found: String,
        /// The one that the database names.
        named: String,
    },
    /// The tables were made in another catalogue than is set.
    #[error("the tables are in another catalogue: that of a lake cannot be changed")]
    OtherCatalog,
    /// Files that were to be replaced are not in the table any more.
    #[error("{files} files of table {table} that were to be replaced are gone")]
    Gone {
        /// The table.
        table: &'static str,
        /// How many.
        files: usize,
    },
    /// An event of a partition that the lake cannot hold.
    #[error("reading an event of {observed_at} that is to be archived")]
    ArchivedEvent {
        /// Its instant.
        observed_at: Timestamp,
        /// What is wrong with it.
        #[source]
        source: EventFault,
    },
    /// There are no tables, or not all, and history that is in none other.
    #[error(
        "history before {before} is archived, and not in this lake: it needs the one that holds it"
    )]
    Archived {
        /// Up to where.
        before: Timestamp,
    },
    /// What it holds has to be asked first, and again after each error.
    #[error("the lake was not asked what it holds")]
    NotAsked,
    /// The process ends, and what was being written with it.
    #[error("the process ended before the files were written")]
    Ending,
    /// The machine has no threads left for questions.
    #[error("starting the threads that answer questions")]
    Threads(#[source] std::io::Error),
    /// A folder that cannot hold a lake.
    #[error("the folder of the lake has a name that is not UTF-8")]
    Folder,
}

impl LakeError {
    pub(crate) fn table(
        step: &'static str,
        table: &'static str,
    ) -> impl Fn(iceberg::Error) -> LakeError {
        move |source| LakeError::Table {
            step,
            table,
            source: Box::new(source),
        }
    }

    pub(crate) fn file<E: Into<Cause>>(
        step: &'static str,
        location: &str,
    ) -> impl FnOnce(E) -> LakeError + use<E> {
        let location = location.to_owned();
        move |source| LakeError::File {
            step,
            location,
            source: source.into(),
        }
    }

    pub(crate) fn damaged(location: &str) -> impl FnOnce(Damage) -> LakeError + use<> {
        let location = location.to_owned();
        move |damage| LakeError::Damaged {
            location,
            source: damage.into(),
        }
    }
}
