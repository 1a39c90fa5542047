//! A link under watch: when it was last heard of, and when to look at it again. The looking is in the
//! file `silence`.

use std::pin::Pin;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::{Error, Result};
use crate::event::SequenceNumber;
use crate::hub::LogProperties;
use crate::transport::Link;

/// How long a link may be silent before the hub is asked whether events wait.
pub const PROBE_AFTER: Duration = Duration::from_secs(20);

/// How long a link that is behind has to bring an event before it is given up.
pub const PROBE_AGAIN: Duration = Duration::from_secs(5);

/// An open link, and when it was last heard of.
pub(super) struct Watched {
    pub(super) link: Box<dyn Link>,
    pub(super) heard: Instant,
    /// When to look whether it is silent.
    pub(super) look: Pin<Box<Sleep>>,
    /// The question to the hub that is under way.
    pub(super) probe: Option<BoxFuture<'static, Result<LogProperties>>>,
    /// Whether the last answer said that events wait which the link does not bring.
    pub(super) behind: bool,
}

impl Watched {
    pub(super) fn new(link: Box<dyn Link>) -> Self {
        let heard = Instant::now();
        let look = Box::pin(sleep_until(heard + PROBE_AFTER));
        Self { link, heard, look, probe: None, behind: false }
    }

    pub(super) fn on_heard(&mut self) {
        self.heard = Instant::now();
        self.probe = None;
        self.behind = false;
    }

    pub(super) fn look_after(&mut self, wait: Duration) {
        self.look.as_mut().reset(Instant::now() + wait);
    }
}

/// What the watch over a link that has nothing to give leads to.
pub(super) enum Silence {
    /// The link is given up.
    Lost(Error),
    /// A run of events that cannot be read ends with the log: they are in `ready`.
    RunEnded,
    /// The link is opened again.
    OpenAgain,
    /// A link is opened at the last event of the log.
    LookAtLast(SequenceNumber),
}
