//! What makes the primary keep rows that nobody there needs any more: replicas that report what they read, and slots.

use std::fmt;

use sheaf_pg::{PgError, Statement, run_alone};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// As many are listed, the longest ones: more than a primary has replicas and slots.
const HOLDS_MAX: i64 = 64;

/// On whose behalf rows are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A replica that reports its oldest transaction (`hot_standby_feedback`).
    Replica,
    /// A slot that keeps what a replica reported, even while the replica is away.
    Slot,
    /// A slot that changes are decoded from. It keeps rows of PostgreSQL's own catalogue alone.
    SlotCatalog,
}

impl Holder {
    /// All of them.
    pub const ALL: [Holder; 3] = [Holder::Replica, Holder::Slot, Holder::SlotCatalog];

    /// As metrics and statements call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Holder::Replica => "replica",
            Holder::Slot => "slot",
            Holder::SlotCatalog => "slot_catalog",
        }
    }
}

/// Rows that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// On whose behalf.
    pub holder: Holder,
    /// The replica's `application_name`, or the slot's name.
    pub name: String,
    /// So many transactions ago the oldest began that rows are kept for. How long ago PostgreSQL does not say.
    pub transactions: u64,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hold {
            holder,
            name,
            transactions,
        } = self;
        match holder {
            Holder::Replica => write!(f, "replica {name} holds {transactions} transactions"),
            Holder::Slot => write!(f, "slot {name} holds {transactions} transactions"),
            Holder::SlotCatalog => write!(
                f,
                "slot {name} holds {transactions} transactions of the catalogue"
            ),
        }
    }
}

const LISTING: &str = "listing what rows are kept for";

/// The holds of the primary that a connection leads to, longest first. As any role.
pub async fn list_holds(client: &Client) -> Result<Vec<Hold>, PgError> {
    let statement = Statement::new(
        LISTING,
        include_str!("../sql/holds/list_holds.sql"),
        vec![(&HOLDS_MAX, Type::INT8)],
    );
    let rows = run_alone(client, &statement).await?;
    let holds = rows.iter().map(|row| {
        let text: &str = row.get("holder");
        let holder = Holder::ALL.into_iter().find(|one| one.as_str() == text);
        let transactions: i64 = row.get("transactions");
        Ok(Hold {
            holder: holder.ok_or_else(|| PgError::unreadable(LISTING, text))?,
            name: row.get("name"),
            transactions: u64::try_from(transactions)
                .map_err(|_| PgError::unreadable(LISTING, "transactions"))?,
        })
    });
    holds.collect()
}
