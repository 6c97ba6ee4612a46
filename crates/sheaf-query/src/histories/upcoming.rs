//! The entities whose histories come next: found a batch at a time, and kept from page to page by whoever reads them all.
//!
//! The first batch is found, and then ordered: nobody knows how many there are. A full one says that they are many. Then
//! the others are met by walking on in the order, so that all batches together cost one walk and not a search each.

use sheaf_model::EntityId;

use super::shared::Window;
use super::{Attempted, ENTITIES_MAX, Start};
use crate::error::ReadError;
use crate::list::{Member, MembersFrom, Pace, members};

/// Entities of a batch. A page has at most as many items, and most entities have one; more would hold more names.
const BATCH_ENTITIES: usize = 1_000;

/// The entities that were found and are not done with. Whoever reads all pages, one after the other, hands it from one to
/// the next: which entities pass is then decided up to a batch ahead, and of one series when it begins.
#[derive(Debug, Default)]
pub struct Upcoming {
    batch: Vec<Member>,
    /// The first of them that was not come to.
    next: usize,
    /// Whether none comes after them.
    is_last: bool,
    steps: Steps,
    of_series: Option<OfSeries>,
}

/// The entities of one series of all, and the window of time that the walk through them has come to look at.
#[derive(Debug)]
pub(super) struct OfSeries {
    pub(super) entities: Vec<EntityId>,
    pub(super) window: Window,
}

/// How the next batch is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Steps {
    #[default]
    Found,
    Walked,
    /// As the first: to walk on took too long.
    FoundAgain,
}

impl Upcoming {
    /// Forgets the entities: they were found for a page that has to be tried again.
    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.next = 0;
        self.is_last = false;
        self.of_series = None;
    }

    /// Goes to where a page begins. Where that is not within what is kept, it is found anew.
    pub(super) fn begin(&mut self, start: Option<&Start>) {
        let next = start.and_then(|start| {
            let place = self.batch.iter().position(|member| start.is_of(member))?;
            Some(place + usize::from(!start.is_within()))
        });
        match next.filter(|next| *next < self.batch.len()) {
            Some(next) => self.next = next,
            None => self.clear(),
        }
    }

    /// The next entities of the batch, at most so many.
    pub(super) fn peek(&self, entities_max: usize) -> &[Member] {
        let rest = &self.batch[self.next..];
        &rest[..rest.len().min(entities_max)]
    }

    /// Is done with so many.
    pub(super) fn advance(&mut self, entities: usize) {
        self.next += entities;
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.next == self.batch.len()
    }

    /// Whether no entity is left, in the batch or after it.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_used_up() && self.is_last
    }
}

impl Attempted<'_> {
    /// Finds the batch after the one that is kept, or the one that a page begins with.
    pub(super) async fn find_upcoming(
        &self,
        upcoming: &mut Upcoming,
        start: Option<&Start>,
    ) -> Result<(), ReadError> {
        let from = match upcoming.batch.last() {
            Some(last) => Some(MembersFrom::after(last)),
            None => start.map(Start::members_from),
        };
        let batch = match upcoming.steps {
            Steps::Found | Steps::FoundAgain => self.batch(from.as_ref(), Pace::OnePage).await?,
            Steps::Walked => match self.batch(from.as_ref(), Pace::AllPages).await {
                Err(ReadError::QueryLimit { .. }) => {
                    upcoming.steps = Steps::FoundAgain;
                    self.batch(from.as_ref(), Pace::OnePage).await?
                }
                batch => batch?,
            },
        };
        upcoming.is_last = batch.len() < BATCH_ENTITIES;
        if upcoming.steps == Steps::Found && !upcoming.is_last && self.members.is_walkable() {
            upcoming.steps = Steps::Walked;
        }
        upcoming.batch = batch;
        upcoming.next = 0;
        Ok(())
    }

    async fn batch(
        &self,
        from: Option<&MembersFrom>,
        pace: Pace,
    ) -> Result<Vec<Member>, ReadError> {
        let asked = (self.source, self.scope, self.catalogue);
        members(asked, &self.members, from, pace, BATCH_ENTITIES).await
    }

    /// The entities of one series of all.
    pub(super) async fn of_series<'u>(
        &self,
        upcoming: &'u mut Upcoming,
    ) -> Result<&'u mut OfSeries, ReadError> {
        let known = match upcoming.of_series.take() {
            Some(known) => known,
            None => self.find_all().await?,
        };
        Ok(upcoming.of_series.insert(known))
    }

    async fn find_all(&self) -> Result<OfSeries, ReadError> {
        let asked = (self.source, self.scope, self.catalogue);
        let found = members(asked, &self.members, None, Pace::OnePage, ENTITIES_MAX + 1);
        let found = found.await?;
        if found.len() > ENTITIES_MAX {
            return Err(ReadError::QueryLimit {
                detail: "10000 entities in one series; narrow the filter or group by entity",
                source: None,
            });
        }
        Ok(OfSeries {
            entities: found.into_iter().map(|member| member.entity).collect(),
            window: Window::default(),
        })
    }
}
