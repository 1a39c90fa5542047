//! A record with versions: follows the chain of its writes, places the other calls, and has the
//! memory store answer all of them again.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;

use super::Write;
use super::model::Model;
use super::schedule::{Look, Misplaced, Span, order};

/// A call on one record.
#[derive(Clone, Debug)]
pub struct Call<V> {
    /// The process that made it.
    pub by: String,
    pub span: Span,
    pub what: What<V>,
}

#[derive(Clone, Debug)]
pub enum What<V> {
    /// It was told the value and its version.
    Read(Option<(V, String)>),
    Write {
        value: V,
        expected: Option<String>,
        outcome: Outcome,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Stored(String),
    Conflict,
    /// No answer, or an error.
    Unknown,
}

/// The writes that were applied, in their order, and the versions they made as far as anybody saw
/// them.
#[derive(Default)]
struct Chain {
    writes: Vec<usize>,
    versions: Vec<Option<String>>,
}

/// Checks all calls on a record. Returns the writes that were applied.
pub fn check<V: Clone + PartialEq + Debug>(
    calls: &[Call<V>],
    model: &dyn Model<V>,
) -> Result<Vec<Write<V>>, String> {
    let mut chain = Index::of(calls)?.chain(calls)?;
    let looks = looks(calls, &mut chain)?;
    let spans: Vec<Span> = calls.iter().map(|call| call.span).collect();
    let order = order(&spans, &chain.writes, &looks)
        .map_err(|Misplaced { call, why }| format!("{why}: {:?}", calls[call]))?;
    replay(calls, &order, &chain, model)?;
    let applied = chain.writes.iter().map(|&index| {
        let Call { by, span, what } = &calls[index];
        let What::Write { value, .. } = what else { unreachable!("a write") };
        Write { by: by.clone(), begin: span.begin, end: span.end, value: value.clone() }
    });
    Ok(applied.collect())
}

/// Calls by the versions they name.
struct Index<'a, V> {
    /// Acknowledged writes, by what they replaced.
    stored: HashMap<Option<&'a str>, (usize, &'a str)>,
    /// Writes that may have been applied, by what they would have replaced.
    unknown: HashMap<Option<&'a str>, Vec<usize>>,
    made: HashSet<&'a str>,
    /// What readers saw under a version, and when the first of them had seen it.
    seen: HashMap<&'a str, (&'a V, u64)>,
}

impl<'a, V: PartialEq + Debug> Index<'a, V> {
    fn of(calls: &'a [Call<V>]) -> Result<Self, String> {
        let mut index = Index {
            stored: HashMap::new(),
            unknown: HashMap::new(),
            made: HashSet::new(),
            seen: HashMap::new(),
        };
        for (number, call) in calls.iter().enumerate() {
            match &call.what {
                What::Read(Some((value, version))) => {
                    let ended = call.span.end.unwrap_or(u64::MAX);
                    let (before, first) = index.seen.entry(version).or_insert((value, ended));
                    if *before != value {
                        return Err(format!("{version} was read as {before:?} and as {value:?}"));
                    }
                    *first = ended.min(*first);
                }
                What::Read(None) => {}
                What::Write { expected, outcome, .. } => match outcome {
                    Outcome::Stored(version) => {
                        let expected = expected.as_deref();
                        if index.stored.insert(expected, (number, version)).is_some() {
                            return Err(format!("a lost update: two writes replaced {expected:?}"));
                        }
                        if !index.made.insert(version) {
                            return Err(format!("two writes were given the version {version}"));
                        }
                    }
                    Outcome::Unknown => {
                        index.unknown.entry(expected.as_deref()).or_default().push(number);
                    }
                    Outcome::Conflict => {}
                },
            }
        }
        Ok(index)
    }

    fn chain(&self, calls: &'a [Call<V>]) -> Result<Chain, String> {
        let mut chain = Chain::default();
        let mut linked: HashSet<&str> = HashSet::new();
        let mut current = None;
        while let Some((call, version)) = self.next(calls, current, &linked) {
            chain.writes.push(call);
            chain.versions.push(Some(version.to_owned()));
            if !linked.insert(version) {
                return Err(format!("{version} came back"));
            }
            current = Some(version);
        }
        if let Some(version) = self.made.iter().find(|version| !linked.contains(*version)) {
            return Err(format!("{version} replaced what nobody wrote"));
        }
        if let Some(version) = self.seen.keys().find(|version| !linked.contains(*version)) {
            return Err(format!("{version} appears from nowhere"));
        }
        Ok(chain)
    }

    /// The write that replaced this version: one that was acknowledged, or one of which a reader
    /// saw what it wrote.
    fn next(
        &self,
        calls: &'a [Call<V>],
        current: Option<&str>,
        linked: &HashSet<&str>,
    ) -> Option<(usize, &'a str)> {
        if let Some((call, version)) = self.stored.get(&current) {
            return Some((*call, version));
        }
        let unknown = self.unknown.get(&current).into_iter().flatten();
        let applied = unknown.filter_map(|&call| {
            let What::Write { value, .. } = &calls[call].what else {
                return None;
            };
            let sightings = self.seen.iter().filter(|(version, (seen, _))| {
                *seen == value && !self.made.contains(*version) && !linked.contains(*version)
            });
            let (version, (_, first)) = sightings.min_by_key(|(_, (_, first))| *first)?;
            Some((*first, call, *version))
        });
        applied.min().map(|(_, call, version)| (call, version))
    }
}

/// Which state each read and each refusal saw. A refusal of what is stored to the end is explained
/// by a write that nobody saw, where there is one.
fn looks<V>(calls: &[Call<V>], chain: &mut Chain) -> Result<Vec<Look>, String> {
    let mut states: HashMap<Option<String>, usize> = HashMap::from([(None, 0)]);
    for (index, version) in chain.versions.iter().enumerate() {
        states.insert(version.clone(), index + 1);
    }
    let mut looks = Vec::new();
    for (number, call) in calls.iter().enumerate() {
        let state = |version: &Option<String>| {
            let unknown = || format!("call {number} names {version:?}, which nobody wrote");
            states.get(version).copied().ok_or_else(unknown)
        };
        match &call.what {
            What::Read(found) => {
                let version = found.as_ref().map(|(_, version)| version.clone());
                looks.push(Look::At { call: number, state: state(&version)? });
            }
            What::Write { expected, outcome: Outcome::Conflict, .. } => {
                let after = state(expected)? + 1;
                if after > chain.writes.len() {
                    let unseen = calls.iter().position(|other| {
                        matches!(&other.what, What::Write { expected: before, outcome, .. }
                            if before == expected && *outcome == Outcome::Unknown)
                    });
                    let Some(unseen) = unseen else {
                        return Err(format!("call {number} was refused what was there"));
                    };
                    chain.writes.push(unseen);
                    chain.versions.push(None);
                }
                looks.push(Look::AtOrAfter { call: number, state: after });
            }
            What::Write { expected, .. } => {
                state(expected)?;
            }
        }
    }
    Ok(looks)
}

/// Makes the calls again, in this order, on the memory store, which must answer the same.
fn replay<V: Clone + PartialEq + Debug>(
    calls: &[Call<V>],
    order: &[usize],
    chain: &Chain,
    model: &dyn Model<V>,
) -> Result<(), String> {
    let made: HashMap<usize, &Option<String>> =
        chain.writes.iter().copied().zip(&chain.versions).collect();
    // Versions in the journal, as the model calls them.
    let mut names: HashMap<String, String> = HashMap::new();
    for &number in order {
        let call = &calls[number];
        let differs =
            |model: &dyn Debug| Err(format!("the model answers {model:?} to {:?}", call.what));
        match &call.what {
            What::Read(found) => {
                let expected = found.as_ref().map(|(value, version)| {
                    (value.clone(), names.get(version).cloned().unwrap_or_default())
                });
                let answer = model.read();
                if answer != expected {
                    return differs(&answer);
                }
            }
            What::Write { value, expected, outcome } => {
                let expected = match expected {
                    None => None,
                    Some(version) => match names.get(version) {
                        Some(name) => Some(name.clone()),
                        None => return differs(&"nothing, for the version is of the future"),
                    },
                };
                let answer = model.write(value, expected);
                match (&answer, outcome) {
                    (None, Outcome::Conflict) => {}
                    (Some(name), Outcome::Stored(_) | Outcome::Unknown) => {
                        if let Some(Some(version)) = made.get(&number) {
                            names.insert(version.clone(), name.clone());
                        }
                    }
                    _ => return differs(&answer),
                }
            }
        }
    }
    Ok(())
}
