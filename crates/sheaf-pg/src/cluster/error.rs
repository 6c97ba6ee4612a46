//! What can go wrong with a private cluster, worded for the person at the terminal.

use std::io;
use std::path::PathBuf;

/// The step that failed, and what is needed to act on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No directory holds both `initdb` and `postgres`.
    #[error(
        "no PostgreSQL server found: looked for initdb and postgres in {searched}; \
         install PostgreSQL {needed} or newer (Debian: apt-get install postgresql-15) \
         or name the directory of its binaries"
    )]
    NotFound {
        /// Where we looked.
        searched: String,
        /// The oldest major version that serves.
        needed: u32,
    },
    /// The only servers found are older than we can use.
    #[error(
        "PostgreSQL {needed} or newer is needed, but {} is version {version}; \
         install a newer one (Debian: apt-get install postgresql-15) \
         or name the directory of its binaries", dir.display()
    )]
    TooOld {
        /// Where the newest of them is.
        dir: PathBuf,
        /// Its major version.
        version: u32,
        /// The oldest major version that serves.
        needed: u32,
    },
    /// Another process uses the data directory.
    #[error(
        "the data directory {} is in use by another sheaf (process {holder}); \
         stop it first or choose another directory", dir.display()
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Process id of the holder as it wrote it, or `unknown`.
        holder: String,
    },
    /// We are root, PostgreSQL refuses to be, and there is no account to become.
    #[error(
        "PostgreSQL does not run as root and this system has neither a user postgres nor nobody; \
         create one of them or start as an ordinary user"
    )]
    NoAccount,
    /// The account that runs PostgreSQL cannot reach its files.
    #[error(
        "PostgreSQL runs as user {user} (it refuses to run as root), and {user} may not enter {}; \
         allow it (chmod o+x) or choose a data directory elsewhere", dir.display()
    )]
    Unreachable {
        /// The account.
        user: String,
        /// The first directory on the way that it may not enter.
        dir: PathBuf,
    },
    /// The data directory was made by another account, and only root could change that.
    #[error("the data directory {} belongs to user id {owner}; start as that user", dir.display())]
    ForeignOwner {
        /// The data directory.
        dir: PathBuf,
        /// Who owns it.
        owner: u32,
    },
    /// Something that is not a PostgreSQL data directory stands in its place.
    #[error("{} exists but is no PostgreSQL data directory; move it away", dir.display())]
    NotACluster {
        /// The directory.
        dir: PathBuf,
    },
    /// The data directory belongs to another major version.
    #[error(
        "the data in {} was written by PostgreSQL {written_by}, the server found is {found}; \
         name the binaries of version {written_by}", dir.display()
    )]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// Content of its `PG_VERSION`.
        written_by: String,
        /// Major version of the binaries.
        found: u32,
    },
    /// A setting that cannot be written to a configuration file.
    #[error("the PostgreSQL setting {name:?} has a name or value that cannot be written down")]
    Setting {
        /// Its name.
        name: String,
    },
    /// No directory is short enough for a socket address.
    #[error("{} is too long a path for a unix socket", dir.display())]
    SocketPath {
        /// The shortest directory tried.
        dir: PathBuf,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which one.
        program: String,
        /// The end of what it said.
        output: String,
    },
    /// The server ended before it was ready.
    #[error("PostgreSQL did not start; {} ends with:\n{tail}", log.display())]
    Start {
        /// Its log.
        log: PathBuf,
        /// The end of the log, of this start only.
        tail: String,
    },
    /// The server is neither ready nor gone.
    #[error("PostgreSQL was not ready after {seconds} s; its log is {}", log.display())]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// Its log.
        log: PathBuf,
    },
    /// A server of this data directory could not be ended.
    #[error("a PostgreSQL left over in {} does not end (processes {processes:?})", dir.display())]
    Leftover {
        /// The data directory.
        dir: PathBuf,
        /// What is still there.
        processes: Vec<u32>,
    },
    /// Reading or writing a file, or starting a process, failed.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server is up but refused our first statements.
    #[error("could not set up the superuser of the private PostgreSQL")]
    Superuser {
        /// Why not.
        source: tokio_postgres::Error,
    },
}

/// Turns an `io::Error` into a [`ClusterError`] that says what was attempted.
pub(super) trait Attempt<T> {
    /// `action` completes the sentence "could not ...".
    fn attempt(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ClusterError>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ClusterError> {
        self.map_err(|source| ClusterError::Io {
            action,
            path: path.into(),
            source,
        })
    }
}
