//! What a commit changed, as those need to know it who remember what was there before.

use crate::id::{EntityId, TenantId};

/// An entity whose document a commit changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenEntity {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub entity: EntityId,
    /// Whether it had none before: then whoever found nothing under its name has to look again.
    pub is_first: bool,
}
