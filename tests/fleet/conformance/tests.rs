//! That the checks see what is wrong.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::link_rules::{self, LinkStory, Log};
use super::members::{self, MemberCall, MemberWhat};
use super::model::Leases;
use super::register::{self, Call, Outcome, What};
use super::schedule::Span;
use crate::ports::{Answer, CallLine, CallNews, Lease, Peer, Question, StoredLease};

fn lease(holder: &str) -> Lease {
    Lease { holder: Some(holder.into()), is_foreign: false, target: None }
}

fn call(begin: u64, end: u64, what: What<Lease>) -> Call<Lease> {
    Call { by: "worker".to_owned(), span: Span { begin, end: Some(end) }, what }
}

fn read(begin: u64, end: u64, found: Option<(&str, &str)>) -> Call<Lease> {
    let found = found.map(|(holder, version)| (lease(holder), version.to_owned()));
    call(begin, end, What::Read(found))
}

fn write(begin: u64, end: u64, holder: &str, from: Option<&str>, outcome: Outcome) -> Call<Lease> {
    let expected = from.map(str::to_owned);
    call(begin, end, What::Write { value: lease(holder), expected, outcome })
}

fn stored(begin: u64, end: u64, holder: &str, from: Option<&str>, to: &str) -> Call<Lease> {
    write(begin, end, holder, from, Outcome::Stored(to.to_owned()))
}

fn refused(begin: u64, end: u64, holder: &str, from: Option<&str>) -> Call<Lease> {
    write(begin, end, holder, from, Outcome::Conflict)
}

fn unanswered(begin: u64, holder: &str, from: Option<&str>) -> Call<Lease> {
    let mut call = write(begin, begin, holder, from, Outcome::Unknown);
    call.span.end = None;
    call
}

fn holders(calls: &[Call<Lease>]) -> Result<Vec<String>, String> {
    let writes = register::check(calls, &Leases::default())?;
    let holder = |lease: &Lease| lease.holder.as_ref().map_or(String::new(), ToString::to_string);
    Ok(writes.iter().map(|write| holder(&write.value)).collect())
}

fn refuses(calls: &[Call<Lease>], why: &str) {
    let fault = holders(calls).expect_err(why);
    assert!(fault.contains(why), "{fault}");
}

#[test]
fn calls_that_a_register_could_have_answered_are_accepted() {
    let calls = [
        stored(10, 20, "a", None, "v1"),
        read(5, 12, None),
        read(11, 30, Some(("a", "v1"))),
        stored(40, 60, "b", Some("v1"), "v2"),
        // While it is written, either may be read.
        read(45, 50, Some(("b", "v2"))),
        read(41, 59, Some(("a", "v1"))),
        refused(50, 70, "c", Some("v1")),
        refused(70, 80, "c", None),
    ];
    assert_eq!(holders(&calls), Ok(vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_write_without_an_answer_was_applied_where_somebody_saw_it() {
    let first = stored(10, 20, "a", None, "v1");
    let calls = [
        first.clone(),
        unanswered(30, "b", Some("v1")),
        read(40, 50, Some(("a", "v1"))),
        read(60, 70, Some(("b", "v2"))),
        stored(80, 90, "c", Some("v2"), "v3"),
    ];
    assert_eq!(holders(&calls).map(|holders| holders.len()), Ok(3));
    // Nobody saw it, and it explains why what was there was refused.
    let calls = [first.clone(), unanswered(30, "b", Some("v1")), refused(40, 50, "c", Some("v1"))];
    assert_eq!(holders(&calls).map(|holders| holders.len()), Ok(2));
    // It was not begun.
    let calls = [first, unanswered(60, "b", Some("v1")), refused(40, 50, "c", Some("v1"))];
    refuses(&calls, "ended before");
}

#[test]
fn a_lost_update_is_rejected() {
    let first = stored(10, 20, "a", None, "v1");
    let both =
        [first, stored(30, 40, "b", Some("v1"), "v2"), stored(31, 41, "c", Some("v1"), "v3")];
    refuses(&both, "lost update");
}

#[test]
fn a_stale_read_is_rejected() {
    let writes = [stored(10, 20, "a", None, "v1"), stored(30, 40, "b", Some("v1"), "v2")];
    let with = |read| [writes.to_vec(), vec![read]].concat();
    refuses(&with(read(41, 50, Some(("a", "v1")))), "was read after it had ended");
    refuses(&with(read(41, 50, None)), "was read after it had ended");
    refuses(&with(read(1, 9, Some(("a", "v1")))), "ended before");
    // What was read cannot be unread.
    let back = vec![read(31, 33, Some(("b", "v2"))), read(34, 36, Some(("a", "v1")))];
    let fault = holders(&[writes.to_vec(), back].concat()).expect_err("it went back");
    assert!(fault.contains("ended before"), "{fault}");
}

#[test]
fn a_version_from_nowhere_is_rejected() {
    let first = stored(10, 20, "a", None, "v1");
    refuses(&[first.clone(), read(30, 40, Some(("b", "v2")))], "v2 appears from nowhere");
    refuses(
        &[first.clone(), stored(30, 40, "b", Some("v7"), "v8")],
        "v8 replaced what nobody wrote",
    );
    refuses(&[first.clone(), refused(30, 40, "b", Some("v7"))], "which nobody wrote");
    // A write of something else does not explain it.
    let calls = [first, unanswered(30, "c", Some("v1")), read(40, 50, Some(("b", "v2")))];
    refuses(&calls, "v2 appears from nowhere");
}

#[test]
fn an_answer_that_a_register_does_not_give_is_rejected() {
    let first = stored(10, 20, "a", None, "v1");
    refuses(&[first.clone(), refused(30, 40, "b", Some("v1"))], "refused what was there");
    refuses(&[first.clone(), read(30, 40, Some(("b", "v1")))], "the model answers");
    refuses(
        &[first.clone(), read(30, 40, Some(("a", "v1"))), read(30, 40, Some(("b", "v1")))],
        "was read as",
    );
    refuses(&[first.clone(), stored(30, 40, "b", Some("v1"), "v1")], "two writes were given");
    // The second had ended when the first began.
    refuses(&[first, stored(1, 5, "b", Some("v1"), "v2")], "was read after it had ended");
}

/// A register that is used by several at once, each call applied at a moment between its ends.
fn recorded(random: &mut SmallRng) -> Vec<Call<Lease>> {
    let mut calls = Vec::new();
    let mut current: Option<(Lease, String)> = None;
    for step in 1..60_u64 {
        let moment = step * 10;
        let begin = moment - random.random_range(0..40).min(moment);
        let end = moment + random.random_range(0..40);
        let what = match random.random_range(0..4) {
            0 => What::Read(current.clone()),
            1 if step > 1 => {
                let version = format!("v{}", random.random_range(1..step));
                let is_known = calls.iter().any(|call: &Call<Lease>| {
                    matches!(&call.what, What::Write { outcome: Outcome::Stored(made), .. }
                        if *made == version)
                });
                if !is_known || current.as_ref().is_some_and(|(_, now)| *now == version) {
                    continue;
                }
                let value = lease("late");
                What::Write { value, expected: Some(version), outcome: Outcome::Conflict }
            }
            _ => {
                let expected = current.as_ref().map(|(_, version)| version.clone());
                let (value, version) = (lease(&format!("w{step}")), format!("v{step}"));
                current = Some((value.clone(), version.clone()));
                What::Write { value, expected, outcome: Outcome::Stored(version) }
            }
        };
        calls.push(call(begin, end, what));
    }
    calls
}

#[test]
fn every_history_of_a_register_is_accepted_and_none_with_a_read_out_of_its_time() {
    let mut rejected = 0;
    for seed in 0..500 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut calls = recorded(&mut random);
        holders(&calls).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        let seen: Vec<_> = calls
            .iter()
            .filter_map(|call| match &call.what {
                What::Read(found) => Some((call.span, found.clone())),
                What::Write { .. } => None,
            })
            .collect();
        // What was read first is read again, long after something else was there.
        let (Some(first), Some(last)) = (seen.first(), seen.last()) else {
            continue;
        };
        if first.1 != last.1 && last.0.end < Some(500) {
            calls.push(call(600 + 50, 700, What::Read(first.1.clone())));
            assert!(holders(&calls).is_err(), "seed {seed}");
            rejected += 1;
        }
    }
    assert!(rejected > 10, "{rejected}");
}

fn peer(leaving: bool) -> Peer {
    Peer { owner: "a-1".into(), wants: ["7".into()].into(), leaving }
}

fn heartbeat(begin: u64, end: Option<u64>, peer: Option<Peer>) -> MemberCall {
    let what = MemberWhat::Write { peer, is_answered: end.is_some() };
    MemberCall { span: Span { begin, end }, what }
}

fn sighting(begin: u64, end: u64, peer: Option<Peer>) -> MemberCall {
    MemberCall { span: Span { begin, end: Some(end) }, what: MemberWhat::Read(peer) }
}

#[test]
fn a_member_is_as_its_last_heartbeat_left_it() {
    let beats = vec![
        heartbeat(10, Some(20), Some(peer(false))),
        heartbeat(30, Some(40), Some(peer(true))),
        heartbeat(50, Some(60), None),
    ];
    let with = |more: Vec<MemberCall>| members::check(&[beats.clone(), more].concat());
    let good = vec![
        sighting(1, 15, None),
        sighting(12, 35, Some(peer(false))),
        sighting(35, 39, Some(peer(true))),
        sighting(55, 70, Some(peer(true))),
        sighting(61, 70, None),
    ];
    assert_eq!(with(good), Ok(()));
    assert!(with(vec![sighting(41, 45, Some(peer(false)))]).is_err(), "stale");
    assert!(with(vec![sighting(61, 70, Some(peer(true)))]).is_err(), "removed");
    assert!(with(vec![sighting(25, 29, None)]).is_err(), "lost");
    assert!(with(vec![sighting(1, 9, Some(peer(false)))]).is_err(), "too early");
    let back = vec![sighting(31, 33, Some(peer(true))), sighting(34, 36, Some(peer(false)))];
    assert!(with(back).is_err(), "it went back");
    // A heartbeat that nobody waited for may come late; and then it is over.
    let late = heartbeat(22, None, Some(Peer { wants: [].into(), ..peer(false) }));
    let seen = sighting(42, 45, Some(Peer { wants: [].into(), ..peer(false) }));
    assert_eq!(with(vec![late.clone(), seen.clone()]), Ok(()));
    assert!(with(vec![late, seen, sighting(46, 48, Some(peer(true)))]).is_err());
}

fn link(level: i64, after: Option<i64>, received: &[(u64, i64, i64)]) -> LinkStory {
    LinkStory {
        by: "worker".to_owned(),
        partition: "0".into(),
        after,
        level,
        received: received.to_vec(),
    }
}

#[test]
fn a_link_skips_and_repeats_nothing_and_ends_where_a_later_owner_begins() {
    // The log has a gap.
    let logs = BTreeMap::from([("0".into(), Log::of([(0, 99), (110, 999)]))]);
    let check = |links: &[LinkStory]| link_rules::check(links, &logs);
    let first = link(1, None, &[(10, 0, 49), (20, 50, 99), (30, 110, 119)]);
    assert_eq!(check(&[first.clone(), link(2, Some(79), &[(40, 80, 99)])]), Ok(()));
    assert!(check(&[link(1, None, &[(10, 0, 49), (20, 51, 60)])]).is_err(), "skipped");
    assert!(check(&[link(1, None, &[(10, 0, 49), (20, 49, 60)])]).is_err(), "repeated");
    assert!(check(&[link(1, Some(79), &[(10, 81, 90)])]).is_err(), "begins too late");
    assert!(check(&[link(1, Some(79), &[(10, 79, 90)])]).is_err(), "begins too early");
    assert!(check(&[link(1, Some(79), &[(10, 80, 105)])]).is_err(), "not in the log");
    assert!(check(&[link(1, Some(998), &[(10, 999, 999), (11, 1_000, 1_000)])]).is_err());
    let on_its_way = link(1, Some(119), &[(10, 120, 129), (40, 130, 429)]);
    let higher = link(2, Some(129), &[(30, 130, 200)]);
    assert_eq!(check(&[on_its_way, higher.clone()]), Ok(()));
    let too_much = link(1, Some(119), &[(10, 120, 129), (40, 130, 430)]);
    assert!(check(&[too_much, higher]).is_err(), "it was not the owner any more");
}

fn lines(calls: Vec<(u64, Question, u64, Option<Answer>)>) -> Vec<(String, Vec<CallLine>)> {
    let mut lines = Vec::new();
    for (call, (begin, question, end, answer)) in calls.into_iter().enumerate() {
        let call = call as u64;
        lines.push(CallLine { call, at: begin, what: CallNews::Asked(question) });
        if let Some(answer) = answer {
            lines.push(CallLine { call, at: end, what: CallNews::Answered(answer) });
        }
    }
    vec![("worker-1".to_owned(), lines)]
}

#[test]
fn a_listing_is_a_read_of_every_record_and_has_the_time() {
    let claim = Question::StoreLease { partition: "0".into(), lease: lease("a-1"), expected: None };
    let written = (10, claim, 20, Some(Answer::Stored("v1".to_owned())));
    let listed = |begin, now, leases: Vec<StoredLease>| {
        let leases = leases.into_iter().map(|stored| ("0".into(), stored)).collect();
        let answer = Answer::Leases { now, leases, members: Vec::new() };
        (begin, Question::ListLeases, begin + 5, Some(answer))
    };
    let there =
        |modified| vec![StoredLease { lease: lease("a-1"), version: "v1".to_owned(), modified }];
    let check = |calls| super::check(&lines(calls)).map(|accepted| accepted.calls);
    let good = vec![written.clone(), listed(12, 900, vec![]), listed(30, 1_000, there(1_000))];
    assert_eq!(check(good), Ok(3));
    let fault = check(vec![written.clone(), listed(30, 1_000, vec![])]).expect_err("left out");
    assert!(fault.contains("the lease of 0"), "{fault}");
    let back = vec![written.clone(), listed(30, 1_000, there(900)), listed(40, 900, there(900))];
    assert!(check(back).expect_err("back").contains("went back"));
    let ahead = vec![written.clone(), listed(30, 1_000, there(1_001))];
    assert!(check(ahead).expect_err("of the future").contains("was listed at"));
    let two = vec![written, listed(30, 1_000, there(900)), listed(40, 1_000, there(901))];
    assert!(check(two).expect_err("two times").contains("is of"));
}
