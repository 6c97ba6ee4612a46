//! The command line. No secret is taken from it, because every user of the machine can read it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bench::Scale;
use crate::import::Format;

/// Entities, their attributes and their history, over PostgreSQL.
///
/// Exit codes: 0 done, 1 failed, 2 a command line or configuration that cannot be used, 3 something that was named
/// does not exist, 4 something that was to be created exists, 5 both sides that were compared differ, 6 they could not be compared.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on a private PostgreSQL, with nothing to configure
    Dev(DevArgs),
    /// Run a server on an existing PostgreSQL
    Serve(ServeArgs),
    /// Look at or bring up the schema of an existing database
    Migrate {
        #[command(subcommand)]
        command: MigrateCommand,
    },
    /// Manage tenants
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// Manage API keys
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Look at the partitions of the history, and work on one of them
    Partition {
        #[command(subcommand)]
        command: PartitionCommand,
    },
    /// Compare the lake with PostgreSQL, fact by fact where they differ, and put right what does
    ///
    /// One at a time does: while a server or another command compares, and for a minute after one of them was killed, it ends with 6. It
    /// ends with 5 where something differs, and with 6 too where the lake did not come as far in time.
    Reconcile(ReconcileArgs),
    /// Check the database as a server would, and say what is wrong
    Doctor(DoctorArgs),
    /// Send a CSV, NDJSON or Parquet file to a server; run again after an interruption to go on
    Import(ImportArgs),
    /// Measure against baselines in the same run, on a server of its own
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where everything is kept
    #[arg(long, default_value = ".sheaf")]
    pub(crate) data_dir: PathBuf,
    /// Where to serve
    #[arg(long, default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    /// Where questions are answered by PostgreSQL's protocol; where it is taken they are not
    #[arg(long, default_value = "127.0.0.1:7072")]
    pub(crate) pgwire_listen: SocketAddr,
    /// The directory of PostgreSQL's programs, instead of the one that is found
    #[arg(long)]
    pub(crate) postgres: Option<PathBuf>,
    /// Add each change to this file, a line of JSON each
    #[arg(long)]
    pub(crate) changes_file: Option<PathBuf>,
    /// Do not follow changes: there is no lake, GET /v1/changes answers 503, and writing costs less
    #[arg(long, conflicts_with = "changes_file")]
    pub(crate) no_changes: bool,
}

/// Settings come from the file and from SHEAF_ variables, which win.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The configuration file
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Show what is configured and where each value came from, and exit
    #[arg(long)]
    pub(crate) print_config: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Show the version of the schema and what is missing
    Status {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Run what is missing
    Up {
        #[command(flatten)]
        config: ConfigArgs,
        /// Connect as this role instead of sheaf_upkeep: the first time, one that may create roles
        #[arg(long = "as", value_name = "ROLE")]
        role: Option<String>,
        /// The file with that role's password
        #[arg(long, requires = "role")]
        password_file: Option<PathBuf>,
    },
}

/// Which database: that of a running `sheaf dev`, or of the configuration.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The data directory of a running sheaf dev
    #[arg(long, conflicts_with = "config")]
    pub(crate) data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Create a tenant with a key, and print both as JSON; the key is shown this once
    Create {
        /// The tenant's name
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a key and print it as JSON; it is shown this once
    Create {
        /// Whose key
        #[arg(long, required_unless_present = "admin", conflicts_with = "admin")]
        tenant: Option<String>,
        /// A key that may act for every tenant
        #[arg(long)]
        admin: bool,
        /// What a tenant's key may do
        #[arg(long, value_delimiter = ',', default_value = "read,write")]
        scope: Vec<String>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// End a key for good
    Revoke {
        /// The key's id, as k_..
        key_id: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// Show each partition with its time, about how many events it holds, and its sizes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Build the indexes of one partition anew, while others read and write
    Reindex {
        /// The partition
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Vacuum and analyze one partition, while others read and write
    Vacuum {
        /// The partition
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Take a partition that has ended out of the history; its table stays, and attach puts it back
    Detach {
        /// The partition
        name: String,
        /// Let the history lose its events
        #[arg(long)]
        forget: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Put a detached partition back into the history, or open one to writes that was closed
    Attach {
        /// The partition
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Show what is archived, what is on its way there, and what is due
    Plan {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Leave the oldest partition to the lake, while a server runs that writes it; run again after an interruption to go on
    Archive {
        /// The partition
        name: String,
        /// How many seconds the lake is waited for
        #[arg(long, default_value_t = 600)]
        wait: u64,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Put the partition that is archived last back into the history, from the lake where it was dropped; it stays closed to writes
    Restore {
        /// The partition
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReconcileArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Read everything anew, and not only what changed since the last time
    #[arg(long)]
    pub(crate) full: bool,
    /// Only what differs of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only what differs from this instant on, to the hour
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// Only what differs before this instant, to the hour
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// Make the lake what PostgreSQL is, where they differ; a server that writes the lake has to run
    #[arg(long)]
    pub(crate) repair: bool,
    /// Compare all documents with their events too: slow on a large database
    #[arg(long)]
    pub(crate) documents: bool,
    /// How many differences are shown one by one
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
    /// How many seconds what was received has to be old to be compared: requests take as long to be stored
    #[arg(long, default_value_t = 10)]
    pub(crate) settled_after: u64,
    /// How many seconds the lake is waited for to come as far as PostgreSQL, and to be put right
    #[arg(long, default_value_t = 120)]
    pub(crate) wait: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Read every row, and not a sample: slow on a large database
    #[arg(long)]
    pub(crate) full: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// How it is written, if its name does not say
    #[arg(long)]
    pub(crate) format: Option<Format>,
    /// The entity type of every row. Without it, an NDJSON file holds whole events
    #[arg(long, requires = "id")]
    pub(crate) r#type: Option<String>,
    /// The column with the entity's id
    #[arg(long, requires = "type")]
    pub(crate) id: Option<String>,
    /// The column with the time
    #[arg(long, requires = "id", conflicts_with = "observed_at")]
    pub(crate) time: Option<String>,
    /// The time of every row
    #[arg(long, requires = "id")]
    pub(crate) observed_at: Option<String>,
    /// A text that stands for no value, like NA; may be repeated. An empty cell of a CSV file always does
    #[arg(long, requires = "id")]
    pub(crate) null: Vec<String>,
    /// Columns to leave out
    #[arg(long, value_delimiter = ',', requires = "id")]
    pub(crate) skip: Vec<String>,
    /// The server
    #[arg(long, default_value = "http://127.0.0.1:7070")]
    pub(crate) url: String,
    /// The file with the key
    #[arg(long, default_value = ".sheaf/demo.key")]
    pub(crate) key_file: PathBuf,
    /// Rows in one request
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) batch: u32,
    /// Where refused rows are listed [default: FILE.rejected.ndjson]
    #[arg(long)]
    pub(crate) rejected: Option<PathBuf>,
    /// Where interrupted imports are remembered
    #[arg(long, default_value = ".sheaf/imports")]
    pub(crate) state_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    pub(crate) suite: Suite,
    /// One case of the suite, instead of all; may be repeated
    #[arg(long)]
    pub(crate) case: Vec<String>,
    /// How much data to build
    #[arg(long, default_value = "small")]
    pub(crate) scale: Scale,
    /// Write one JSON object a line to this file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Draw throughput and latency over time, one SVG file a case, into this directory
    #[arg(long)]
    pub(crate) svg: Option<PathBuf>,
    /// A Python that has DuckDB, for the suite analytics, instead of the one of the tests
    #[arg(long)]
    pub(crate) python: Option<PathBuf>,
    /// How long the case memory writes, instead of what its scale says
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub(crate) minutes: Option<u32>,
    /// Up to how many million values the case growth fills the full scale: 100 takes minutes and 10 GB
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) millions: u32,
}

/// What a benchmark is about.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Suite {
    /// Writing
    Ingest,
    /// Reading
    Read,
    /// Following changes into the lake
    Cdc,
    /// Asking questions over the lake
    Analytics,
}
