//! The sheaf executable: its commands, their wiring, and what they exit with.
//!
//! Only this crate reads the environment, configuration files and the command line. Everything else is told.

mod allocator;
mod archiving;
mod bench;
mod cache_sink;
mod caching;
mod changes;
mod cli;
mod commands;
mod connect;
mod descriptors;
mod exit;
mod http_client;
mod http_sinks;
mod import;
mod instruments;
mod lake;
mod logging;
mod pgwire;
mod private_file;
mod reconciling;
mod replicas;
mod serving;
mod waiting;

use clap::Parser;

fn main() -> std::process::ExitCode {
    // Two providers may be linked, and then none is the default until one is named.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        unreachable!("nothing ran before this line");
    }
    exit::report(commands::run(cli::Cli::parse()))
}
