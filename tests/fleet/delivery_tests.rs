//! That the contract's check sees what is wrong.

use longshore::checkpoint_store::{LeaseEpoch, SettledRun};
use longshore::event::{Position, SequenceNumber};

use super::*;

const SECOND: u64 = 1_000_000_000;

/// Two workers: the first handles 0 to 3 and is killed after a checkpoint of 0, 1 and 3; the
/// second takes its lease and handles the rest.
struct Story {
    end: i64,
    handled: Vec<(String, Vec<Handled>)>,
    links: Vec<LinkStory>,
    checkpoints: Vec<Write<Checkpoint>>,
    leases: Vec<Write<Lease>>,
    work: Work,
    tried: Vec<(String, Vec<Tried>)>,
}

fn handled(epoch: u64, numbers: &[(i64, u64)]) -> Vec<Handled> {
    let line = |&(number, second): &(i64, u64)| Handled {
        partition: "0".into(),
        number,
        epoch,
        at: second * SECOND,
    };
    numbers.iter().map(line).collect()
}

fn link(worker: &str, level: i64, first: i64, last: i64) -> LinkStory {
    LinkStory {
        by: worker.to_owned(),
        partition: "0".into(),
        after: None,
        level,
        received: vec![(0, first, last)],
    }
}

fn checkpoint(by: &str, second: u64, epoch: u64, at: i64, above: &[i64]) -> Write<Checkpoint> {
    let run =
        |number: &i64| SettledRun { first: SequenceNumber(*number), last: SequenceNumber(*number) };
    let value = Checkpoint {
        watermark: (at >= 0).then(|| Position::at(at)),
        settled_above: above.iter().map(run).collect(),
        lease_epoch: LeaseEpoch(epoch),
        ..Checkpoint::default()
    };
    let begin = second * SECOND;
    Write { by: by.to_owned(), begin, end: Some(begin + 1), value }
}

fn lease(by: &str, second: u64, holder: &str, target: Option<&str>) -> Write<Lease> {
    let (holder, target) = (Some(holder.into()), target.map(Into::into));
    let value = Lease { holder, is_foreign: false, target };
    let begin = second * SECOND;
    Write { by: by.to_owned(), begin, end: Some(begin + 1), value }
}

impl Story {
    fn new() -> Self {
        Self {
            end: 6,
            handled: vec![
                ("one".to_owned(), handled(10, &[(0, 2), (1, 2), (3, 2), (2, 6)])),
                ("two".to_owned(), handled(20, &[(2, 12), (4, 12), (5, 12)])),
            ],
            links: vec![link("one", 10, 0, 3), link("two", 20, 2, 5)],
            checkpoints: vec![
                checkpoint("one", 1, 10, -1, &[]),
                checkpoint("one", 5, 10, 1, &[3]),
                checkpoint("two", 11, 20, 1, &[3]),
                checkpoint("two", 13, 20, 5, &[]),
            ],
            leases: vec![lease("one", 0, "one-a", None), lease("two", 10, "two-b", None)],
            work: Work::None,
            tried: Vec::new(),
        }
    }

    fn check(&self) -> Result<Report, String> {
        let accepted = Accepted {
            checkpoints: BTreeMap::from([("0".into(), self.checkpoints.clone())]),
            leases: BTreeMap::from([("0".into(), self.leases.clone())]),
            calls: 0,
        };
        let (handled, links) = (&self.handled, &self.links);
        let failing = Failing { work: self.work, tried: &self.tried };
        check(&Run { log_ends: &[self.end], handled, links, accepted: &accepted, failing })
    }

    fn refuses(&self, why: &str) {
        let fault = self.check().expect_err(why);
        assert!(fault.contains(why), "{fault}");
    }
}

#[test]
fn what_was_not_checkpointed_is_handled_again_after_a_take() {
    let report = Story::new().check().expect("within the contract");
    assert_eq!((report.events, report.repeats, report.spared), (6, 1, 1));
    assert_eq!((report.free, report.given, report.taken), (1, 0, 1));
}

#[test]
fn who_took_a_lease_may_have_given_it_on_before_it_claimed() {
    let mut story = Story::new();
    story.leases = vec![
        lease("one", 0, "one-a", None),
        lease("three", 7, "three-c", None),
        lease("three", 8, "three-c", Some("two-b")),
        lease("three", 9, "two-b", None),
        lease("two", 10, "two-b", None),
    ];
    let report = story.check().unwrap();
    assert_eq!((report.free, report.given, report.taken), (1, 0, 1));
}

#[test]
fn who_is_given_a_lease_may_claim_without_a_write_of_its_own() {
    let mut story = Story::new();
    story.handled[1].1.retain(|line| line.number != 2);
    story.leases = vec![
        lease("one", 0, "one-a", None),
        lease("one", 7, "one-a", Some("two-b")),
        lease("one", 10, "two-b", None),
    ];
    let report = story.check().unwrap();
    assert_eq!((report.free, report.given, report.taken), (1, 1, 0));
    // Given after the claim.
    story.leases[2] = lease("one", 12, "two-b", None);
    story.refuses("two claimed without a lease");
}

#[test]
fn a_lost_event_is_rejected() {
    let mut story = Story::new();
    story.end = 7;
    story.refuses("6 was lost");
}

#[test]
fn a_repeat_of_what_a_checkpoint_covered_is_rejected() {
    for number in [1, 3] {
        let mut story = Story::new();
        story.handled[1].1.extend(handled(20, &[(number, 12)]));
        story.refuses(&format!("two handled {number}, which was settled"));
    }
}

#[test]
fn a_repeat_without_a_take_is_rejected() {
    let mut story = Story::new();
    story.leases = vec![
        lease("one", 0, "one-a", None),
        lease("one", 7, "one-a", Some("two-b")),
        lease("one", 8, "two-b", None),
        lease("two", 10, "two-b", None),
    ];
    story.refuses("the lease of the first was not taken");
    // Given on by one that had it in good order, and claimed nothing.
    story.leases.insert(2, lease("one", 8, "three-c", None));
    story.leases[3] = lease("three", 9, "two-b", None);
    story.refuses("the lease of the first was not taken");
    let mut story = Story::new();
    story.handled[0].1.extend(handled(10, &[(0, 3)]));
    story.refuses("one handled 0 twice");
}

#[test]
fn a_checkpoint_of_what_was_not_handled_is_rejected() {
    let mut story = Story::new();
    story.checkpoints[1] = checkpoint("one", 5, 10, 2, &[3]);
    story.refuses("checkpointed 2 before it was handled");
}

#[test]
fn a_checkpoint_that_moves_back_or_forgets_is_rejected() {
    let mut story = Story::new();
    story.checkpoints[2] = checkpoint("two", 11, 20, 0, &[3]);
    story.refuses("moved the checkpoint back");
    let mut story = Story::new();
    story.checkpoints[2] = checkpoint("two", 11, 20, 1, &[]);
    story.refuses("wrote over 3");
}

#[test]
fn a_checkpoint_that_leaves_out_what_was_settled_above_it_is_rejected() {
    let mut story = Story::new();
    story.checkpoints[1] = checkpoint("one", 5, 10, 1, &[]);
    story.checkpoints[2] = checkpoint("two", 11, 20, 1, &[]);
    story.refuses("had handled 3 long before its last checkpoint");
}

#[test]
fn a_link_that_begins_anew_may_bring_again_what_it_brought() {
    let mut story = Story::new();
    story.links.push(link("two", 20, 3, 3));
    story.links.push(link("two", 20, 4, 4));
    story.check().expect("received, by one or the other");
}

#[test]
fn an_owner_without_a_lease_an_epoch_or_a_link_is_rejected() {
    let mut story = Story::new();
    story.leases.truncate(1);
    story.refuses("two claimed without a lease");
    let mut story = Story::new();
    story.handled[1].1.extend(handled(15, &[(5, 12)]));
    story.refuses("two had no claim");
    let mut story = Story::new();
    story.links[1] = link("two", 20, 2, 4);
    story.refuses("two handled 5 and did not receive it");
}

/// The numbers of partition 0 up to 999 that have a fate.
fn numbers_of(is: impl Fn(Fate) -> bool) -> Vec<i64> {
    let zero = PartitionId::from("0");
    (0..1_000).filter(|number| is(Fate::of(&zero, *number))).collect()
}

/// One worker that gives up what never succeeds, and parks what fails for a while; the other one takes its
/// lease and handles that. All others are done by the first.
fn failing(given_up: i64, parked: i64) -> Story {
    let mut story = Story::new();
    let line = |number, attempt, epoch, second| Tried {
        partition: "0".into(),
        number,
        attempt,
        epoch,
        at: second * SECOND,
    };
    story.work = Work::Failing;
    story.end = 1_000;
    let others: Vec<(i64, u64)> = numbers_of(|fate| fate != Fate::GivenUp)
        .into_iter()
        .filter(|number| *number != parked)
        .map(|number| (number, 2))
        .collect();
    story.handled = vec![
        ("one".to_owned(), handled(10, &others)),
        ("two".to_owned(), handled(20, &[(parked, 12)])),
    ];
    let mut tried: Vec<Tried> =
        numbers_of(|fate| fate == Fate::GivenUp).into_iter().map(|n| line(n, 1, 10, 2)).collect();
    tried.extend([line(parked, 1, 10, 2), line(parked, 2, 10, 3), line(parked, 3, 20, 12)]);
    assert!(tried.iter().any(|line| line.number == given_up));
    story.tried = vec![("one".to_owned(), tried)];
    story.links = vec![link("one", 10, 0, 999)];
    story.checkpoints = vec![
        checkpoint("one", 1, 10, -1, &[]),
        checkpoint("one", 5, 10, 999, &[]),
        checkpoint("two", 11, 20, 999, &[]),
    ];
    story
}

#[test]
fn what_fails_is_settled_before_it_is_done_and_what_is_given_up_never_is() {
    let given_up = numbers_of(|fate| fate == Fate::GivenUp)[0];
    let parked = numbers_of(|fate| matches!(fate, Fate::Parked(_)))[0];
    let report = failing(given_up, parked).check().expect("within the contract");
    assert_eq!((report.events, report.repeats), (1_000, 0));
    // It was done, and the record was still there when its owner was killed.
    let mut story = failing(given_up, parked);
    story.handled[0].1.extend(handled(10, &[(parked, 7)]));
    let report = story.check().expect("within the contract");
    assert_eq!((report.repeats, report.repeats_of_parked), (1, 1));
    // Nobody was killed.
    story.leases = vec![
        lease("one", 0, "one-a", None),
        lease("one", 7, "one-a", Some("two-b")),
        lease("one", 8, "two-b", None),
        lease("two", 10, "two-b", None),
    ];
    story.refuses("the lease of the first was not taken");

    let mut story = failing(given_up, parked);
    story.handled[0].1.extend(handled(10, &[(given_up, 3)]));
    story.refuses("which never succeeds");
    let mut story = failing(given_up, parked);
    story.tried[0].1.retain(|line| line.number != given_up);
    story.refuses(&format!("{given_up} was lost"));
    let mut story = failing(given_up, parked);
    story.handled[1].1.clear();
    story.refuses(&format!("{parked} was lost"));
    // One attempt in place is not enough to be parked.
    let mut story = failing(given_up, parked);
    story.tried[0].1.retain(|line| line.number != parked || line.attempt != 2);
    story.refuses(&format!("checkpointed {parked} before it was handled"));
    // What is given up is handed out again only after a take, and not where a checkpoint covers it.
    let mut story = failing(given_up, parked);
    let again = Tried { epoch: 20, at: 12 * SECOND, ..story.tried[0].1[0].clone() };
    story.tried.push(("two".to_owned(), vec![again]));
    story.refuses("which was settled");
}
