//! A member record: one writer, who writes it again and again, whatever was there.
//!
//! The writes that were answered come in the order in which they were made. One that was not
//! has its place where a reader first saw what nothing else explains. A read goes with the
//! earliest state that its time, its value and the reads before it allow: any later one would
//! leave less room to the reads after it.

use longshore::lease_store::OwnerId;

use super::model::Members;
use super::schedule::{Look, Misplaced, Span, order};
use crate::ports::Peer;

/// A call on a member record.
#[derive(Clone, Debug)]
pub struct MemberCall {
    pub span: Span,
    pub what: MemberWhat,
}

#[derive(Clone, Debug)]
pub enum MemberWhat {
    /// It was told this, by the listing's record.
    Read(Option<Peer>),
    /// `None` removes it.
    Write { peer: Option<Peer>, is_answered: bool },
}

/// A state of the record: the write that left it, and what it is.
struct State<'a> {
    write: Option<usize>,
    peer: Option<&'a Peer>,
    span: Span,
}

/// Checks all calls on a member record.
pub fn check(calls: &[MemberCall]) -> Result<(), String> {
    let start = Span { begin: 0, end: Some(0) };
    let mut states = vec![State { write: None, peer: None, span: start }];
    let mut unanswered: Vec<usize> = Vec::new();
    let mut reads: Vec<usize> = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        match &call.what {
            MemberWhat::Read(_) => reads.push(number),
            MemberWhat::Write { peer, is_answered: true } => {
                let state = State { write: Some(number), peer: peer.as_ref(), span: call.span };
                states.push(state);
            }
            MemberWhat::Write { is_answered: false, .. } => unanswered.push(number),
        }
    }
    states.sort_by_key(|state| state.span.begin);
    reads.sort_by_key(|&read| calls[read].span.begin);
    let mut placed: Vec<(usize, usize)> = Vec::new();
    for read in reads {
        let Span { begin, end } = calls[read].span;
        let end = end.unwrap_or(u64::MAX);
        let MemberWhat::Read(found) = &calls[read].what else { unreachable!("a read") };
        let before = placed
            .iter()
            .rev()
            .filter(|(read, _)| calls[*read].span.end.is_some_and(|ended| ended < begin));
        let seen = before.map(|(_, state)| *state).max().unwrap_or(0);
        let least = over(&states, begin).max(seen);
        let fits = |state: &State<'_>| state.span.begin <= end && state.peer == found.as_ref();
        if let Some(state) = (least..states.len()).find(|&state| fits(&states[state])) {
            placed.push((read, state));
            continue;
        }
        let late = unanswered.iter().position(|&write| {
            let MemberWhat::Write { peer, .. } = &calls[write].what else { return false };
            calls[write].span.begin <= end && peer == found
        });
        let Some(late) = late else {
            return Err(format!("{found:?} was read, which was not so at the time"));
        };
        let write = unanswered.remove(late);
        let MemberWhat::Write { peer, .. } = &calls[write].what else { unreachable!("a write") };
        let state = State { write: Some(write), peer: peer.as_ref(), span: calls[write].span };
        let at = least.max(over(&states, state.span.begin)) + 1;
        states.insert(at, state);
        for (_, state) in placed.iter_mut().filter(|(_, state)| *state >= at) {
            *state += 1;
        }
        placed.push((read, at));
    }
    let spans: Vec<Span> = calls.iter().map(|call| call.span).collect();
    let writes: Vec<usize> = states.iter().filter_map(|state| state.write).collect();
    let looks: Vec<Look> = placed.iter().map(|&(call, state)| Look::At { call, state }).collect();
    let order = order(&spans, &writes, &looks)
        .map_err(|Misplaced { call, why }| format!("{why}: {:?}", calls[call]))?;
    replay(calls, &order)
}

/// The last state whose write had ended at this time.
fn over(states: &[State<'_>], time: u64) -> usize {
    let ended = |state: &State<'_>| state.span.end.is_some_and(|end| end < time);
    states.iter().rposition(ended).unwrap_or(0)
}

/// Makes the calls again on the memory store, which must answer the same.
fn replay(calls: &[MemberCall], order: &[usize]) -> Result<(), String> {
    let (model, nobody) = (Members::default(), OwnerId::from(""));
    let owner = calls.iter().find_map(|call| match &call.what {
        MemberWhat::Write { peer: Some(peer), .. } => Some(&peer.owner),
        _ => None,
    });
    for &number in order {
        match &calls[number].what {
            MemberWhat::Write { peer, .. } => model.write(owner.unwrap_or(&nobody), peer.as_ref()),
            MemberWhat::Read(found) if model.read() == *found => {}
            MemberWhat::Read(found) => {
                return Err(format!("the model answers {:?} instead of {found:?}", model.read()));
            }
        }
    }
    Ok(())
}
