//! Where each partition is begun and ended, by what was asked and by what its log says.

use super::{DEFAULT_LAST, FromArg, TailArgs};
use longshore::event::{Event, PartitionId, SequenceNumber, StartPosition};
use longshore::hub::{LinkStart, LogProperties};
use longshore::state::resume::{first_start, start_is_beyond};

/// Where a partition is begun.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Begin {
    /// With so many events before the end.
    Last(usize),
    At(StartPosition),
}

/// Which partitions, and where each begins.
///
/// # Errors
/// What is wrong with the command line.
pub(super) fn begins(
    args: &TailArgs,
    partitions: &[PartitionId],
) -> Result<Vec<(PartitionId, Begin)>, String> {
    let asked = args.partition.iter().map(|id| PartitionId::from(id.as_str()));
    let mut asked: Vec<PartitionId> = asked.collect();
    let (own, of_all): (Vec<&FromArg>, Vec<&FromArg>) =
        args.from.iter().partition(|from| from.partition.is_some());
    if of_all.len() > 1 {
        return Err(
            "--from says several positions for all partitions: ID=POSITION is for one".to_owned()
        );
    }
    // Who says where to begin in some means those.
    if asked.is_empty() && of_all.is_empty() {
        asked.extend(own.iter().filter_map(|from| from.partition.clone()));
    }
    let named = asked.iter().chain(own.iter().filter_map(|from| from.partition.as_ref()));
    if let Some(absent) = named.into_iter().find(|id| !partitions.contains(id)) {
        let last = partitions.last().map_or("none", |id| id.as_str());
        return Err(format!(
            "the hub has no partition {absent}: it has {}, and the last one is {last}",
            crate::table::counted(partitions.len() as u64, "partition")
        ));
    }
    let is_asked = |id: &&PartitionId| asked.is_empty() || asked.contains(id);
    let begin = |id: &PartitionId| {
        let own = own.iter().rev().find(|from| from.partition.as_ref() == Some(id));
        let position = own.or(of_all.first()).map(|from| from.position);
        match position.unwrap_or(StartPosition::Latest) {
            StartPosition::Latest if !args.follow => {
                Begin::Last(args.count.unwrap_or(DEFAULT_LAST))
            }
            position => Begin::At(position),
        }
    };
    Ok(partitions.iter().filter(is_asked).map(|id| (id.clone(), begin(id))).collect())
}

/// What is read of one partition.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Reading {
    pub(super) partition: PartitionId,
    pub(super) start: LinkStart,
    /// The last event, where it ends.
    pub(super) end: Option<SequenceNumber>,
    /// What is before is left out: a link may begin earlier.
    from: StartPosition,
}

impl Reading {
    /// Whether an event is part of what was asked for.
    pub(super) fn has(&self, event: &Event) -> bool {
        let is_begun = match self.from {
            StartPosition::SequenceNumber(number) => event.sequence_number() >= number,
            StartPosition::EnqueuedAt(time) => event.enqueued_time() >= time,
            StartPosition::Earliest | StartPosition::Latest => true,
        };
        is_begun && self.end.is_none_or(|end| event.sequence_number() <= end)
    }
}

/// What is read of all, and how much of it is printed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) readings: Vec<Reading>,
    pub(super) is_followed: bool,
    /// Most events that are printed.
    pub(super) most: Option<usize>,
    /// Whether only the last ones of all partitions are printed, by when they were enqueued.
    pub(super) is_last: bool,
    /// The columns of the longest place, such as 31#1234.
    pub(super) place_columns: usize,
}

impl Plan {
    pub(super) fn new(is_followed: bool, count: Option<usize>) -> Self {
        Self {
            readings: Vec::new(),
            is_followed,
            most: count,
            is_last: !is_followed,
            place_columns: 0,
        }
    }

    /// Adds a partition, unless nothing of its log is asked for.
    pub(super) fn add(&mut self, partition: PartitionId, begin: Begin, log: &LogProperties) {
        let place = format!("{partition}#{}", log.end());
        self.place_columns = self.place_columns.max(crate::table::width(&place));
        let (start, from) = match begin {
            Begin::Last(count) => {
                self.most = self.most.or(Some(DEFAULT_LAST));
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                let before = log.end().0.saturating_sub(count).max(log.begin.0.saturating_sub(1));
                (LinkStart::After(SequenceNumber(before)), StartPosition::Earliest)
            }
            Begin::At(position) => {
                self.is_last = false;
                (first_start(position, log), position)
            }
        };
        if self.is_followed {
            self.readings.push(Reading { partition, start, end: None, from });
        } else if !log.is_empty()
            && !start_is_beyond(from, log)
            && start != LinkStart::After(log.end())
        {
            self.readings.push(Reading { partition, start, end: Some(log.end()), from });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: TailArgs,
    }

    fn args(text: &str) -> TailArgs {
        Cli::try_parse_from(["tail"].into_iter().chain(text.split_whitespace())).expect(text).args
    }

    fn log(begin: i64, end: i64) -> LogProperties {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        LogProperties::new(
            SequenceNumber(begin),
            (end >= 0).then_some(SequenceNumber(end)),
            Some(time),
        )
    }

    /// What is read, as partition, first number that a link may bring, and last one.
    fn plan(text: &str, logs: &[(i64, i64)]) -> Result<Vec<(String, i64, Option<i64>)>, String> {
        let args = args(text);
        let partitions: Vec<PartitionId> =
            (0..logs.len()).map(|id| id.to_string().into()).collect();
        let mut plan = Plan::new(args.follow, args.count);
        for (partition, begin) in begins(&args, &partitions)? {
            let (begins, ends) = logs[partition.as_str().parse::<usize>().expect("a number")];
            plan.add(partition, begin, &log(begins, ends));
        }
        let first = |start| match start {
            LinkStart::After(number) => number.0 + 1,
            _ => -1,
        };
        Ok(plan
            .readings
            .into_iter()
            .map(|it| (it.partition.to_string(), first(it.start), it.end.map(|end| end.0)))
            .collect())
    }

    fn of(id: &str, first: i64, end: Option<i64>) -> (String, i64, Option<i64>) {
        (id.to_owned(), first, end)
    }

    #[test]
    fn the_last_ones_are_read_up_to_the_end_and_what_comes_from_there() {
        let logs = [(0, 99), (95, 99), (100, 99), (0, -1)];
        assert_eq!(plan("", &logs), Ok(vec![of("0", 90, Some(99)), of("1", 95, Some(99))]));
        assert_eq!(plan("-n 2 --partition 0", &logs), Ok(vec![of("0", 98, Some(99))]));
        assert_eq!(
            plan("--from latest -n 3 --partition 0", &logs),
            Ok(vec![of("0", 97, Some(99))])
        );
        assert_eq!(
            plan("--follow", &logs),
            // Of a log without an event, from its first one on.
            Ok(vec![of("0", 100, None), of("1", 100, None), of("2", 100, None), of("3", -1, None)])
        );
    }

    #[test]
    fn a_position_may_be_one_partitions_and_then_means_that_one() {
        let logs = [(0, 99), (0, 99)];
        assert_eq!(
            plan("--from 42", &logs),
            Ok(vec![of("0", 42, Some(99)), of("1", 42, Some(99))])
        );
        assert_eq!(plan("--from 1=7", &logs), Ok(vec![of("1", 7, Some(99))]));
        assert_eq!(
            plan("--from 1=7 --from 90 --follow", &logs),
            Ok(vec![of("0", 90, None), of("1", 7, None)])
        );
        assert_eq!(
            plan("--from 1=earliest --partition 0 --from 0=98", &logs),
            Ok(vec![of("0", 98, Some(99))])
        );
        assert_eq!(plan("--from 100", &logs), Ok(vec![]), "nothing is there yet");
        assert_eq!(plan("--from 500", &logs), Ok(vec![]));
        assert_eq!(plan("--from 500 --follow --partition 0", &logs), Ok(vec![of("0", 100, None)]));
        assert_eq!(plan("--from 1970-01-01T01:00:00Z", &logs), Ok(vec![]), "after the last one");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let logs = [(0, 99)];
        assert!(plan("--partition 1", &logs).expect_err("absent").contains("no partition 1"));
        assert!(plan("--from 7=1", &logs).expect_err("absent").contains("no partition 7"));
        assert!(plan("--from 1 --from 2", &logs).expect_err("two").contains("several positions"));
        for wrong in ["=1", "0=", "yesterday", "0=-1", "1.5"] {
            assert!(wrong.parse::<FromArg>().is_err(), "{wrong}");
        }
    }
}
