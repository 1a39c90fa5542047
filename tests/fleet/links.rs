//! A transport that keeps a journal of its links: opened where, received what, ended how.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use longshore::event::{Event, PartitionId};
use longshore::transport::{Link, LinkStart, OpenLink, Transport};
use longshore::{Error, error::Result};
use serde::{Deserialize, Serialize};

use super::journal::{Journal, now};
use super::support::forward::{Over, OverTransport};

/// Something that happened to a link.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct LinkLine {
    /// Which link of its process.
    pub link: u64,
    pub at: u64,
    pub what: LinkNews,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum LinkNews {
    /// `after` is the number of the event that it is to begin after; without one, at the log's
    /// beginning.
    Opening {
        partition: PartitionId,
        after: Option<i64>,
        level: Option<i64>,
    },
    /// The SDK attaches at the first receive: this says little.
    Opened,
    /// Numbers that followed each other without a gap.
    Received {
        first: i64,
        last: i64,
    },
    Ended {
        error: String,
    },
    Closed,
}

#[derive(Debug)]
pub struct TracedTransport<T> {
    inner: T,
    journal: Arc<Journal>,
    links: Arc<AtomicU64>,
}

impl<T> TracedTransport<T> {
    pub fn new(inner: T, journal: Journal) -> Over<Self> {
        Over(Self { inner, journal: Arc::new(journal), links: Arc::default() })
    }
}

impl<T: Transport> OverTransport for TracedTransport<T> {
    fn below(&self) -> &dyn Transport {
        &self.inner
    }

    fn open(&self, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>> {
        let said = Said::begin(&self.journal, &self.links, &options);
        said.listen(self.inner.open(options)).boxed()
    }
}

/// Where a link's news go.
struct Said {
    journal: Arc<Journal>,
    links: Arc<AtomicU64>,
    link: u64,
}

impl Said {
    fn begin(journal: &Arc<Journal>, links: &Arc<AtomicU64>, options: &OpenLink) -> Self {
        let said = Self {
            journal: Arc::clone(journal),
            links: Arc::clone(links),
            link: links.fetch_add(1, Ordering::Relaxed),
        };
        let after = match options.start {
            LinkStart::After(number) => Some(number.0),
            LinkStart::FirstEvent => None,
            LinkStart::EnqueuedAt(_) => panic!("no worker here begins at a time"),
        };
        said.say(LinkNews::Opening {
            partition: options.partition.clone(),
            after,
            level: options.owner_level,
        });
        said
    }

    async fn listen(
        self,
        opening: impl Future<Output = Result<Box<dyn Link>>>,
    ) -> Result<Box<dyn Link>> {
        match opening.await {
            Ok(inner) => {
                self.say(LinkNews::Opened);
                Ok(Box::new(TracedLink { inner, said: self }))
            }
            Err(error) => {
                self.end(&error);
                Err(error)
            }
        }
    }

    fn say(&self, what: LinkNews) {
        self.journal.append(&LinkLine { link: self.link, at: now(), what });
    }

    fn end(&self, error: &Error) {
        self.say(LinkNews::Ended { error: error.to_string() });
    }
}

struct TracedLink {
    inner: Box<dyn Link>,
    said: Said,
}

impl Link for TracedLink {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        max_events: usize,
        into: &mut Vec<Event>,
    ) -> Poll<Result<usize>> {
        let before = into.len();
        let polled = self.inner.poll_receive(cx, max_events, into);
        let numbers: Vec<i64> =
            into[before..].iter().map(|event| event.sequence_number().0).collect();
        for run in numbers.chunk_by(|one, next| one + 1 == *next) {
            self.said.say(LinkNews::Received { first: run[0], last: run[run.len() - 1] });
        }
        if let Poll::Ready(Err(error)) = &polled {
            self.said.end(error);
        }
        polled
    }

    /// In the journal it is the end of one link and another one.
    fn restart(self: Box<Self>, options: OpenLink) -> BoxFuture<'static, Result<Box<dyn Link>>> {
        let Self { inner, said } = *self;
        said.say(LinkNews::Closed);
        let said = Said::begin(&said.journal, &said.links, &options);
        said.listen(inner.restart(options)).boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.said.say(LinkNews::Closed);
        self.inner.close()
    }
}
