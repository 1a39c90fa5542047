//! What a retry scheduler did while it ran, and where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::tally::Told;
use crate::latencies::Share;
use crate::watch::{Standing, partitions};
use longshore::consumer::ConsumerCounts;

/// The figures of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Events that their targets acknowledged.
    pub(super) published: u64,
    /// The same, by target.
    pub(super) targets: BTreeMap<String, u64>,
    /// From when they were due to the acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) due_to_published: Option<Share>,
    pub(super) dead_letters: u64,
    /// How often an event was parked for the first time.
    pub(super) parked: u64,
    pub(super) checkpoints: u64,
    /// How long it ran.
    pub(super) seconds: f64,
    /// Why it stopped, where no signal was the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Report {
    pub(super) fn new(told: Told, counts: &ConsumerCounts, elapsed: Duration) -> Self {
        Self {
            published: told.published(),
            due_to_published: Share::of(&told.late),
            targets: told.targets,
            dead_letters: counts.dead_letters,
            parked: counts.parked,
            checkpoints: counts.checkpoints,
            seconds: elapsed.as_secs_f64(),
            error: None,
        }
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events published, {} dead letters", self.published, self.dead_letters)?;
        if self.parked > 0 {
            write!(f, ", {} parked", self.parked)?;
        }
        for (target, count) in &self.targets {
            write!(f, "\nto {target}: {count}")?;
        }
        if let Some(share) = &self.due_to_published {
            write!(f, "\nfrom due to published: {share}")?;
        }
        Ok(())
    }
}

/// Where a scheduler stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Look {
    pub(super) is_ready: bool,
    pub(super) partitions: usize,
    /// Events that their targets acknowledged.
    pub(super) published: u64,
    pub(super) running: usize,
    /// Events that wait in the store.
    pub(super) parked: usize,
    pub(super) dead_letters: u64,
    /// Events of its partitions that wait in their hubs, where that is known.
    pub(super) waiting: Option<u64>,
}

impl Standing for Look {
    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn partitions(&self) -> usize {
        self.partitions
    }

    fn parts(&self, before: Option<(Duration, Self)>) -> Vec<String> {
        let mut parts = vec![format!("{} published", self.published)];
        if let Some((time, before)) = before.filter(|(time, _)| !time.is_zero()) {
            let new = self.published.saturating_sub(before.published) as f64;
            parts.push(format!("{:.0}/minute", 60.0 * new / time.as_secs_f64()));
        }
        parts.push(format!("{} parked", self.parked));
        parts.push(format!("{} running", self.running));
        parts.extend(self.waiting.map(|waiting| format!("{waiting} waiting")));
        let letters = self.dead_letters;
        parts.extend((letters > 0).then(|| format!("{letters} dead letters")));
        parts.push(partitions(self.partitions));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latencies::Latencies;

    #[test]
    fn people_read_what_was_published_where_and_how_late() {
        let mut told = Told::default();
        told.late = Latencies::default();
        let counts = ConsumerCounts::default();
        let none = Report::new(told.clone(), &counts, Duration::from_secs(1));
        assert_eq!(none.to_string(), "0 events published, 0 dead letters");
        told.targets = [("a".to_owned(), 2), ("b".to_owned(), 3)].into_iter().collect();
        told.late.add(Duration::from_millis(1));
        let mut report = Report::new(told, &counts, Duration::from_secs(1));
        (report.dead_letters, report.parked) = (1, 4);
        assert_eq!(
            report.to_string(),
            "5 events published, 1 dead letters, 4 parked\nto a: 2\nto b: 3\n\
             from due to published: median 0.00 s, 99% within 0.00 s"
        );
    }

    #[test]
    fn a_look_tells_what_is_new_since_the_one_before() {
        let before = Look { published: 100, ..Look::default() };
        let look = Look {
            is_ready: true,
            partitions: 1,
            published: 150,
            running: 2,
            parked: 7,
            dead_letters: 1,
            waiting: Some(3),
        };
        assert_eq!(
            look.parts(Some((Duration::from_secs(10), before))).join(", "),
            "150 published, 300/minute, 7 parked, 2 running, 3 waiting, 1 dead letters, 1 partition"
        );
    }
}
