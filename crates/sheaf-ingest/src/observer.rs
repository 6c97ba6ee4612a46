//! Who is told what the lanes commit: whoever remembers what was there before.

use std::sync::{Arc, OnceLock};

use sheaf_model::{Position, TenantId, WrittenEntity};

/// Told after each commit and before it is acknowledged. Nobody waits for the teller: it must not block.
pub trait CommitObserver: Send + Sync {
    /// The documents of these entities were written, and the position was read after their commit.
    fn committed(&self, position: Position, written: &[WrittenEntity]);

    /// Names of the tenant were found to have a number, or got one: before anything of this server is committed under them.
    fn named(&self, tenant: TenantId);

    /// Something was or may have been committed, and it is not known any more which documents it wrote: the answer to its
    /// commit was lost.
    fn committed_unseen(&self);
}

/// Who is told, once somebody is.
pub(crate) type Observed = Arc<OnceLock<Arc<dyn CommitObserver>>>;
