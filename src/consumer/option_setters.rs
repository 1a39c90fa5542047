//! A setter for each option, on both builders.

use std::time::Duration;

use super::builder::BatchConsumerBuilder;
use super::event_consumer::EventConsumerBuilder;
#[cfg(test)]
use crate::config::ConsumerOptions;
use crate::config::{
    LostPartition, Ordering, OwnerLevel, PositionLost, RetryPolicies, UncheckpointedEvents,
};
use crate::event::StartPosition;
use crate::state::backoff::Backoff;

macro_rules! option_setters {
    (
        both { $($(#[doc = $doc:literal])* $name:ident: $type:ty,)* }
        batches { $($(#[doc = $of_batches_doc:literal])* $of_batches:ident: $of_batches_type:ty,)* }
    ) => {
        impl BatchConsumerBuilder {
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nSee [`ConsumerOptions::", stringify!($name), "`](crate::config::ConsumerOptions::", stringify!($name), ").")]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.options.$name = $name;
                    self
                }
            )*
            $(
                $(#[doc = $of_batches_doc])*
                #[doc = concat!("\n\nSee [`ConsumerOptions::", stringify!($of_batches), "`](crate::config::ConsumerOptions::", stringify!($of_batches), ").")]
                pub fn $of_batches(mut self, $of_batches: $of_batches_type) -> Self {
                    self.options.$of_batches = $of_batches;
                    self
                }
            )*
        }

        impl EventConsumerBuilder {
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nSee [`ConsumerOptions::", stringify!($name), "`](crate::config::ConsumerOptions::", stringify!($name), ").")]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.0.options.$name = $name;
                    self
                }
            )*
        }

        /// Of each option its name, what its setter says, and its default.
        #[cfg(test)]
        fn said(options: ConsumerOptions) -> Vec<(&'static str, String, String)> {
            // It does not compile where an option has no setter.
            let ConsumerOptions { $($name,)* $($of_batches,)* } = options;
            let text = |lines: &[&str]| lines.concat();
            vec![
                $((stringify!($name), text(&[$($doc),*]), format!("{:?}", $name)),)*
                $((
                    stringify!($of_batches),
                    text(&[$($of_batches_doc),*]),
                    format!("{:?}", $of_batches),
                ),)*
            ]
        }
    };
}

option_setters! {
    both {
        /// How many events are handled at once by an event handler, over all partitions. Default 10.
        max_events_in_flight: usize,
        /// Memory for events, over all partitions: those received and not settled, and those that links hold
        /// ahead. Default 256 MiB.
        memory_budget_bytes: usize,
        /// The most events that a link holds ahead. Default 300.
        prefetch_events: u32,
        /// How long a handler may take after its last [`progress`](crate::EventContext::progress). Then it is
        /// dropped, and its events are tried again. `None`: as long as it likes. Default 15 minutes.
        handler_timeout: Option<Duration>,
        /// How many times a handler gets an event before it is parked or becomes a dead letter. Default 5.
        max_attempts: u32,
        /// How long an event is tried while nothing succeeds at its destination. Default 24 hours.
        max_age: Duration,
        /// How many owners of a partition may end one after the other without progress before the event that
        /// ends them becomes a dead letter. `None`: any number. Default 7.
        max_takeovers: Option<u32>,
        /// Delays between attempts. Default: they double from 1 second to 1 minute.
        retry_backoff: Backoff,
        /// Other attempts and delays for failures of some classes. Default: none.
        retry_policies: RetryPolicies,
        /// How long a drain waits for handlers before it cuts them. Default 30 seconds.
        drain_timeout: Duration,
        /// How long a run tries to connect for the first time. `None`: as long as it may help. Default
        /// 20 seconds.
        connect_timeout: Option<Duration>,
        /// How long one call of a store or of the dead-letter sink may take. Default 30 seconds.
        store_timeout: Duration,
        /// Where to begin in a partition without a checkpoint. Default: with the oldest event.
        start_position: StartPosition,
        /// Where to go on if the position of the checkpoint is not in the log. Default: with the oldest event.
        position_lost: PositionLost,
        /// What happens to handler calls whose partition is lost. Default: they are cancelled.
        lost_partition: LostPartition,
        /// The owner level of the links. Default: the lease epoch.
        owner_level: OwnerLevel,
        /// Delays between attempts to open a link. Default: they double from 100 ms to 30 seconds.
        reopen_backoff: Backoff,
    }
    batches {
        /// The most events in a batch. Default 20.
        max_batch_size: usize,
        /// The most bytes in a batch. A larger event is a batch of its own. Default 4 MiB.
        max_batch_bytes: usize,
        /// How long a batch waits to fill. Default 1 second.
        batch_timeout: Duration,
        /// How many batches are handled at once by a batch handler, over all partitions. Default 4.
        max_batches_in_flight: usize,
        /// Which events are handled in order. Default: none.
        ordering: Ordering,
        /// The most events of a partition that are received and not yet below the watermark. Default 4,096.
        window_events: usize,
        /// The longest delay for which an event that failed waits in place. For a longer one it is parked.
        /// Default 1 minute.
        park_after: Duration,
        /// How long an event is parked: the first time, the second time, and so on. Default: 5 minutes,
        /// 30 minutes, 2 hours, 8 hours.
        park_delays: Vec<Duration>,
        /// The most parked events of a partition. Default 100,000.
        max_parked_events: usize,
        /// The shortest time between two checkpoint writes of a partition. Default 1 second.
        checkpoint_min_interval: Duration,
        /// What to do when checkpoints cannot be written. Default: go on.
        uncheckpointed_events: UncheckpointedEvents,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A default as people say it; `None` if it is no number and no time.
    fn in_words(default: &str) -> Option<String> {
        let text = default.strip_prefix("Some(").and_then(|text| text.strip_suffix(')'));
        let text = text.unwrap_or(default);
        let plural = |count: u64, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        if let Ok(number) = text.parse::<u64>() {
            return Some(match number {
                mebibytes if number >= 1 << 20 && number % (1 << 20) == 0 => {
                    format!("{} MiB", mebibytes >> 20)
                }
                1_000.. => format!("{},{:03}", number / 1_000, number % 1_000),
                _ => number.to_string(),
            });
        }
        let seconds: u64 = text.strip_suffix('s')?.parse().ok()?;
        Some(match seconds {
            hours if hours % 3_600 == 0 => plural(hours / 3_600, "hour"),
            minutes if minutes % 60 == 0 => plural(minutes / 60, "minute"),
            _ => plural(seconds, "second"),
        })
    }

    #[test]
    fn each_setter_says_the_default_that_it_has() {
        let mut checked = 0;
        for (name, doc, default) in said(ConsumerOptions::default()) {
            let (_, said) = doc.split_once("Default").unwrap_or_else(|| panic!("{name}: {doc}"));
            if let Some(value) = in_words(&default) {
                assert_eq!(said.trim().trim_end_matches('.'), value, "{name}");
                checked += 1;
            }
        }
        assert_eq!(checked, 18, "numbers and times");
    }
}
