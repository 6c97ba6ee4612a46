//! What keeps two from taking the same step of an archive at once.

use sheaf_pg::{PgError, Pool, Unfinished, first_row};
use tokio_postgres::types::{ToSql, Type};

/// A lock as long as this is there: a transaction that writes nothing.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) client: Unfinished,
    step: &'static str,
}

impl Held {
    /// Takes it by a statement, and what that says.
    pub(super) async fn by(
        upkeep: &Pool,
        step: &'static str,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
        said: &str,
    ) -> Result<(Held, bool), PgError> {
        let client = Unfinished::new(upkeep.get().await?);
        let begin = "BEGIN; SET LOCAL lock_timeout = '2s'; SET LOCAL idle_in_transaction_session_timeout = 0";
        let begun = client.batch_execute(begin).await;
        begun.map_err(PgError::statement(step))?;
        let rows = client.query_typed(sql, params).await;
        let rows = rows.map_err(PgError::statement(step))?;
        // Ends the statement's portal and its snapshot: an interrupted detachment is ended once nobody has an older one.
        let ended = client.batch_execute("SELECT").await;
        ended.map_err(PgError::statement(step))?;
        let said = first_row(&rows, step)?.get(said);
        Ok((Held { client, step }, said))
    }

    pub(super) async fn release(self) -> Result<(), PgError> {
        let ended = self.client.batch_execute("ROLLBACK").await;
        ended.map_err(PgError::statement(self.step))?;
        self.client.rest();
        Ok(())
    }
}
