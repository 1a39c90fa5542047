//! Which letters a job gets: those that match now and that can be replayed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::super::letters::{self, Next};
use super::super::opened::Opened;
use super::hubs::{self, Hubs};
use super::{Made, ReplayArgs, is_json};
use crate::report::size;
use crate::table::counted;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, brief};
use longshore::error::ErrorClass;
use longshore::failure_store::{EventIdentity, FailureKind, ListedFailure};
use longshore::replay::{Job, Plan};
use longshore::settings::Settings;

/// Ids of each kind that are told.
const MAX_IDS: usize = 100;

/// Letters that match and cannot be replayed, by why.
#[derive(Default)]
pub(super) struct Refused(BTreeMap<String, Group>);

#[derive(Default)]
struct Group {
    letters: u64,
    ids: Vec<String>,
}

impl Refused {
    pub(super) fn add(&mut self, why: impl Into<String>, event: &EventIdentity) {
        let group = self.0.entry(why.into()).or_default();
        group.letters += 1;
        if group.ids.len() < MAX_IDS {
            group.ids.push(event.to_string());
        }
    }

    pub(super) fn letters(&self) -> u64 {
        self.0.values().map(|group| group.letters).sum()
    }

    /// Tells how many, and why.
    pub(super) fn tell(&self) {
        for (why, Group { letters, ids }) in &self.0 {
            let first = ids.first().map(String::as_str).unwrap_or_default();
            let more = if *letters > 1 { " and others" } else { "" };
            tell(format_args!(
                "{} left out, {first}{more}: {why}",
                counted(*letters, "letter") + if *letters == 1 { " is" } else { " are" }
            ));
        }
    }

    pub(super) fn as_value(&self) -> Value {
        let groups = self.0.iter().map(
            |(why, Group { letters, ids })| json!({ "why": why, "letters": letters, "ids": ids }),
        );
        groups.collect()
    }
}

/// Freezes the letters that match.
pub(super) async fn make(
    args: &ReplayArgs,
    opened: &Opened,
    settings: &Settings,
    jobs: &Path,
) -> Result<Made, CommandError> {
    let mut plan = Plan::new(SystemTime::now(), opened.place.clone(), args.limits());
    let mut refused = Refused::default();
    let mut body_bytes = 0_u64;
    let looked = letters::each(opened, &args.filter, FailureKind::Dead, |letter| {
        match fault(&letter) {
            Some(why) => refused.add(why, &letter.key.event),
            None => {
                body_bytes = body_bytes.saturating_add(letter.meta.body_bytes);
                plan.add(&letter.key.event, letter.meta.generation);
            }
        }
        Ok(Next::GoOn)
    })
    .await?;
    plan.to = hubs::target(args.how.to.as_deref(), settings, &opened.place, args.offline).await?;
    if plan.to.is_none() && !args.offline {
        let hubs = Hubs::ask(settings, plan.logs()).await;
        for letter in 0..plan.len() {
            if let Some(event) = plan.event(letter)
                && let Some(why) = hubs.fault(&event.log)
            {
                refused.add(why, &event);
            }
        }
        plan.retain_logs(|log| hubs.fault(log).is_none());
    }
    looked.tell(&opened.place, FailureKind::Dead);
    if looked.matching == 0 {
        let ending = if looked.unreadable == 0 { Ending::Done } else { Ending::SomeFailed };
        return nothing(args, opened, &refused, ending);
    }
    if args.dry_run {
        return dry(args, opened, &plan, &refused, body_bytes);
    }
    if plan.is_empty() {
        refused.tell();
        tell("nothing is left to replay");
        return nothing(args, opened, &refused, Ending::SomeFailed);
    }
    let job = Job::create(jobs, plan).map_err(|error| CommandError::new(brief(&error)))?;
    refused.tell();
    Ok(Made::Job(job.into(), refused))
}

/// Why a letter cannot be replayed, by what the listing says.
fn fault(letter: &ListedFailure) -> Option<String> {
    let meta = &letter.meta;
    if let Some(job) = meta.replaying() {
        return Some(format!(
            "the job {job} replays it; --resume {job} goes on with that, --release {job} gives it up"
        ));
    }
    if meta.is_body_omitted {
        return Some("its body was left out by the setting of its worker".to_owned());
    }
    (meta.class == ErrorClass::Unreadable)
        .then(|| "its event could not be decoded, so there is nothing to hand out".to_owned())
}

pub(super) fn nothing(
    args: &ReplayArgs,
    opened: &Opened,
    refused: &Refused,
    ending: Ending,
) -> Result<Made, CommandError> {
    if is_json(args.common.report) {
        give(as_json(&json!({
            "store": opened.place,
            "job": null,
            "letters": 0,
            "refused": refused.as_value(),
            "dry_run": args.dry_run,
        }))?);
    }
    Ok(Made::Nothing(ending))
}

/// Says what would be replayed.
pub(super) fn dry(
    args: &ReplayArgs,
    opened: &Opened,
    plan: &Plan,
    refused: &Refused,
    body_bytes: u64,
) -> Result<Made, CommandError> {
    let place = match &plan.to {
        Some(to) => format!("to hub {to}"),
        None => "to their group".to_owned(),
    };
    if is_json(args.common.report) {
        give(as_json(&json!({
            "store": opened.place,
            "job": null,
            "letters": plan.len(),
            "body_bytes": body_bytes,
            "to": plan.to.as_ref().map(|to| to.as_str()),
            "refused": refused.as_value(),
            "dry_run": true,
        }))?);
    } else {
        let letters = counted(plan.len() as u64, "letter");
        give(format_args!(
            "{letters} of {} would be replayed {place}, with {}",
            opened.place,
            size(body_bytes)
        ));
    }
    refused.tell();
    Ok(Made::Nothing(if refused.letters() == 0 { Ending::Done } else { Ending::SomeFailed }))
}
