//! What a consumer, and the worker of one partition, are told to do.

use tokio::time::Instant;

/// What the consumer is told to do, all partitions alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Directive {
    Run,
    /// Take no new events; what is here goes on.
    Pause,
    /// Take no new events, end what runs by the deadline, checkpoint, stop.
    Drain(Instant),
}

/// What one partition's worker is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Run,
    /// Take no new events; what is here goes on.
    Pause,
    /// Take no new events, end what runs without cutting it, checkpoint, stop. Until that is
    /// done, [`Order::Run`] calls it back.
    HandOff,
    /// Take no new events, end what runs by the deadline, checkpoint, stop.
    Drain(Instant),
    /// The lease is another owner's: stop, and write nothing.
    Lose,
}

/// What a partition's worker was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) order: Order,
    /// How often somebody else's write was found in the place of its checkpoint.
    pub(crate) rechecks: u32,
}

impl From<Directive> for Order {
    fn from(directive: Directive) -> Self {
        match directive {
            Directive::Run => Order::Run,
            Directive::Pause => Order::Pause,
            Directive::Drain(deadline) => Order::Drain(deadline),
        }
    }
}
