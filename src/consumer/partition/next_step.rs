//! What becomes of an event that failed and may succeed later: tried again, parked, or given up.
//!
//! ```text
//!   in place, as often as its policy says ──> parked, for longer each time ──> given up
//!        └── a delay too long to wait for in place ──────^
//! ```

use std::time::Duration;

use crate::config::{AfterAttempts, RetryPolicy};

/// How an event stands whose attempt failed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Standing {
    pub(super) policy: RetryPolicy,
    /// Attempts in place, this one included.
    pub(super) tried: u32,
    /// How often it was parked.
    pub(super) parkings: u32,
    /// Whether this was an attempt.
    pub(super) is_attempt: bool,
    /// Whether the attempt is not counted, since its destination is left alone.
    pub(super) is_spared: bool,
    pub(super) is_too_old: bool,
    /// Whether its destination did something since it failed first.
    pub(super) may_give_up: bool,
    /// Whether there is a store for it.
    pub(super) may_park: bool,
    /// Whether a person replays it, and waits for how that ends.
    pub(super) is_replayed: bool,
    /// Whether its lane has failed for so long that its events are parked.
    pub(super) is_at_dead_lane: bool,
    /// How long it would wait in place.
    pub(super) delay: Duration,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NextStep {
    /// It is tried again in place.
    Again,
    /// It is parked for so long; `is_step`: that is one more of the times that it may be.
    Park { delay: Duration, is_step: bool },
    /// It is given up.
    GiveUp,
}

/// Decides, with the longest delay in place and the delays of parking.
pub(super) fn next_step(
    standing: Standing,
    park_after: Duration,
    park_delays: &[Duration],
) -> NextStep {
    let Standing { policy, tried, is_attempt, is_spared, may_park, delay, .. } = standing;
    if is_attempt && standing.is_too_old {
        return NextStep::GiveUp;
    }
    // Of one attempt none is spared: the event is not to be tried again.
    let is_final = is_attempt && tried >= policy.max_attempts && (!is_spared || tried == 1);
    if is_final {
        let parks = may_park
            && policy.then == AfterAttempts::Park
            && policy.max_attempts > 1
            && !standing.is_replayed;
        let step = usize::try_from(standing.parkings).unwrap_or(usize::MAX);
        return match park_delays.get(step) {
            Some(delay) if parks => NextStep::Park { delay: *delay, is_step: true },
            _ if standing.may_give_up => NextStep::GiveUp,
            _ => match park_delays.last() {
                // Nobody knows whether it is at fault.
                Some(delay) if parks => NextStep::Park { delay: *delay, is_step: false },
                _ => NextStep::Again,
            },
        };
    }
    if !may_park {
        return NextStep::Again;
    }
    if is_attempt && is_spared && standing.is_at_dead_lane {
        // What was parked last comes back last: the others try the destination before it does.
        return NextStep::Park { delay: Duration::ZERO, is_step: false };
    }
    if delay > park_after && !standing.is_replayed {
        return NextStep::Park { delay, is_step: false };
    }
    NextStep::Again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::backoff::Backoff;

    const SECOND: Duration = Duration::from_secs(1);
    const PARK_AFTER: Duration = Duration::from_secs(60);
    const DELAYS: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(1_800)];

    fn failed(tried: u32) -> Standing {
        Standing {
            policy: RetryPolicy::new(5, Backoff::doubling(SECOND, SECOND)),
            tried,
            parkings: 0,
            is_attempt: true,
            is_spared: false,
            is_too_old: false,
            may_give_up: true,
            may_park: true,
            is_replayed: false,
            is_at_dead_lane: false,
            delay: SECOND,
        }
    }

    fn parked(delay: Duration, is_step: bool) -> NextStep {
        NextStep::Park { delay, is_step }
    }

    fn step(standing: Standing) -> NextStep {
        next_step(standing, PARK_AFTER, &DELAYS)
    }

    #[test]
    fn in_place_then_parked_for_longer_each_time_then_given_up() {
        assert_eq!(step(failed(4)), NextStep::Again);
        assert_eq!(step(failed(5)), parked(DELAYS[0], true));
        assert_eq!(step(Standing { parkings: 1, ..failed(6) }), parked(DELAYS[1], true));
        let last = Standing { parkings: 2, ..failed(7) };
        assert_eq!(step(last), NextStep::GiveUp);
        let unknown = Standing { may_give_up: false, ..last };
        assert_eq!(step(unknown), parked(DELAYS[1], false), "its destination did nothing since");
        assert_eq!(step(Standing { is_too_old: true, ..unknown }), NextStep::GiveUp);
    }

    #[test]
    fn where_nothing_is_parked_it_is_in_place_alone() {
        let none = Standing { may_park: false, ..failed(5) };
        assert_eq!(step(none), NextStep::GiveUp);
        assert_eq!(step(Standing { may_give_up: false, ..none }), NextStep::Again);
        assert_eq!(next_step(failed(5), PARK_AFTER, &[]), NextStep::GiveUp);
        let policy = failed(5).policy.then(AfterAttempts::DeadLetter);
        assert_eq!(step(Standing { policy, ..failed(5) }), NextStep::GiveUp);
        assert_eq!(step(Standing { is_replayed: true, ..failed(5) }), NextStep::GiveUp);
        let once = RetryPolicy::new(1, policy.backoff);
        assert_eq!(step(Standing { policy: once, ..failed(1) }), NextStep::GiveUp);
    }

    #[test]
    fn a_long_delay_is_not_waited_for_in_place() {
        let long = Standing { delay: 2 * PARK_AFTER, ..failed(1) };
        assert_eq!(step(long), parked(2 * PARK_AFTER, false));
        assert_eq!(step(Standing { is_attempt: false, ..long }), parked(2 * PARK_AFTER, false));
        assert_eq!(step(Standing { delay: PARK_AFTER, ..long }), NextStep::Again);
        assert_eq!(step(Standing { may_park: false, ..long }), NextStep::Again);
    }

    #[test]
    fn what_is_spared_is_parked_where_its_lane_has_failed_for_long() {
        let spared = Standing { is_spared: true, ..failed(5) };
        assert_eq!(step(spared), NextStep::Again);
        let dead = Standing { is_at_dead_lane: true, ..spared };
        assert_eq!(step(dead), parked(Duration::ZERO, false));
        assert_eq!(step(Standing { may_park: false, ..dead }), NextStep::Again);
    }
}
