//! Lists the dead letters of events that come in: an owner before may have written one and ended before its
//! checkpoint had the event as settled. Such an event is settled, and not handled again.
//!
//! It is asked only for what was enqueued before the partition was claimed: about a request for 10,000
//! events, and one or two where the partition is not behind. A store that fails holds up nothing but repeats.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::persist::in_time;
use crate::consumer::shared::Shared;
use crate::error::Error;
use crate::event::{Event, SequenceNumber};
use crate::failure_store::{
    BLOCK_NUMBERS, FailureKind, FailurePage, FailurePrefix, FailureStore, LogIdentity,
    MAX_PAGE_ENTRIES, PageToken,
};
use crate::state::earlier_letters::EarlierLetters;

const LIST: &str = "list the dead letters";

/// How much the clock of the broker may be behind ours.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(5 * 60);

/// A page, or why there is none.
pub(super) type Listed = Result<FailurePage, Error>;

/// See the [module](self).
pub(super) struct LetterListing {
    letters: EarlierLetters,
    shared: Arc<Shared>,
    store: Arc<dyn FailureStore>,
    log: LogIdentity,
    prefix: FailurePrefix,
    /// The page that is asked for.
    page: Option<BoxFuture<'static, Listed>>,
    /// What is enqueued later nobody had before.
    until: SystemTime,
    next_try: Instant,
    failures: u32,
}

impl LetterListing {
    /// `first` is the number of the first event, or one below it. `None` without a store.
    pub(super) fn new(
        shared: &Arc<Shared>,
        log: LogIdentity,
        first: SequenceNumber,
        now: Instant,
    ) -> Option<Self> {
        let store = Arc::clone(shared.failures.as_ref()?);
        Some(Self {
            letters: EarlierLetters::new(first, BLOCK_NUMBERS),
            shared: Arc::clone(shared),
            store,
            prefix: FailurePrefix::of_log(FailureKind::Dead, &log),
            log,
            page: None,
            until: shared.clock.now() + MAX_CLOCK_ERROR,
            next_try: now,
            failures: 0,
        })
    }

    /// Whether so many events may come in.
    pub(super) fn may_begin(&self, events: usize) -> bool {
        self.failures > 0 || self.letters.are_known(events)
    }

    /// Asks for what is needed next.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.page.is_none()
            && now >= self.next_try
            && let Some(first) = self.letters.begin_block()
        {
            self.prefix = FailurePrefix::of_block(FailureKind::Dead, &self.log, first);
            self.page = Some(self.list(None));
        }
    }

    fn list(&self, after: Option<PageToken>) -> BoxFuture<'static, Listed> {
        let (shared, store) = (Arc::clone(&self.shared), Arc::clone(&self.store));
        let prefix = self.prefix.clone();
        async move {
            let list = store.list(&prefix, after.as_ref(), MAX_PAGE_ENTRIES);
            in_time(&shared, LIST, list).await
        }
        .boxed()
    }

    /// The page that was asked for; `None` where none was.
    pub(super) async fn next(&mut self) -> Option<Listed> {
        let listed = self.page.as_mut()?.await;
        self.page = None;
        Some(listed)
    }

    /// When it asks again after a failure.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        (self.page.is_none() && self.next_try > now).then_some(self.next_try)
    }

    /// An event comes in. Returns whether an owner before gave it up.
    pub(super) fn on_received(&mut self, event: &Event) -> bool {
        self.letters.on_received(event.sequence_number())
    }

    /// Whether nobody had this event before, nor any behind it.
    pub(super) fn is_over_at(&self, event: &Event) -> bool {
        event.enqueued_time() > self.until
    }

    pub(super) fn on_page(&mut self, page: FailurePage) {
        // An entry that cannot be read names no event.
        for letter in page.entries.into_iter().flatten() {
            self.letters.on_letter(letter.key.event.sequence_number);
        }
        match page.next {
            Some(next) => self.page = Some(self.list(Some(next))),
            None => {
                self.letters.end_block();
                self.failures = 0;
            }
        }
    }

    /// Returns how often it failed in a row.
    pub(super) fn on_failed(&mut self, now: Instant) -> u32 {
        self.letters.abort_block();
        self.failures = self.failures.saturating_add(1);
        let delay = self.shared.options.retry_backoff.delay(self.failures, self.shared.random());
        self.next_try = now + delay;
        self.failures
    }
}
