//! Exit codes, and the one place where an error is printed.

use std::io::Write;
use std::process::ExitCode;

use sheaf_config::ConfigError;

/// A failure that has an exit code of its own. Everything else exits with 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// 2, as for a wrong command line: what was asked for cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// 3: a thing that was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// 4: a thing that was to be made exists.
    #[error("{0}")]
    Exists(String),
    /// 5: what was compared is not the same.
    #[error("{0}")]
    Different(String),
    /// 6: what was to be compared could not be.
    #[error("{0}")]
    NotCompared(String),
}

impl Stop {
    fn code(&self) -> u8 {
        match self {
            Stop::Usage(_) => 2,
            Stop::NotFound(_) => 3,
            Stop::Exists(_) => 4,
            Stop::Different(_) => 5,
            Stop::NotCompared(_) => 6,
        }
    }
}

/// Prints an error with its causes, and gives back what to exit with.
pub(crate) fn report(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    // Nothing can be done about a closed terminal.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    // Finds them as causes and as contexts, which a walk along the chain would not.
    let code = match (
        error.downcast_ref::<Stop>(),
        error.downcast_ref::<ConfigError>(),
    ) {
        (Some(stop), _) => stop.code(),
        (None, Some(_)) => 2,
        (None, None) => 1,
    };
    ExitCode::from(code)
}

/// Writes a line to the standard output: the result of a command, and nothing else, goes there.
pub(crate) fn say(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}
