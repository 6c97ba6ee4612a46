//! Where messages go: the standard error, as text for people or JSON for machines.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use sheaf_config::{Log, LogFormat, LogLevel};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Begins to log. Called once, by the command that decides how.
pub(crate) fn begin(log: Log) -> Result<()> {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // The libraries report to us, and we say what it means; from themselves only what may be amiss is shown. The pool
    // warns of every connection that ends, also when that is what was asked for.
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("deadpool", LevelFilter::ERROR)
        .with_target("sheaf", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .context("beginning to log")
}
