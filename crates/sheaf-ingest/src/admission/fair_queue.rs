//! A queue that serves tenants in turn: deficit round robin by weight. A plain data structure: it takes no lock, knows
//! no time, and waits for nothing.
//!
//! Each round every waiting tenant may take out one quantum of weight, and saves up what it does not use while it has
//! something waiting. So an item of at most a quantum, alone in its tenant's line, comes out after at most one quantum
//! of each other tenant and what that had saved for its next item, however much those have queued; and tenants that
//! always wait get the same weight, whatever the sizes of their items.

use std::collections::{HashMap, VecDeque};

use sheaf_model::TenantId;

/// How much may wait, and how much of it is taken in one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FairQueueBounds {
    /// Weight that a tenant may take out in a round. Larger makes fewer turns and lets others wait longer; smaller only
    /// costs turns. At least 1.
    pub quantum: u64,
    /// Items of one tenant.
    pub tenant_items_max: usize,
    /// Weight of one tenant. An item heavier than this is taken when the tenant has no other.
    pub tenant_weight_max: u64,
    /// Items of all tenants.
    pub items_max: usize,
    /// Weight of all tenants. An item heavier than this is taken when there is no other.
    pub weight_max: u64,
}

/// Why an item was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The tenant has as much waiting as it may have.
    #[error("the tenant's part of the queue is full")]
    Tenant,
    /// All tenants together have.
    #[error("the queue is full")]
    Queue,
}

/// Items of tenants, served in turn.
#[derive(Debug)]
pub struct FairQueue<T> {
    bounds: FairQueueBounds,
    lines: HashMap<TenantId, Line<T>>,
    /// The tenants that have something waiting, in the order of their turns; it is the first one's turn.
    turns: VecDeque<TenantId>,
    /// Whether the first one has had its quantum of this round.
    is_granted: bool,
    len: usize,
    weight: u64,
}

/// What one tenant has waiting; never empty.
#[derive(Debug)]
struct Line<T> {
    items: VecDeque<(u64, T)>,
    weight: u64,
    /// What it may still take out.
    deficit: u64,
}

impl<T> FairQueue<T> {
    /// An empty queue.
    pub fn new(bounds: FairQueueBounds) -> FairQueue<T> {
        FairQueue {
            bounds: FairQueueBounds {
                quantum: bounds.quantum.max(1),
                ..bounds
            },
            lines: HashMap::new(),
            turns: VecDeque::new(),
            is_granted: false,
            len: 0,
            weight: 0,
        }
    }

    /// Queues an item behind the others of its tenant. A weight of 0 counts as 1, so that no item is free.
    pub fn push(&mut self, tenant: TenantId, weight: u64, item: T) -> Result<(), Full> {
        let weight = weight.max(1);
        let bounds = &self.bounds;
        let total = self.weight.saturating_add(weight);
        if self.len >= bounds.items_max || (self.len > 0 && total > bounds.weight_max) {
            return Err(Full::Queue);
        }
        if let Some(line) = self.lines.get(&tenant)
            && (line.items.len() >= bounds.tenant_items_max
                || line.weight.saturating_add(weight) > bounds.tenant_weight_max)
        {
            return Err(Full::Tenant);
        }
        let turns = &mut self.turns;
        let line = self.lines.entry(tenant).or_insert_with(|| {
            turns.push_back(tenant);
            Line {
                items: VecDeque::new(),
                weight: 0,
                deficit: 0,
            }
        });
        line.items.push_back((weight, item));
        line.weight = line.weight.saturating_add(weight);
        self.len += 1;
        self.weight = total;
        Ok(())
    }

    /// Takes out the next item. One of at most a quantum costs the same however many wait; before a heavier one, each
    /// waiting tenant is looked at twice at most.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_if(|_, _| true)
    }

    /// Takes out the next item if it fits. The weight and the item are asked about; one that does not fit stays the next.
    pub fn pop_if(&mut self, fits: impl FnOnce(u64, &T) -> bool) -> Option<T> {
        let tenant = self.settle()?;
        let line = self
            .lines
            .get_mut(&tenant)
            .expect("invariant: whose turn it is has a line");
        let (weight, item) = line
            .items
            .front()
            .expect("invariant: a line is never empty");
        if !fits(*weight, item) {
            return None;
        }
        let (weight, item) = line
            .items
            .pop_front()
            .expect("invariant: it was just there");
        line.weight -= weight;
        line.deficit -= weight;
        self.len -= 1;
        self.weight -= weight;
        if line.items.is_empty() {
            // What it saved up goes too: nobody saves for a time when nothing waits.
            self.lines.remove(&tenant);
            self.turns.pop_front();
            self.is_granted = false;
        }
        Some(item)
    }

    /// Takes out the next items, up to this weight together; at least one, if there is any.
    pub fn pop_group(&mut self, weight_max: u64) -> Vec<T> {
        let mut group = Vec::new();
        let mut left = weight_max;
        loop {
            let is_first = group.is_empty();
            let popped = self.pop_if(|weight, _| {
                let fits = is_first || weight <= left;
                left = left.saturating_sub(weight);
                fits
            });
            match popped {
                Some(item) => group.push(item),
                None => return group,
            }
        }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The weight of all items that wait.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Goes on with the turns until the first tenant may take out its next item, and says which that is.
    fn settle(&mut self) -> Option<TenantId> {
        let mut passed = 0;
        loop {
            let tenant = *self.turns.front()?;
            let line = self
                .lines
                .get_mut(&tenant)
                .expect("invariant: a tenant with a turn has a line");
            if !self.is_granted {
                line.deficit = line.deficit.saturating_add(self.bounds.quantum);
                self.is_granted = true;
            }
            if line.lacks() == 0 {
                return Some(tenant);
            }
            self.turns.rotate_left(1);
            self.is_granted = false;
            passed += 1;
            if passed == self.turns.len() {
                self.skip_rounds();
            }
        }
    }

    /// After a round in which nobody could take anything out: as many more at once as would end the same.
    fn skip_rounds(&mut self) {
        let quantum = self.bounds.quantum;
        let needed = self
            .lines
            .values()
            .map(|line| line.lacks().div_ceil(quantum))
            .min();
        let skipped = needed.unwrap_or(0).saturating_sub(1);
        for line in self.lines.values_mut() {
            line.deficit = line.deficit.saturating_add(skipped * quantum);
        }
    }
}

impl<T> Line<T> {
    /// What is missing until the next item may be taken out.
    fn lacks(&self) -> u64 {
        let next = self.items.front().map_or(0, |(weight, _)| *weight);
        next.saturating_sub(self.deficit)
    }
}

#[cfg(test)]
mod tests;
