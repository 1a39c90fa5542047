//! Where a claim begins, and with what offset.
//!
//! Behind the stored position, as long as it is in the log; else where the policy of lost positions
//! says, which is never silent; without a checkpoint where the start position says. A place becomes
//! a sequence number, so that it is the same for the next owner. Where it is not that of a received
//! event, the offset that goes with it is looked up in the hub: processors of other SDKs begin
//! behind offsets, and whoever owns the partition next may be one.
//!
//! A look-up that fails holds a claim up for [`LOOK_UP_ATTEMPTS`] and no longer: the first event that
//! is handled brings an offset of its own.

use tracing::{error, warn};

use crate::checkpoint_store::StoredCheckpoint;
use crate::config::PositionLost;
use crate::consumer::exit::StopReason;
use crate::consumer::shared::Shared;
use crate::error::{Error, error_chain};
use crate::event::{Partition, Position, SequenceNumber, StartPosition};
use crate::state::fence::Fence;
use crate::state::reset::before;
use crate::state::resume::{Continuity, ResumePosition, first_start, start_is_beyond};
use crate::timestamp::unix_millis;
use crate::transport::{HubProperties, LinkStart, LogProperties, offsets};

/// How often a claim is tried in a row, at most, for an offset that cannot be looked up.
const LOOK_UP_ATTEMPTS: u32 = 3;

/// What a claim read.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) hub: &'a HubProperties,
    pub(super) log: &'a LogProperties,
    pub(super) stored: Option<&'a StoredCheckpoint>,
}

impl<'a> Known<'a> {
    fn position(self) -> Option<&'a Position> {
        self.stored.and_then(|stored| stored.checkpoint.watermark.as_ref())
    }
}

/// Where to begin.
pub(super) enum Begin {
    /// After the checkpoint; the position is there where its offset was looked up.
    After(SequenceNumber, Option<Position>),
    /// Where the owner before us began, of whose events the first is unsettled still. What it
    /// settled beyond that stays settled.
    Again(LinkStart),
    /// At a place of its own; the claim stores it where it is a number.
    At { start: LinkStart, watermark: Option<Position> },
}

impl Begin {
    /// Compares the checkpoint with the hub.
    ///
    /// # Errors
    /// Where its position is lost, and the policy says stop.
    pub(super) fn decide(
        shared: &Shared,
        partition: &Partition,
        known: Known<'_>,
        lost: Option<Continuity>,
    ) -> Result<Self, StopReason> {
        let Known { hub, log, stored } = known;
        let position = known.position();
        let incarnation = stored.and_then(|stored| stored.checkpoint.incarnation);
        let refused = lost.filter(|lost| matches!(lost, Continuity::Refused { .. }));
        let continuity = match (position, incarnation) {
            // Nothing that can be read says so, or it would have been noticed before.
            _ if let Some(refused) = refused => refused,
            (Some(position), known) => ResumePosition::new(
                known.unwrap_or(hub.incarnation),
                LinkStart::After(position.sequence_number),
            )
            .continuity(hub, log),
            (None, Some(was)) if was != hub.incarnation => {
                Continuity::Recreated { was, is: hub.incarnation }
            }
            // What is not the beginning of the log is a watermark from the first claim on; a time
            // only where it could be looked up. So without one the beginning is where the owner
            // before us began.
            (None, Some(_)) => {
                return Ok(Begin::Again(match shared.options.start_position {
                    StartPosition::EnqueuedAt(time) => LinkStart::EnqueuedAt(time),
                    _ => LinkStart::FirstEvent,
                }));
            }
            (None, None) => {
                let start = shared.options.start_position;
                say_where_it_begins_instead(shared, partition, start, log);
                return Ok(match (start, first_start(start, log)) {
                    // The first event may be of an earlier time: the next owner is not to go by it.
                    (StartPosition::EnqueuedAt(_), start @ LinkStart::FirstEvent) => {
                        Begin::At { start, watermark: Some(Position::at(-1)) }
                    }
                    (_, start) => at(start),
                });
            }
        };
        let start = match (continuity, position) {
            // What retention took is counted when the link opens.
            (Continuity::Unbroken | Continuity::Trimmed { .. }, Some(position)) => {
                return Ok(Begin::After(position.sequence_number, None));
            }
            _ => match shared.options.position_lost {
                PositionLost::Earliest => StartPosition::Earliest,
                PositionLost::Latest => StartPosition::Latest,
                PositionLost::Stop => return Err(StopReason::PositionLost(continuity)),
            },
        };
        error!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            continuity = ?continuity,
            policy = ?shared.options.position_lost,
            "the checkpoint's position is not in the log; the policy decides where to go on"
        );
        Ok(at(first_start(start, log)))
    }

    /// Asks the hub for what is missing: the number of a time, the offset of a number. `failures`
    /// are those of the claim so far.
    ///
    /// # Errors
    /// Where trying again may help, and was not tried often.
    pub(super) async fn look_up(
        self,
        shared: &Shared,
        partition: &Partition,
        known: Known<'_>,
        failures: u32,
    ) -> Result<Self, Error> {
        let give_up = |error: Error| {
            if error.class().is_retryable() && failures + 1 < LOOK_UP_ATTEMPTS {
                return Err(error);
            }
            warn!(
                message_topic = %partition.entity,
                message_partition = %partition.id,
                message_consumer_group = %shared.transport.consumer_group(),
                class = %error.class(),
                causes = ?error_chain(&error),
                "the place where the partition begins could not be looked up in the hub; until an \
                 event is checkpointed, processors of other SDKs cannot go on from it"
            );
            Ok(())
        };
        let (transport, log) = (&*shared.transport, known.log);
        let begin = match self {
            Begin::At { start: LinkStart::EnqueuedAt(time), .. } => {
                match offsets::first_since(transport, &partition.id, time).await {
                    Ok(first) => at(LinkStart::After(before(first))),
                    Err(error) => return give_up(error).map(|()| self),
                }
            }
            begin => begin,
        };
        let Some(settled) = begin.without_offset(known) else { return Ok(begin) };
        match offsets::locate(transport, &partition.id, settled, log).await {
            Ok(located) => Ok(begin.at_offset(located)),
            Err(error) => give_up(error).map(|()| begin),
        }
    }

    /// The number whose offset is not known.
    fn without_offset(&self, known: Known<'_>) -> Option<SequenceNumber> {
        let position = match self {
            Begin::After(..) => known.position(),
            Begin::At { watermark, .. } => watermark.as_ref(),
            Begin::Again(_) => None,
        };
        let position = position.filter(|position| position.offset.is_none());
        position.map(|position| position.sequence_number)
    }

    fn at_offset(self, located: Position) -> Self {
        match self {
            Begin::After(number, _) => Begin::After(number, Some(located)),
            Begin::At { start, .. } => Begin::At { start, watermark: Some(located) },
            again => again,
        }
    }

    /// Puts it into the claim.
    pub(super) fn prepare(&self, fence: &mut Fence) {
        match self {
            Begin::After(_, located) => located.iter().for_each(|it| fence.on_located(it)),
            Begin::At { watermark, .. } => fence.restart_at(watermark.clone()),
            Begin::Again(_) => {}
        }
    }

    /// Where the first link is opened.
    pub(super) fn start(&self) -> LinkStart {
        match *self {
            Begin::After(number, _) => LinkStart::After(number),
            Begin::Again(start) | Begin::At { start, .. } => start,
        }
    }
}

/// A place behind the first event is a watermark.
fn at(start: LinkStart) -> Begin {
    match start {
        LinkStart::After(number) if number.0 >= 0 => {
            Begin::At { start, watermark: Some(Position::at(number.0)) }
        }
        LinkStart::After(_) => Begin::At { start: LinkStart::FirstEvent, watermark: None },
        start => Begin::At { start, watermark: None },
    }
}

/// A start that the log does not reach is its end, and the log says so, unless a time just passed.
fn say_where_it_begins_instead(
    shared: &Shared,
    partition: &Partition,
    start: StartPosition,
    log: &LogProperties,
) {
    let is_expected = match start {
        StartPosition::EnqueuedAt(time) => {
            u64::try_from(unix_millis(time)).unwrap_or(0) <= shared.shared_now_millis()
        }
        _ => false,
    };
    if start_is_beyond(start, log) && !is_expected {
        error!(
            message_topic = %partition.entity,
            message_partition = %partition.id,
            message_consumer_group = %shared.transport.consumer_group(),
            start_position = ?start,
            log_end = log.end().0,
            "the start position is beyond the end of the log; it begins with the next event to come"
        );
    }
}
