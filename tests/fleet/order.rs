//! The order of events within their keys, as the journals of all workers tell it.
//!
//! - An owner begins an event of a key when it has finished the one that it began before, and goes
//!   forward only; again and again with the same event where that fails.
//! - Over all owners, an event is begun for the first time when the one before it of its key has been
//!   finished, by whoever had it. What is repeated is repeated from the first unsettled event on.

use std::collections::BTreeMap;
use std::fmt;

use longshore::event::PartitionId;

use super::journal::{Begun, Handled};

/// What the check has seen.
#[derive(Default, Debug)]
pub struct Report {
    pub events: usize,
    pub keys: usize,
    /// Calls that did not finish their event.
    pub failed: usize,
    /// Events of the most frequent key.
    pub most: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, keys, failed, most } = self;
        write!(
            f,
            "{events} events of {keys} keys, {most} of one, in order; {failed} calls failed or were cut"
        )
    }
}

/// Something that a handler did.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    // Of two at one time this came first.
    Finished(i64),
    Began(i64),
}

/// By key, what one ownership did, and when.
type Ownership<'a> = BTreeMap<&'a str, Vec<(u64, Step)>>;

/// When an event was begun and finished for the first time.
#[derive(Clone, Copy, Default, Debug)]
struct First {
    began: Option<u64>,
    finished: Option<u64>,
}

/// Checks what all workers there were did.
///
/// # Errors
/// The first event that is out of order.
pub fn check(
    begun: &[(String, Vec<Begun>)],
    handled: &[(String, Vec<Handled>)],
) -> Result<Report, String> {
    let mut keys: BTreeMap<(&PartitionId, i64), &str> = BTreeMap::new();
    let mut firsts: BTreeMap<(&PartitionId, &str), BTreeMap<i64, First>> = BTreeMap::new();
    let mut owners: BTreeMap<(&PartitionId, u64, &str), Ownership<'_>> = BTreeMap::new();
    let least = |time: Option<u64>, at| Some(time.map_or(at, |time| time.min(at)));
    let mut report = Report::default();
    for (worker, lines) in begun {
        for Begun { partition, number, key, epoch, at } in lines {
            keys.insert((partition, *number), key);
            let first = firsts.entry((partition, key)).or_default().entry(*number).or_default();
            first.began = least(first.began, *at);
            let owner = owners.entry((partition, *epoch, worker)).or_default();
            owner.entry(key).or_default().push((*at, Step::Began(*number)));
            report.failed += 1;
        }
    }
    for (worker, lines) in handled {
        for Handled { partition, number, epoch, at } in lines {
            let Some(key) = keys.get(&(partition, *number)) else {
                return Err(format!("{worker} finished {partition}/{number}, which nobody began"));
            };
            let first = firsts.entry((partition, key)).or_default().entry(*number).or_default();
            first.finished = least(first.finished, *at);
            let owner = owners.entry((partition, *epoch, worker)).or_default();
            owner.entry(key).or_default().push((*at, Step::Finished(*number)));
            report.failed = report.failed.saturating_sub(1);
        }
    }
    for ((partition, epoch, worker), owner) in owners {
        for (key, mut steps) in owner {
            steps.sort_unstable();
            forward(&steps).map_err(|fault| {
                format!("{worker}, epoch {epoch}, partition {partition}, key {key}: {fault}")
            })?;
        }
    }
    for ((partition, key), events) in &firsts {
        in_turn(events).map_err(|fault| format!("partition {partition}, key {key}: {fault}"))?;
        report.keys += 1;
        report.events += events.len();
        report.most = report.most.max(events.len());
    }
    Ok(report)
}

/// One owner goes from event to event.
fn forward(steps: &[(u64, Step)]) -> Result<(), String> {
    let (mut open, mut finished) = (None, i64::MIN);
    for (at, step) in steps {
        match *step {
            Step::Began(number) if open.is_some_and(|open| open != number) => {
                return Err(format!("it began {number} within {open:?}, at {at}"));
            }
            Step::Began(number) if number <= finished => {
                return Err(format!("it began {number} after it had finished {finished}"));
            }
            Step::Began(number) => open = Some(number),
            Step::Finished(number) if open != Some(number) => {
                return Err(format!("it finished {number} within {open:?}, at {at}"));
            }
            Step::Finished(number) => (open, finished) = (None, number),
        }
    }
    Ok(())
}

/// Each event's first begin is after the first finish of the one before.
fn in_turn(events: &BTreeMap<i64, First>) -> Result<(), String> {
    let mut before: Option<(i64, First)> = None;
    for (number, first) in events {
        if let Some((earlier, was)) = before.replace((*number, *first))
            && (was.finished.is_none() || first.began < was.finished)
        {
            return Err(format!("{number} began at {first:?}, and {earlier} was {was:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (partition, number, key, epoch, begun, finished)
    type Line = (&'static str, i64, &'static str, u64, u64, Option<u64>);

    fn said(lines: &[(&str, &[Line])]) -> Result<Report, String> {
        let mut begun = Vec::new();
        let mut handled = Vec::new();
        for (worker, lines) in lines {
            let (mut begins, mut ends) = (Vec::new(), Vec::new());
            for &(partition, number, key, epoch, at, end) in *lines {
                let (partition, key) = (PartitionId::from(partition), key.to_owned());
                if let Some(at) = end {
                    ends.push(Handled { partition: partition.clone(), number, epoch, at });
                }
                begins.push(Begun { partition, number, key, epoch, at });
            }
            begun.push(((*worker).to_owned(), begins));
            handled.push(((*worker).to_owned(), ends));
        }
        check(&begun, &handled)
    }

    const ONE: &[Line] = &[
        ("0", 1, "a", 10, 1, Some(2)),
        ("0", 2, "b", 10, 1, Some(9)),
        ("0", 3, "a", 10, 2, None),
        ("0", 3, "a", 10, 4, Some(5)),
    ];

    #[test]
    fn keys_are_apart_and_failures_and_repeats_are_in_order() {
        let two: &[Line] = &[("0", 3, "a", 20, 15, Some(16)), ("0", 4, "a", 20, 17, Some(18))];
        let report = said(&[("one", ONE), ("two", two)]).expect("in order");
        assert_eq!((report.events, report.keys, report.failed, report.most), (4, 2, 1, 3));
    }

    #[test]
    fn what_is_out_of_order_is_found() {
        let passed: &[Line] = &[("0", 1, "a", 10, 1, Some(3)), ("0", 2, "a", 10, 2, Some(4))];
        assert!(said(&[("one", passed)]).expect_err("within").contains("began 2 within"));
        let failed: &[Line] = &[
            ("0", 1, "a", 10, 1, None),
            ("0", 2, "a", 10, 4, Some(5)),
            ("0", 1, "a", 10, 6, Some(7)),
        ];
        assert!(said(&[("one", failed)]).expect_err("passed").contains("began 2 within"));
        let back: &[Line] = &[("0", 2, "a", 10, 1, Some(3)), ("0", 1, "a", 10, 4, Some(5))];
        assert!(said(&[("one", back)]).expect_err("back").contains("began 1 after"));
        let late: &[Line] = &[("0", 1, "a", 20, 15, Some(16))];
        let early: &[Line] = &[("0", 2, "a", 10, 2, Some(4))];
        let fault = said(&[("one", early), ("two", late)]).expect_err("skipped");
        assert!(fault.contains("key a: 2 began"), "{fault}");
        let lost: &[Line] = &[("0", 1, "a", 10, 1, None)];
        let fault = said(&[("one", lost), ("two", &[("0", 2, "a", 20, 9, None)])]);
        assert!(fault.expect_err("never finished").contains("2 began"));
    }
}
