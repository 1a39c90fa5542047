//! How a link is opened: say goodbye to the old one, compare the hub with our position, open a new
//! one there. Or, if nothing is wrong with the old one, begin it anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::error::Result;
use crate::event::{Event, Partition, SequenceNumber};
use crate::hub::{HubProperties, LinkStart, LogProperties};
use crate::state::resume::{Continuity, ResumePosition};
use crate::transport::{Link, OpenLink, Transport};

/// A link that was opened, or why there is none.
pub(super) struct Opened {
    pub(super) outcome: Result<Box<dyn Link>, Continuity>,
    /// Numbers that retention removed before they were received, at most.
    pub(super) lost_at_most: Option<u64>,
    /// The log before the link was opened, if it was asked.
    pub(super) log: Option<LogProperties>,
    pub(super) prefetch_events: u32,
    /// What the link has to bring first, if the hub was not asked.
    pub(super) expected: Option<Event>,
}

/// A link to open: on what, behind which position, and how.
pub(super) struct Opening {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) partition: Partition,
    pub(super) position: ResumePosition,
    pub(super) owner_level: Option<i64>,
    pub(super) prefetch_events: u32,
}

impl Opening {
    /// Says goodbye to the old link and waits, if there is one, then compares the hub with
    /// our position and opens a link there.
    pub(super) async fn open(self, before: Option<(Box<dyn Link>, Duration)>) -> Result<Opened> {
        let Self { transport, partition, mut position, owner_level, prefetch_events } = self;
        if let Some((link, delay)) = before {
            let due = Instant::now() + delay;
            link.close().await;
            sleep_until(due).await;
        }
        let hub: HubProperties = transport.hub_properties().await?;
        let log = transport.log_properties(&partition.id).await?;
        let mut lost = None;
        let opened = |outcome, lost_at_most, log| {
            let log = Some(log);
            Ok(Opened { outcome, lost_at_most, log, prefetch_events, expected: None })
        };
        match position.continuity(&hub, &log) {
            Continuity::Unbroken => {}
            Continuity::Trimmed { lost_at_most } => {
                position.on_trimmed(&log);
                lost = Some(lost_at_most);
            }
            broken => return opened(Err(broken), lost, log),
        }
        let open = OpenLink::new(partition.id.clone(), position.next_start(), prefetch_events)
            .with_owner_level(owner_level);
        debug!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            start = %open.start,
            prefetch_events,
            "opening a link"
        );
        let link = transport.open(open).await?;
        // The hub may have been created anew since it was compared: our position would then
        // pass over events of the new log. From here on that would end the link.
        let is = transport.hub_properties().await?.incarnation;
        let was = hub.incarnation;
        let outcome = match is == was {
            true => Ok(link),
            false => Err(Continuity::Recreated { was, is }),
        };
        opened(outcome, lost, log)
    }

    /// Begins a link anew, at the last event that it brought, and with other credit.
    pub(super) async fn restart(self, link: Box<dyn Link>, last: Event) -> Result<Opened> {
        let Self { partition, owner_level, prefetch_events, .. } = self;
        let start = LinkStart::After(SequenceNumber(last.sequence_number().0 - 1));
        let open =
            OpenLink::new(partition.id, start, prefetch_events).with_owner_level(owner_level);
        let outcome = Ok(link.restart(open).await?);
        Ok(Opened { outcome, lost_at_most: None, log: None, prefetch_events, expected: Some(last) })
    }
}
