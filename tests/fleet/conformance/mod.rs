//! Whether what the ports really answered is what the model of them allows.
//!
//! The engine is proven against [`MemoryCheckpointStore`](longshore::checkpoint_store::memory) and
//! [`MemoryLeaseStore`](longshore::lease_store::memory): by the simulator, by all interleavings, in
//! virtual time. Here the journals of real stores are given to the same two. For each record there
//! must be an order of all calls on it that respects real time (a call that ended before another
//! began comes first) in which the memory store gives exactly the answers that were given; a call
//! without an answer, or answered by an error, may have been applied at any time after it began,
//! or never. A listing is a read of each record at some moment while it was made.
//!
//! Every write names the version it replaces and is given a new one, so the writes of a record
//! are a chain ([`register`]), and the rest has its place beside it ([`schedule`]). [`members`] has
//! no versions, and one writer each. [`link_rules`] is about links.

pub mod history;
pub mod link_rules;
mod members;
mod model;
mod register;
mod schedule;
mod tests;

use std::collections::BTreeMap;

use longshore::checkpoint_store::Checkpoint;
use longshore::event::PartitionId;

use super::ports::{CallLine, Lease};
use history::History;
use model::{Checkpoints, Leases};

/// A write that was applied, in its place among the others of its record.
#[derive(Clone, Debug)]
pub struct Write<V> {
    /// The process that made it.
    pub by: String,
    pub begin: u64,
    /// When it was acknowledged, if it was.
    pub end: Option<u64>,
    pub value: V,
}

/// What the model accepted.
pub struct Accepted {
    pub checkpoints: BTreeMap<PartitionId, Vec<Write<Checkpoint>>>,
    pub leases: BTreeMap<PartitionId, Vec<Write<Lease>>>,
    pub calls: usize,
}

/// Compares the journals of all processes with the model.
///
/// # Errors
/// What the model would not have answered.
pub fn check(journals: &[(String, Vec<CallLine>)]) -> Result<Accepted, String> {
    let history = History::read(journals)?;
    let mut checkpoints = BTreeMap::new();
    for (partition, calls) in history.checkpoints {
        let chain = register::check(&calls, &Checkpoints::default())
            .map_err(|fault| format!("the checkpoint of {partition}: {fault}"))?;
        checkpoints.insert(partition, chain);
    }
    let mut leases = BTreeMap::new();
    for (partition, calls) in history.leases {
        let chain = register::check(&calls, &Leases::default())
            .map_err(|fault| format!("the lease of {partition}: {fault}"))?;
        leases.insert(partition, chain);
    }
    for (owner, calls) in history.members {
        members::check(&calls).map_err(|fault| format!("the member record of {owner}: {fault}"))?;
    }
    history.clock.check()?;
    Ok(Accepted { checkpoints, leases, calls: history.count })
}
