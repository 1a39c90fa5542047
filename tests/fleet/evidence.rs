//! What a run's journals prove, all of it.

use std::collections::BTreeMap;
use std::fmt;

use longshore::event::PartitionId;

use super::conformance::{self, link_rules};
use super::delivery::{self, Failing, Run};
use super::processes::Fleet;

pub struct Report {
    pub delivery: delivery::Report,
    pub calls: usize,
    pub links: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; the model accepts {} calls of stores, {} links kept their rules",
            self.delivery, self.calls, self.links
        )
    }
}

/// Checks the journals of all workers there were, after the last has ended.
pub async fn check(fleet: &Fleet) -> Report {
    let log_ends = fleet.log_ends().await;
    let handled = fleet.journals("handled");
    let accepted = conformance::check(&fleet.journals("calls"));
    let accepted = accepted.unwrap_or_else(|fault| panic!("the model does not accept it: {fault}"));
    let links = link_rules::stories(&fleet.journals("links"));
    let logs: BTreeMap<PartitionId, link_rules::Log> = log_ends
        .iter()
        .enumerate()
        .map(|(partition, end)| (partition.to_string().into(), link_rules::Log::of([(0, end - 1)])))
        .collect();
    link_rules::check(&links, &logs).unwrap_or_else(|fault| panic!("{fault}"));
    let tried = fleet.journals("tried");
    let failing = Failing { work: fleet.work, tried: &tried };
    let run =
        Run { log_ends: &log_ends, handled: &handled, links: &links, accepted: &accepted, failing };
    let delivery = delivery::check(&run);
    let delivery = delivery.unwrap_or_else(|fault| panic!("the contract is broken: {fault}"));
    Report { delivery, calls: accepted.calls, links: links.len() }
}
