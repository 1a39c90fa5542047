//! The lanes that all partitions of a consumer, or of a set, share.

use std::sync::Mutex;
use std::time::Duration;

use super::lock::lock;
use crate::error::InvalidConfig;
use crate::lanes::{Lane, LaneRule, LaneSnapshot, MAX_LANE_CLOSING};

/// The table of lanes behind a lock.
pub(crate) struct SharedLanes {
    rule: LaneRule,
    cap: Mutex<usize>,
}

impl SharedLanes {
    pub(crate) fn new(rule: LaneRule) -> Self {
        let cap = Mutex::new(rule.cap());
        Self { rule, cap }
    }

    /// Closes a lane for so long.
    pub(crate) fn close(&self, _lane: &Lane, time: Duration) -> Result<(), InvalidConfig> {
        if time > MAX_LANE_CLOSING {
            let bound = format!("it must be at most {MAX_LANE_CLOSING:?}");
            return Err(InvalidConfig::new("time", format!("{time:?}"), bound));
        }
        Ok(())
    }

    /// Opens a lane that is closed.
    pub(crate) fn open(&self, _lane: &Lane) {}

    /// Changes how many events of a lane may be under way.
    pub(crate) fn set_cap(&self, cap: usize) -> Result<(), InvalidConfig> {
        if self.rule.is_ordered() {
            let bound = "it cannot be changed where lanes are ordered: they hold one";
            return Err(InvalidConfig::new("lane_cap", cap, bound));
        }
        if cap == 0 {
            return Err(InvalidConfig::new("lane_cap", cap, "it must be at least 1"));
        }
        *lock(&self.cap) = cap;
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> LaneSnapshot {
        LaneSnapshot { cap: *lock(&self.cap), ..LaneSnapshot::default() }
    }
}
