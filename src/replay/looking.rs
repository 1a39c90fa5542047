//! Looks what became of letters that are out, and how far a job is that was left.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::job::{Job, Plan};
use super::journal::{Known, Note};
use super::letters::{failure_of, note, noted, release};
use crate::error::Error;
use crate::event::SequenceNumber;
use crate::failure_store::{
    FailureKind, FailurePrefix, FailureStore, ListedFailure, LogIdentity, MAX_PAGE_ENTRIES,
};
use crate::state::replay::Fate;

/// Letters that are read at once.
const READS_AT_ONCE: usize = 16;

/// A letter, its fate, and what is known beyond it.
pub(super) type Seen = (usize, Fate, Option<Note>);

/// Calls `on_entry` with all of a log that can be listed. Says whether there is more, which cannot.
async fn list(
    store: &dyn FailureStore,
    kind: FailureKind,
    log: &LogIdentity,
    mut on_entry: impl FnMut(ListedFailure),
) -> Result<bool, Error> {
    let prefix = FailurePrefix::of_log(kind, log);
    let (mut after, mut has_unreadable) = (None, false);
    loop {
        let page = store.list(&prefix, after.as_ref(), MAX_PAGE_ENTRIES).await?;
        for entry in page.entries {
            match entry {
                Ok(entry) => on_entry(entry),
                Err(_unreadable) => has_unreadable = true,
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(has_unreadable);
        }
    }
}

/// Those of these letters that came back. They were parked before the look began.
pub(super) async fn look(
    store: &dyn FailureStore,
    plan: &Plan,
    out: Vec<usize>,
) -> Result<Vec<Seen>, Error> {
    let mut logs: BTreeMap<LogIdentity, BTreeMap<SequenceNumber, usize>> = BTreeMap::new();
    for letter in out {
        if let Some(event) = plan.event(letter) {
            logs.entry(event.log).or_default().insert(event.sequence_number, letter);
        }
    }
    let mut seen = Vec::new();
    for (log, mut letters) in logs {
        let has_unreadable = list(store, FailureKind::Parked, &log, |entry| {
            letters.remove(&entry.key.event.sequence_number);
        })
        .await?;
        let back = stream::iter(letters.into_values())
            .map(|letter| came_back(store, plan, letter, has_unreadable))
            .buffer_unordered(READS_AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        seen.extend(back.into_iter().flatten());
    }
    Ok(seen)
}

/// The fate of a letter that was not listed below `parked/`.
async fn came_back(
    store: &dyn FailureStore,
    plan: &Plan,
    letter: usize,
    may_be_there: bool,
) -> Result<Option<Seen>, Error> {
    let Some(event) = plan.event(letter) else { return Ok(None) };
    if may_be_there && store.read(&event.clone().key(FailureKind::Parked)).await?.is_some() {
        return Ok(None);
    }
    let Some(stored) = store.read(&event.clone().key(FailureKind::Dead)).await? else {
        return Ok(Some((letter, Fate::Done, None)));
    };
    Ok(Some(match stored.record() {
        Ok(record) if record.generation > plan.generation(letter) => {
            (letter, Fate::FailedAgain, Some(failure_of(&record)))
        }
        Ok(_untouched) => {
            release(store, &event, &plan.job).await?;
            (letter, Fate::Dropped, None)
        }
        Err(error) => (letter, Fate::FailedAgain, Some(note(&error))),
    }))
}

/// What the store says of a letter.
#[derive(Clone, Debug, Default)]
struct InStore {
    /// Whether this job parked it.
    is_parked: bool,
    /// How often the letter was replayed, and by which job it is marked or was replayed last.
    dead: Option<(u32, Option<String>, bool)>,
    reason: Option<Note>,
}

/// How far a job is that was left: the fates of all its letters that are not waiting.
pub(super) async fn survey(
    store: &dyn FailureStore,
    job: &Job,
    is_published: bool,
) -> Result<Vec<Seen>, Error> {
    let (plan, known) = (&job.plan, &job.journal.known);
    let mut seen = Vec::new();
    for (letter, known) in known {
        if let Known::Has(fate) = known {
            seen.push((*letter, *fate, None));
        }
    }
    for (log, mut letters) in plan.by_log() {
        letters.retain(|_, letter| !matches!(known.get(letter), Some(Known::Has(_))));
        if letters.is_empty() {
            continue;
        }
        let mut found: BTreeMap<usize, InStore> = BTreeMap::new();
        // First what is parked: who gives up writes the letter first, and then takes it from there.
        let mut unreadable = list(store, FailureKind::Parked, log, |entry| {
            let is_ours = entry.meta.job.as_deref() == Some(plan.job.as_str());
            if let Some(letter) = letters.get(&entry.key.event.sequence_number) {
                found.entry(*letter).or_default().is_parked = is_ours;
            }
        })
        .await?;
        unreadable |= list(store, FailureKind::Dead, log, |entry| {
            if let Some(letter) = letters.get(&entry.key.event.sequence_number) {
                let found = found.entry(*letter).or_default();
                let is_marked = entry.meta.replaying() == Some(plan.job.as_str());
                found.dead = Some((entry.meta.generation, entry.meta.job, is_marked));
                let (class, why) = (Some(entry.meta.class), entry.meta.reason);
                found.reason = Some(Note { class, why });
            }
        })
        .await?;
        // What may be there and cannot be listed waits: it is read when it is handed out.
        for letter in letters.into_values() {
            let in_store = found.remove(&letter).unwrap_or_default();
            if in_store.dead.is_none() && !in_store.is_parked && unreadable {
                continue;
            }
            let generation = plan.generation(letter);
            let known = known.get(&letter).copied();
            if let Some((fate, note)) = fate_of(in_store, generation, plan, known, is_published) {
                seen.push((letter, fate, note));
            }
        }
    }
    Ok(seen)
}

/// The fate of a letter; `None` if it waits.
fn fate_of(
    in_store: InStore,
    generation: u32,
    plan: &Plan,
    known: Option<Known>,
    is_published: bool,
) -> Option<(Fate, Option<Note>)> {
    if in_store.is_parked {
        return Some((Fate::Out, None));
    }
    let Some((found, job, is_marked)) = in_store.dead else {
        return Some(match known {
            Some(_) => (Fate::Done, None),
            None => (Fate::Skipped, Some(noted("the letter is gone"))),
        });
    };
    if found > generation {
        return Some(
            match job.as_deref() == Some(plan.job.as_str()) || known == Some(Known::Out) {
                true => (Fate::FailedAgain, in_store.reason),
                false => (Fate::Skipped, Some(noted("it was replayed since the job was made"))),
            },
        );
    }
    match known {
        Some(Known::HandingOut) if is_published && is_marked => {
            let why = "the run was ended while it was published; look for it in the hub, and replay it \
                       again where it is missing";
            Some((Fate::InDoubt, Some(noted(why))))
        }
        Some(Known::Out) => Some((Fate::Dropped, None)),
        _ => None,
    }
}
