//! `import`: brings the letters of a hub into the store, where they can be listed.
//!
//! A letter that the store has is left as it is, so an import can be made again. The hub is read without an
//! owner level, which takes a partition from nobody, up to where its log ended when it was begun.

use std::future::poll_fn;
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::ImportArgs;
use super::opened::{Opened, WITHOUT_HUB};
use crate::configured::{hub_named, refuse, warn};
use crate::table::counted;
use crate::terminal::{as_json, give, tell};
use crate::{CommandError, Ending, ReportFormat, brief};
use longshore::dead_letter::record::DeadLetterRecord;
use longshore::error::{Error, ErrorClass, error_chain};
use longshore::event::{Event, PartitionId};
use longshore::failure_store::{Expected, FailureEntry, FailureKind, StoreError};
use longshore::transport::event_hubs::EventHubsTransport;
use longshore::transport::{LinkStart, LogProperties, OpenLink, Transport};

/// Events that a link may hold ahead.
const PREFETCH_EVENTS: u32 = 300;

/// Events that are taken at once.
const EVENTS_AT_ONCE: usize = 100;

/// How long the next event of a log that has more may take.
const NEXT_EVENT_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Imported {
    letters: u64,
    there_already: u64,
    unreadable: u64,
}

pub(super) async fn run(args: ImportArgs) -> Result<Ending, CommandError> {
    let ImportArgs { hub, dry_run, common } = args;
    let settings = match common.config.load(WITHOUT_HUB) {
        Ok(settings) => settings,
        Err(problems) => {
            refuse(&problems, common.report);
            return Ok(Ending::Unusable);
        }
    };
    warn(&settings);
    let settings = settings.fetched().await?;
    let (namespace, entity) = hub_named(&settings, &hub)?;
    let transport = EventHubsTransport::new(namespace, entity, settings.consumer_group().clone());
    let opened = if dry_run { Opened::or_empty(&settings)? } else { Opened::or_create(&settings)? };
    let mut imported = Imported::default();
    let read = read(&transport, &opened, dry_run, &mut imported).await;
    transport.close().await;
    read.map_err(|error| CommandError::new(brief(&error)))?;
    let Imported { letters, there_already, unreadable } = imported;
    match common.report {
        Some(ReportFormat::Json) => give(as_json(&json!({
            "store": opened.place,
            "hub": transport.entity().as_str(),
            "imported": letters,
            "there_already": there_already,
            "unreadable": unreadable,
            "dry_run": dry_run,
        }))?),
        None => give(format_args!(
            "{} of hub {} {} into {}; {there_already} there already",
            counted(letters, "letter"),
            transport.entity(),
            if dry_run { "would be brought" } else { "brought" },
            opened.place
        )),
    }
    if unreadable == 0 {
        return Ok(Ending::Done);
    }
    tell(format_args!(
        "{} could not be read and stay in the hub alone",
        counted(unreadable, "event")
    ));
    Ok(Ending::SomeFailed)
}

async fn read(
    transport: &EventHubsTransport,
    opened: &Opened,
    dry_run: bool,
    imported: &mut Imported,
) -> Result<(), Error> {
    for partition in transport.hub_properties().await?.partitions {
        let log = transport.log_properties(&partition).await?;
        if !log.is_empty() {
            read_log(transport, opened, &partition, &log, dry_run, imported).await?;
        }
    }
    Ok(())
}

async fn read_log(
    transport: &EventHubsTransport,
    opened: &Opened,
    partition: &PartitionId,
    log: &LogProperties,
    dry_run: bool,
    imported: &mut Imported,
) -> Result<(), Error> {
    let open = OpenLink::new(partition.clone(), LinkStart::FirstEvent, PREFETCH_EVENTS);
    let mut link = transport.open(open).await?;
    let mut last = None;
    while last < Some(log.end()) {
        let mut events = Vec::new();
        let next = poll_fn(|cx| link.poll_receive(cx, EVENTS_AT_ONCE, &mut events));
        let received = timeout(NEXT_EVENT_TIMEOUT, next).await.unwrap_or_else(|_elapsed| {
            let message =
                format!("partition {partition} brought no event in {NEXT_EVENT_TIMEOUT:?}");
            Err(Error::new(ErrorClass::Transient, "read the letters", message))
        });
        last = events.last().map(Event::sequence_number).or(last);
        for event in events {
            import(transport, opened, &event, dry_run, imported).await?;
        }
        match received {
            Err(error) if error.class() == ErrorClass::Unreadable => {
                imported.unreadable += 1;
                tell(brief(&error));
            }
            received => drop(received?),
        }
    }
    link.close().await;
    Ok(())
}

async fn import(
    transport: &EventHubsTransport,
    opened: &Opened,
    event: &Event,
    dry_run: bool,
    imported: &mut Imported,
) -> Result<(), Error> {
    let entry = DeadLetterRecord::from_event(event).and_then(|mut record| {
        // Earlier releases wrote none.
        if record.namespace.is_empty() {
            transport.namespace().clone_into(&mut record.namespace);
        }
        Ok((record.identity().key(FailureKind::Dead), FailureEntry::of(&record)?))
    });
    let (key, entry) = match entry {
        Ok(entry) => entry,
        Err(error) => {
            imported.unreadable += 1;
            let place = format!("{}#{}", event.partition(), event.sequence_number());
            tell(format_args!("{place}: {}", error_chain(&error).join(": ")));
            return Ok(());
        }
    };
    if dry_run {
        let is_there = opened.store.read(&key).await?.is_some();
        imported.letters += u64::from(!is_there);
        imported.there_already += u64::from(is_there);
        return Ok(());
    }
    match opened.store.put(&key, &entry, &Expected::Absent).await {
        Ok(_version) => imported.letters += 1,
        Err(StoreError::Conflict) => imported.there_already += 1,
        Err(StoreError::Failed(error)) => return Err(error),
    }
    Ok(())
}
