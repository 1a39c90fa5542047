//! Records of a file, which somebody edited, in place of their letters. The whole file is checked before anything is
//! done.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use super::super::opened::Opened;
use super::hubs::{self, Hubs};
use super::{Made, ReplayArgs, freeze};
use crate::{CommandError, brief};
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::error::error_chain;
use longshore::failure_store::{EventIdentity, FailureKind};
use longshore::replay::{Edited, Job, Plan};
use longshore::settings::Settings;

pub(super) async fn make(
    args: &ReplayArgs,
    from: &Path,
    opened: &Opened,
    settings: &Settings,
    jobs: &Path,
) -> Result<Made, CommandError> {
    let mut plan = Plan::new(SystemTime::now(), opened.place.clone(), args.limits());
    let mut places: BTreeMap<EventIdentity, usize> = BTreeMap::new();
    let mut body_bytes = 0;
    let refused = freeze::Refused::default();
    for read in Records::open(from)? {
        let (place, record) = read?;
        let event = record.identity();
        if let Some(other) = places.insert(event.clone(), place) {
            return Err(fault(
                from,
                place,
                format_args!("it is of the same event as record {other}, {event}; leave one out"),
            ));
        }
        let generation = letter_of(opened, &event).await.map_err(|why| fault(from, place, why))?;
        let body = record
            .to_outgoing()
            .map_err(|error| fault(from, place, error_chain(&error).join(": ")))?;
        body_bytes += body.body.len() as u64;
        plan.add(&event, generation);
    }
    if plan.is_empty() {
        return Err(CommandError::new(format!(
            "{} names no letter: it has no record. `export --to FILE` makes such a file",
            from.display()
        )));
    }
    plan.to = hubs::target(args.how.to.as_deref(), settings, &opened.place, args.offline).await?;
    if plan.to.is_none() && !args.offline {
        let hubs = Hubs::ask(settings, plan.logs()).await;
        for (event, place) in &places {
            if let Some(why) = hubs.fault(&event.log) {
                return Err(fault(from, *place, why));
            }
        }
    }
    if args.dry_run {
        return freeze::dry(args, opened, &plan, &refused, body_bytes);
    }
    let failed = |error: longshore::Error| CommandError::new(brief(&error));
    let mut edited = Edited::begin(jobs, &plan).map_err(failed)?;
    let mut letters = 0;
    for read in Records::open(from)? {
        let (_, record) = read?;
        if plan.event(letters) != Some(record.identity()) {
            break;
        }
        letters += 1;
        edited.add(&record).map_err(failed)?;
    }
    if letters != plan.len() {
        return Err(CommandError::new(format!("{} changed while it was read", from.display())));
    }
    let job = Job::create_edited(edited, plan).map_err(failed)?;
    Ok(Made::Job(job.into(), refused))
}

/// How often the letter of a record was replayed; or what is wrong with it.
async fn letter_of(opened: &Opened, event: &EventIdentity) -> Result<u32, String> {
    let key = event.clone().key(FailureKind::Dead);
    let stored = opened.store.read(&key).await.map_err(|error| brief(&error))?;
    let stored = stored.ok_or_else(|| {
        format!(
            "it names no letter: there is none of {event} in {}. Namespace, hub, incarnation, group, \
             partition and number must stay as they were exported",
            opened.place
        )
    })?;
    let letter = stored.record().map_err(|error| error_chain(&error).join(": "))?;
    match (&letter.due, &letter.job) {
        (Some(_), Some(job)) => Err(format!("the job {job} replays its letter {event}")),
        _ => Ok(letter.generation),
    }
}

fn fault(from: &Path, place: usize, why: impl std::fmt::Display) -> CommandError {
    CommandError::new(format!("record {place} of {}: {why}", from.display()))
}

/// The records of a file, each with its place, from 1: a line each, or as editors lay JSON out.
struct Records<'a> {
    from: &'a Path,
    values: serde_json::StreamDeserializer<'static, serde_json::de::IoRead<BufReader<File>>, Value>,
    place: usize,
}

impl<'a> Records<'a> {
    fn open(from: &'a Path) -> Result<Self, CommandError> {
        let file = File::open(from).map_err(|error| {
            CommandError::caused(format_args!("{} cannot be read", from.display()), &error)
        })?;
        let values = serde_json::Deserializer::from_reader(BufReader::new(file)).into_iter();
        Ok(Self { from, values, place: 0 })
    }
}

impl Iterator for Records<'_> {
    type Item = Result<(usize, DeadLetterRecord), CommandError>;

    fn next(&mut self) -> Option<Self::Item> {
        let value = self.values.next()?;
        self.place += 1;
        let record = value.map_err(|error| format!("it is cut, or no JSON: {error}"));
        let record = record.and_then(|value| {
            let json = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
            DeadLetterRecord::from_json(&json).map_err(|error| error_chain(&error).join(": "))
        });
        Some(match record {
            Ok(record) => Ok((self.place, record)),
            Err(why) => Err(fault(self.from, self.place, why)),
        })
    }
}
