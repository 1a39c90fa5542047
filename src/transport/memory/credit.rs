//! How much a link of the hub in memory may bring.

/// The credit of a link, as the client of Event Hubs has it: it is renewed when half of it was
/// accepted, and what cannot be decoded is not accepted.
pub(super) struct Credit {
    most: usize,
    pub(super) left: usize,
    accepted: usize,
}

impl Credit {
    pub(super) fn new(prefetch_events: u32) -> Self {
        let most = usize::try_from(prefetch_events).unwrap_or(usize::MAX).max(1);
        Self { most, left: most, accepted: 0 }
    }

    pub(super) fn on_accepted(&mut self, events: usize) {
        self.left = self.left.saturating_sub(events);
        self.accepted += events;
        if self.accepted >= self.most / 2 {
            (self.left, self.accepted) = (self.most, 0);
        }
    }
}
