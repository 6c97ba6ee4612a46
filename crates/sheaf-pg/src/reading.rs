//! A connection that is read from by someone who may be dropped at any await.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::error::PgError;
use crate::pool::{Connection, Pool, Tls};

/// How long a request to cancel may take. After it the connection is closed, which ends the query when it next writes.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// A connection from a pool in the middle of a read. It goes back when told that it is at rest; dropped before, its query
/// is cancelled in the database and the connection closed, so that nobody's query goes on once nobody waits for it.
pub struct Reading {
    connection: Option<Connection>,
    tls: Tls,
}

impl Reading {
    /// A connection of this pool, before a read begins.
    pub async fn begin(pool: &Pool) -> Result<Reading, PgError> {
        Ok(Reading {
            connection: Some(pool.get().await?),
            tls: pool.tls().clone(),
        })
    }

    /// After the read has ended.
    pub fn rest(mut self) {
        drop(self.connection.take());
    }
}

impl std::ops::Deref for Reading {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        self.connection
            .as_ref()
            .expect("the connection is there until it is at rest")
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reading")
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let client = Connection::take(connection);
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (token, tls) = (client.cancel_token(), self.tls.connector());
        // Ends by itself within its bound; whoever could join it is the one who is gone.
        runtime.spawn(async move {
            match timeout(CANCEL_MAX, token.cancel_query(tls)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "an abandoned query could not be cancelled")
                }
                Err(_) => tracing::debug!("an abandoned query could not be cancelled in time"),
            }
            drop(client);
        });
    }
}
