//! What PostgreSQL's errors mean to a caller: one table of SQLSTATE classes, read in one place.

use std::fmt;

use tokio_postgres::error::SqlState;

/// A failure of PostgreSQL or on the way to it. The step is named; the cause is kept as the source.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// No connection could be had in time.
    #[error("connecting to postgresql as {role}")]
    Connect {
        /// The role that was to log in.
        role: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A statement failed, or the connection did while it ran.
    #[error("{step}")]
    Statement {
        /// What was being attempted.
        step: &'static str,
        /// What PostgreSQL or the connection said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server that was taken for the primary is not, or not any more.
    #[error("{step}: not the primary, {why}")]
    NotPrimary {
        /// What was being attempted.
        step: &'static str,
        /// How that shows.
        why: &'static str,
    },
    /// The database holds something that the code cannot read: a fault of the schema or of the data.
    #[error("{step}: unreadable {what}")]
    Unreadable {
        /// What was being attempted.
        step: &'static str,
        /// The value that could not be read.
        what: String,
    },
}

/// What a caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The database is away or restarting: the same again later. Whether a commit took effect is unknown.
    Unavailable,
    /// Two transactions met: the same again at once, a few times.
    Retry,
    /// No room on disk: the same again when there is.
    StorageFull,
    /// A statement ran into its time limit.
    TimedOut,
    /// A unique key is taken already.
    Conflict,
    /// Our bug or a broken database. Retrying does not help.
    Stop,
}

impl PgError {
    /// Names the step that failed.
    pub fn statement(step: &'static str) -> impl Fn(tokio_postgres::Error) -> PgError {
        move |source| PgError::Statement { step, source }
    }

    /// A value that the database should not hold.
    pub fn unreadable(step: &'static str, what: impl fmt::Display) -> PgError {
        PgError::Unreadable {
            step,
            what: what.to_string(),
        }
    }

    /// What to do about it.
    pub fn disposition(&self) -> Disposition {
        match self {
            PgError::Connect { .. } | PgError::NotPrimary { .. } => Disposition::Unavailable,
            PgError::Unreadable { .. } => Disposition::Stop,
            PgError::Statement { source, .. } => disposition_of_source(source),
        }
    }

    /// Whether the same attempt may succeed later although nobody changes anything: PostgreSQL is away, starting, or has
    /// no connection left. One that it refuses for its role, its password or its database is not.
    pub fn passes_by_itself(&self) -> bool {
        let PgError::Connect { source, .. } = self else {
            return self.disposition() == Disposition::Unavailable;
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<tokio_postgres::Error>() {
                return disposition_of_source(error) == Disposition::Unavailable;
            }
            cause = error.source();
        }
        // The pool's own: it waited in vain.
        true
    }

    /// Whether a statement could not be sent as it is, which says nothing of the server.
    pub fn is_unsent(&self) -> bool {
        match self {
            PgError::Statement { source, .. } => is_encoding(source),
            PgError::Connect { .. } | PgError::NotPrimary { .. } | PgError::Unreadable { .. } => {
                false
            }
        }
    }

    /// The SQLSTATE, where PostgreSQL gave one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            PgError::Statement { source, .. } => source.code(),
            PgError::Connect { .. } | PgError::NotPrimary { .. } | PgError::Unreadable { .. } => {
                None
            }
        }
    }
}

fn disposition_of_source(source: &tokio_postgres::Error) -> Disposition {
    match source.code() {
        Some(state) => disposition_of(state),
        // No SQLSTATE: the connection broke, or the client side failed to encode or decode.
        None if source.is_closed() => Disposition::Unavailable,
        None if is_encoding(source) => Disposition::Stop,
        None => match std::error::Error::source(source) {
            Some(cause) if cause.is::<std::io::Error>() => Disposition::Unavailable,
            Some(_) | None => Disposition::Stop,
        },
    }
}

/// Whether the driver refused to write a message, such as one with more parameters than it has room for. Its cause is an
/// `std::io::Error`, as that of a broken connection is; the driver tells the two apart by their texts alone.
fn is_encoding(source: &tokio_postgres::Error) -> bool {
    source.to_string() == "error encoding message to server"
}

fn disposition_of(state: &SqlState) -> Disposition {
    match state.code() {
        "40001" | "40P01" | "55P03" => Disposition::Retry,
        "23505" => Disposition::Conflict,
        "57014" => Disposition::TimedOut,
        "53100" => Disposition::StorageFull,
        // Shutdowns and crashes (57P01..57P05), connection exceptions (08), resources (53), a standby's refusal to
        // write (25006) after a failover.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25006" => Disposition::Unavailable,
        code if code.starts_with("08") || code.starts_with("53") => Disposition::Unavailable,
        _ => Disposition::Stop,
    }
}

/// An error with its causes on one line, for the log.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_sqlstate_has_its_disposition() {
        for (code, disposition) in [
            ("40001", Disposition::Retry),
            ("40P01", Disposition::Retry),
            ("55P03", Disposition::Retry),
            ("23505", Disposition::Conflict),
            ("57014", Disposition::TimedOut),
            ("53100", Disposition::StorageFull),
            ("53300", Disposition::Unavailable),
            ("57P01", Disposition::Unavailable),
            ("57P03", Disposition::Unavailable),
            ("08006", Disposition::Unavailable),
            ("42P01", Disposition::Stop),
            ("42501", Disposition::Stop),
            ("22P02", Disposition::Stop),
        ] {
            assert_eq!(
                disposition_of(&SqlState::from_code(code)),
                disposition,
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn a_message_that_cannot_be_written_is_no_failure_of_the_server() {
        let (near, far) = tokio::io::duplex(64);
        let mut config = tokio_postgres::Config::new();
        // No text of the protocol holds a zero.
        let unwritable = config.user("a\0b").connect_raw(near, tokio_postgres::NoTls);
        let error = PgError::statement("connecting")(unwritable.await.err().expect("refused"));
        assert_eq!(error.disposition(), Disposition::Stop, "{error:?}");
        assert!(error.is_unsent());

        drop(far);
        let (near, _) = tokio::io::duplex(64);
        let broken = tokio_postgres::Config::new()
            .user("a")
            .connect_raw(near, tokio_postgres::NoTls)
            .await;
        let error = PgError::statement("connecting")(broken.err().expect("broken"));
        assert_eq!(error.disposition(), Disposition::Unavailable, "{error:?}");
        assert!(!error.is_unsent());
    }
}
