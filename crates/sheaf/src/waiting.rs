//! Waiting for a database that is not there yet. Whoever starts machines in any order need not start us again.
//!
//! Only what passes by itself is waited for: a wrong password, a missing schema or a role with too many rights ends the
//! start at once, because waiting would only hide it.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use rand::RngExt;
use sheaf_pg::{PgError, RoleFault};
use sheaf_store::migrate::MigrateError;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::connect::Access;
use crate::descriptors::connections_max;
use crate::serving::StopSignal;

/// Between two attempts, doubled each time. A database that starts takes seconds; one that is away is not helped by more.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long answers of the waiting server may take to leave once the real one takes over.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// How the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The database is there, and sound.
    Sound,
    /// The process was told to stop before it was.
    Stopped,
}

/// Makes sure that the database is there and sound. While it is not there, the address is served by what says so.
pub(crate) async fn require_sound(
    access: &Access,
    listener: &TcpListener,
    mut stop: StopSignal,
) -> Result<Waited> {
    let Err(error) = access.require_sound().await else {
        return Ok(Waited::Sound);
    };
    let error = require_passing(error)?;
    let (over, is_over) = oneshot::channel::<()>();
    let router = sheaf_server::waiting_router();
    let served = sheaf_server::serve(twin(listener)?, router, connections_max(0), async {
        // Dropped is over as well.
        let _ = is_over.await;
    });
    let mut served = tokio::spawn(served);
    let outcome = tokio::select! {
        outcome = try_again(access, error) => outcome.map(|()| Waited::Sound),
        () = stop.requested() => Ok(Waited::Stopped),
    };
    drop(over);
    if tokio::time::timeout(DRAIN_MAX, &mut served).await.is_err() {
        served.abort();
    }
    outcome
}

/// Until the database is there; ends with an error that waiting does not mend.
async fn try_again(access: &Access, mut error: Error) -> Result<()> {
    let mut pause = PAUSE_MIN;
    loop {
        tracing::warn!(
            error = format!("{error:#}"),
            "the database is not there; waiting for it"
        );
        // Several servers that wait for one database do not all come back at the same moment.
        tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.5..1.0))).await;
        match access.require_sound().await {
            Ok(()) => return Ok(()),
            Err(again) => error = require_passing(again)?,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Gives back an error that passes by itself; any other one is the outcome.
fn require_passing(error: Error) -> Result<Error> {
    let passes = error.chain().any(|cause| {
        let cause = match (cause.downcast_ref(), cause.downcast_ref()) {
            (Some(RoleFault::Postgres(cause)), _) | (_, Some(MigrateError::Postgres(cause))) => {
                Some(cause)
            }
            _ => cause.downcast_ref::<PgError>(),
        };
        cause.is_some_and(PgError::passes_by_itself)
    });
    if passes { Ok(error) } else { Err(error) }
}

/// A second listener on the same address: what has not been accepted by one is there for the other.
fn twin(listener: &TcpListener) -> Result<TcpListener> {
    let duplicate = listener
        .as_fd()
        .try_clone_to_owned()
        .context("sharing the address that is listened on")?;
    Ok(TcpListener::from_std(duplicate.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> PgError {
        PgError::Connect {
            role: "sheaf_app".to_owned(),
            source: "nobody listens".into(),
        }
    }

    #[test]
    fn only_what_passes_by_itself_is_waited_for() {
        let broken = || PgError::unreadable("checking", "something");
        for (error, passes) in [
            (Error::from(unreachable()), true),
            (Error::from(unreachable()).context("checking"), true),
            (Error::from(RoleFault::from(unreachable())), true),
            (Error::from(MigrateError::from(unreachable())), true),
            (Error::from(broken()), false),
            (Error::from(RoleFault::from(broken())), false),
            (Error::msg("the database lacks migrations"), false),
        ] {
            let said = format!("{error:#}");
            assert_eq!(require_passing(error).is_ok(), passes, "{said}");
        }
    }
}
