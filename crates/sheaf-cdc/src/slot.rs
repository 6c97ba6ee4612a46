//! The slot: whether it still shows everything that it has to, and what is done where it does not.
//!
//! A slot that lacks something is never followed as if it did not: it is made anew, which makes every sink begin with a
//! snapshot. What is remembered of it tells a slot that was dropped, made anew by somebody or moved on from ours.

use sheaf_model::{Lineage, Lsn, Timestamp};
use sheaf_pg::{PgError, Pool};
use sheaf_store::changes::{
    Publication, SlotLook, create_slot, drop_slot, ensure_publication, look_at_slot, remember_slot,
};
use sheaf_store::lineage::fetch_current_lineage;

/// Why a slot is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeBecause {
    /// There never was one.
    First,
    /// Ours is gone.
    Dropped,
    /// One of its name is there that we do not remember: we were stopped while making it, somebody else made it, or the
    /// publication had to be mended.
    Unknown,
    /// The server continues another history than the one that ours was made on: what it showed may never have been.
    OtherLineage,
    /// The server has removed log that it needs.
    Lost,
    /// It was confirmed further than we ever promised: somebody else moved it, or made it anew.
    Moved,
    /// The publication was another for a time: rows that committed then were not shown.
    PublicationMended,
}

impl MadeBecause {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            MadeBecause::First => "there was none",
            MadeBecause::Dropped => "it was dropped",
            MadeBecause::Unknown => "one of its name was there that we do not know",
            MadeBecause::OtherLineage => "the server continues another history",
            MadeBecause::Lost => "the server had removed log that it needs",
            MadeBecause::Moved => "somebody else moved it or made it anew",
            MadeBecause::PublicationMended => "the publication was another one for a time",
        }
    }
}

/// What is done about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotDecision {
    /// It shows everything since it was last confirmed.
    Follow,
    /// It is made, in the place of what is there.
    Make(MadeBecause),
    /// Somebody follows it. It is asked again later.
    Busy,
    /// The server takes no writes: its slots are not those of the primary.
    Standby,
    /// The name belongs to a slot of something else, which is not touched.
    Foreign,
}

/// Decides about a slot, from what is known of it. What the publication was found as tells why it may be unknown.
pub fn decide(look: &SlotLook, publication: Publication) -> SlotDecision {
    let Some(timeline) = look.timeline else {
        return SlotDecision::Standby;
    };
    let here = Lineage {
        system_id: look.system_id,
        timeline,
    };
    let Some(slot) = &look.slot else {
        return SlotDecision::Make(match look.remembered {
            None => MadeBecause::First,
            Some(_) => MadeBecause::Dropped,
        });
    };
    if slot.plugin.as_deref() != Some("pgoutput") || !slot.is_of_this_database {
        return SlotDecision::Foreign;
    }
    if slot.is_active {
        return SlotDecision::Busy;
    }
    let Some(remembered) = look.remembered else {
        return SlotDecision::Make(match publication {
            Publication::Unchanged => MadeBecause::Unknown,
            // Whoever mends it forgets the slots that followed it.
            Publication::Created | Publication::Mended => MadeBecause::PublicationMended,
        });
    };
    if remembered.lineage != here {
        return SlotDecision::Make(MadeBecause::OtherLineage);
    }
    let is_lost = slot.wal_status.as_deref() == Some("lost");
    let Some(confirmed) = slot.confirmed.filter(|_| !is_lost) else {
        return SlotDecision::Make(MadeBecause::Lost);
    };
    if confirmed > remembered.promised || confirmed < remembered.begins_at {
        return SlotDecision::Make(MadeBecause::Moved);
    }
    SlotDecision::Follow
}

/// Why there is no slot to follow.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// PostgreSQL failed.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// Somebody follows it.
    #[error("slot {slot} is followed by somebody else")]
    Busy {
        /// The slot.
        slot: String,
    },
    /// The server takes no writes.
    #[error("the server is a standby, whose slots are not those of the primary")]
    Standby,
    /// The name is taken.
    #[error("slot {slot} is of another database or plugin")]
    Foreign {
        /// The slot.
        slot: String,
    },
}

/// A slot that shows everything from a position on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparedSlot {
    /// The history that it is of.
    pub lineage: Lineage,
    /// Up to where it may have been confirmed.
    pub promised: Lsn,
    /// Why it was made just now; absent where it was there.
    pub made: Option<MadeBecause>,
}

/// Makes sure of the publication, then of the slot: in the other order rows that commit between the two are not shown.
pub async fn prepare_slot(
    cdc: &Pool,
    slot: &str,
    now: Timestamp,
) -> Result<PreparedSlot, SlotError> {
    // What is written to a primary that a promotion has left behind is written in vain.
    let current = fetch_current_lineage(cdc).await?;
    current.ok_or(SlotError::Standby)?;
    let publication = ensure_publication(cdc).await?;
    let look = look_at_slot(cdc, slot).await?;
    let unreadable = |what| PgError::unreadable("preparing the slot of changes", what);
    let lineage = Lineage {
        system_id: look.system_id,
        timeline: look.timeline.ok_or(SlotError::Standby)?,
    };
    let because = match decide(&look, publication) {
        SlotDecision::Follow => {
            let promised = look.remembered.map(|remembered| remembered.promised);
            return Ok(PreparedSlot {
                lineage,
                promised: promised.ok_or_else(|| unreadable("no memory of the slot"))?,
                made: None,
            });
        }
        SlotDecision::Busy => {
            return Err(SlotError::Busy {
                slot: slot.to_owned(),
            });
        }
        SlotDecision::Standby => return Err(SlotError::Standby),
        SlotDecision::Foreign => {
            return Err(SlotError::Foreign {
                slot: slot.to_owned(),
            });
        }
        SlotDecision::Make(because) => because,
    };
    if because == MadeBecause::First {
        tracing::info!(slot, "the slot of changes is made");
    } else {
        let why = because.as_str();
        tracing::warn!(
            slot,
            why,
            "the slot of changes is made anew; every sink begins with a snapshot"
        );
    }
    drop_slot(cdc, slot).await?;
    let begins_at = create_slot(cdc, slot).await?;
    remember_slot(cdc, slot, lineage.timeline, begins_at, now).await?;
    Ok(PreparedSlot {
        lineage,
        promised: begins_at,
        made: Some(because),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sheaf_store::changes::{RememberedSlot, ServerSlot};

    fn good() -> SlotLook {
        SlotLook {
            system_id: 7,
            timeline: Some(2),
            keep_bytes_max: None,
            slot: Some(ServerSlot {
                plugin: Some("pgoutput".to_owned()),
                is_of_this_database: true,
                is_active: false,
                wal_status: Some("reserved".to_owned()),
                confirmed: Some(Lsn(500)),
                safe_bytes: None,
                retained_bytes: Some(0),
            }),
            remembered: Some(RememberedSlot {
                lineage: Lineage {
                    system_id: 7,
                    timeline: 2,
                },
                begins_at: Lsn(100),
                promised: Lsn(500),
            }),
        }
    }

    fn decided(change: impl Fn(&mut SlotLook)) -> SlotDecision {
        let mut look = good();
        change(&mut look);
        decide(&look, Publication::Unchanged)
    }

    fn slot(change: impl Fn(&mut ServerSlot)) -> SlotDecision {
        decided(|look| change(look.slot.as_mut().expect("it is there")))
    }

    #[test]
    fn a_slot_is_followed_only_where_it_can_lack_nothing() {
        use MadeBecause::{Dropped, First, Lost, Moved, OtherLineage, Unknown};
        use SlotDecision::{Busy, Follow, Foreign, Make, Standby};
        let table = [
            (decided(|_| ()), Follow),
            // After a crash the server has forgotten the last confirmations.
            (slot(|slot| slot.confirmed = Some(Lsn(100))), Follow),
            (
                slot(|slot| slot.wal_status = Some("extended".to_owned())),
                Follow,
            ),
            (
                slot(|slot| slot.wal_status = Some("unreserved".to_owned())),
                Follow,
            ),
            (
                slot(|slot| slot.wal_status = Some("lost".to_owned())),
                Make(Lost),
            ),
            (slot(|slot| slot.confirmed = None), Make(Lost)),
            (slot(|slot| slot.confirmed = Some(Lsn(501))), Make(Moved)),
            (slot(|slot| slot.confirmed = Some(Lsn(99))), Make(Moved)),
            (slot(|slot| slot.is_active = true), Busy),
            (
                slot(|slot| slot.plugin = Some("wal2json".to_owned())),
                Foreign,
            ),
            (slot(|slot| slot.plugin = None), Foreign),
            (slot(|slot| slot.is_of_this_database = false), Foreign),
            (decided(|look| look.timeline = None), Standby),
            (decided(|look| look.timeline = Some(3)), Make(OtherLineage)),
            (decided(|look| look.system_id = 8), Make(OtherLineage)),
            (decided(|look| look.remembered = None), Make(Unknown)),
            (decided(|look| look.slot = None), Make(Dropped)),
            (
                decided(|look| {
                    look.slot = None;
                    look.remembered = None;
                }),
                Make(First),
            ),
        ];
        for (place, (found, wanted)) in table.into_iter().enumerate() {
            assert_eq!(found, wanted, "line {place}");
        }
        let mut forgotten = good();
        forgotten.remembered = None;
        for publication in [Publication::Created, Publication::Mended] {
            assert_eq!(
                decide(&forgotten, publication),
                Make(MadeBecause::PublicationMended)
            );
        }
    }
}
