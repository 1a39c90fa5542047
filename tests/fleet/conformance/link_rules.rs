//! What a link may do: begin right after the event it was opened after, skip nothing that the log
//! holds, repeat nothing, and end where a later owner has the partition.

use std::collections::BTreeMap;

use longshore::config::DEFAULT_PREFETCH_EVENTS;
use longshore::event::PartitionId;

use crate::links::{LinkLine, LinkNews};

/// The numbers that a partition's log holds.
#[derive(Clone, Debug)]
pub struct Log(Vec<(i64, i64)>);

impl Log {
    /// The log that holds these runs, ascending, both ends included.
    pub fn of(runs: impl Into<Vec<(i64, i64)>>) -> Self {
        Self(runs.into())
    }

    /// The first number after this one.
    fn next(&self, after: i64) -> Option<i64> {
        let run = self.0.iter().find(|(_, last)| *last > after)?;
        Some(run.0.max(after + 1))
    }
}

/// A link and what it received.
#[derive(Clone, Debug)]
pub struct LinkStory {
    pub by: String,
    pub partition: PartitionId,
    /// The event it was opened after.
    pub after: Option<i64>,
    pub level: i64,
    /// When, the first and the last number of a run.
    pub received: Vec<(u64, i64, i64)>,
}

/// The links of all processes.
pub fn stories(journals: &[(String, Vec<LinkLine>)]) -> Vec<LinkStory> {
    let mut stories = Vec::new();
    for (by, lines) in journals {
        let mut links: BTreeMap<u64, LinkStory> = BTreeMap::new();
        for line in lines {
            match &line.what {
                LinkNews::Opening { partition, after, level } => {
                    let story = LinkStory {
                        by: by.clone(),
                        partition: partition.clone(),
                        after: *after,
                        level: level.unwrap_or(-1),
                        received: Vec::new(),
                    };
                    links.insert(line.link, story);
                }
                LinkNews::Received { first, last } => {
                    if let Some(story) = links.get_mut(&line.link) {
                        story.received.push((line.at, *first, *last));
                    }
                }
                LinkNews::Opened | LinkNews::Ended { .. } | LinkNews::Closed => {}
            }
        }
        stories.extend(links.into_values());
    }
    stories
}

/// Checks every link against the logs.
///
/// # Errors
/// The first that did what it may not.
pub fn check(stories: &[LinkStory], logs: &BTreeMap<PartitionId, Log>) -> Result<(), String> {
    let mut by_partition: BTreeMap<&PartitionId, Vec<&LinkStory>> = BTreeMap::new();
    for story in stories {
        let log = logs.get(&story.partition).ok_or("a partition without a log")?;
        in_order(story, log)
            .map_err(|fault| format!("a link of {} on {}: {fault}", story.by, story.partition))?;
        by_partition.entry(&story.partition).or_default().push(story);
    }
    by_partition.values().try_for_each(|stories| one_owner(stories))
}

fn in_order(story: &LinkStory, log: &Log) -> Result<(), String> {
    let mut last_received = story.after.unwrap_or(-1);
    for &(_, first, last) in &story.received {
        let next = log.next(last_received);
        if next != Some(first) {
            return Err(format!("{first} came after {last_received}, and the log has {next:?}"));
        }
        if let Some(gap) = (first..last).find(|number| log.next(*number) != Some(number + 1)) {
            return Err(format!("{} came, and is not in the log", gap + 1));
        }
        last_received = last;
    }
    Ok(())
}

/// Once a link of a higher level receives, lower ones get what was on its way, and no more.
fn one_owner(stories: &[&LinkStory]) -> Result<(), String> {
    for higher in stories {
        let Some(&(taken, _, _)) = higher.received.first() else {
            continue;
        };
        for lower in stories.iter().filter(|story| story.level < higher.level) {
            let late = lower.received.iter().filter(|(at, _, _)| *at > taken);
            let events: i64 = late.map(|(_, first, last)| last - first + 1).sum();
            if events > i64::from(DEFAULT_PREFETCH_EVENTS) {
                return Err(format!(
                    "a link of {} on {} received {events} events after one of {} had it",
                    lower.by, lower.partition, higher.by
                ));
            }
        }
    }
    Ok(())
}
