//! What hubs say before letters are handed out: whether a hub is still the one that they came from, and whether the
//! one that they go to is one of dead letters.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

use crate::configured::hub_named;
use crate::terminal::tell;
use crate::{CommandError, brief};
use longshore::checkpoint::host_of;
use longshore::config::Ordering;
use longshore::dead_letter::hub::PREFIX;
use longshore::error::{Error, ErrorClass};
use longshore::event::{EntityName, Event, Incarnation, SequenceNumber};
use longshore::failure_store::LogIdentity;
use longshore::settings::Settings;
use longshore::timestamp::rfc3339;
use longshore::transport::event_hubs::{EventHubsTransport, Namespace};
use longshore::transport::{LinkStart, OpenLink, Transport};

/// How long a hub may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A hub, and when it was created.
type Hub = (String, EntityName, Incarnation);

/// What the hubs of letters say.
pub(super) struct Hubs(BTreeMap<Hub, String>);

fn hub_of(log: &LogIdentity) -> Hub {
    (host_of(&log.namespace).to_ascii_lowercase(), log.entity.clone(), log.incarnation)
}

impl Hubs {
    /// Asks all of them. Who cannot be asked is told.
    pub(super) async fn ask(settings: &Settings, logs: &[LogIdentity]) -> Self {
        let mut faults = BTreeMap::new();
        let mut asked: BTreeMap<(String, EntityName), Option<Incarnation>> = BTreeMap::new();
        for log in logs {
            let hub = hub_of(log);
            let name = (hub.0.clone(), hub.1.clone());
            let is = match asked.get(&name) {
                Some(is) => *is,
                None => {
                    let is = incarnation(settings, log).await.map_err(|why| {
                        tell(format_args!(
                            "the hub {} at {} cannot be asked whether it is still the one that the letters \
                             came from: {why}. Where it was created anew, no worker hands them out",
                            log.entity, log.namespace
                        ));
                    });
                    *asked.entry(name).or_insert(is.ok())
                }
            };
            if let Some(is) = is.filter(|is| *is != log.incarnation) {
                faults.insert(hub, created_anew(log, is));
            }
        }
        Self(faults)
    }

    /// Why no worker would hand out letters of a log.
    pub(super) fn fault(&self, log: &LogIdentity) -> Option<&str> {
        self.0.get(&hub_of(log)).map(String::as_str)
    }
}

fn created_anew(log: &LogIdentity, is: Incarnation) -> String {
    let time = |Incarnation(millis): Incarnation| {
        let millis = u64::try_from(millis).unwrap_or(0);
        rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    };
    let hub = &log.entity;
    let now = time(is);
    let was = match log.incarnation {
        Incarnation(0) => format!("the letter does not say of which hub {hub} it is"),
        was => format!("the letter is of the hub {hub} that was created at {}", time(was)),
    };
    format!(
        "{was}, and the hub of that name was created at {now}: no worker hands it out. `--to {hub}` publishes it"
    )
}

/// When the hub of a log was created.
async fn incarnation(settings: &Settings, log: &LogIdentity) -> Result<Incarnation, String> {
    let namespace = namespace_of(settings, log)
        .ok_or("the settings name no such hub or namespace".to_owned())?;
    let transport =
        EventHubsTransport::new(namespace, log.entity.clone(), log.consumer_group.clone());
    let asked = timeout(ANSWER_TIMEOUT, transport.hub_properties()).await;
    transport.close().await;
    match asked {
        Ok(Ok(properties)) => Ok(properties.incarnation),
        Ok(Err(error)) => Err(brief(&error)),
        Err(_elapsed) => Err(format!("it did not answer within {ANSWER_TIMEOUT:?}")),
    }
}

/// The namespace of a log, among those that the settings name.
fn namespace_of(settings: &Settings, log: &LogIdentity) -> Option<Namespace> {
    let host = host_of(&log.namespace);
    let topics = settings.topics().filter(|topic| *topic.entity() == log.entity);
    let of_topics = topics.filter_map(|topic| settings.namespace_of(topic).ok());
    let all = of_topics.chain(settings.namespace().ok());
    all.into_iter().find(|namespace| host_of(namespace.name()).eq_ignore_ascii_case(host))
}

/// The name by which a job keeps the hub that it publishes to. One that holds dead letters is refused, and one that
/// is to hold those of a worker, though it is empty yet: what is published there would be taken for letters, and imported
/// again.
pub(super) async fn target(
    to: Option<&str>,
    settings: &Settings,
    store: &str,
    offline: bool,
) -> Result<Option<EntityName>, CommandError> {
    let Some(to) = to else { return taken_by_the_group(settings).map(|()| None) };
    if let Some(worker) = settings.writer_of_dead_letters(to) {
        return Err(CommandError::new(format!(
            "the hub {to} is where the settings have the worker {worker} write its dead letters: letters of {store} \
             that are replayed into it would be dead letters again. Replay them to the hub that a worker reads, or \
             leave --to out"
        )));
    }
    let (namespace, entity) = hub_named(settings, to)?;
    if offline {
        return Ok(Some(to.into()));
    }
    let transport = EventHubsTransport::new(namespace, entity, settings.consumer_group().clone());
    let looked = timeout(ANSWER_TIMEOUT, holds_letters(&transport)).await;
    transport.close().await;
    match looked {
        Ok(Ok(false)) => Ok(Some(to.into())),
        Ok(Ok(true)) => Err(CommandError::new(format!(
            "the hub {to} holds dead letters: letters of {store} that are replayed into it would be dead letters \
             again. Replay them to the hub that a worker reads, or leave --to out"
        ))),
        Ok(Err(error)) if error.class() == ErrorClass::Permanent => {
            Err(CommandError::new(format!("the hub {to} cannot be used: {}", brief(&error))))
        }
        other => {
            let why = match other {
                Ok(Err(error)) => brief(&error),
                _ => format!("it did not answer within {ANSWER_TIMEOUT:?}"),
            };
            tell(format_args!(
                "the hub {to} cannot be read, so it is not known whether it holds dead letters: {why}"
            ));
            Ok(Some(to.into()))
        }
    }
}

/// Refuses a replay to a group whose workers take nothing from the failure store: its letters would wait there.
fn taken_by_the_group(settings: &Settings) -> Result<(), CommandError> {
    let options = settings.consumer_options();
    let why = match options.ordering {
        Ordering::PerPartition => "LONGSHORE_ORDERING is per-partition",
        _ if options.park_delays.is_empty() => "LONGSHORE_PARK_DELAYS is none",
        _ => return Ok(()),
    };
    Err(CommandError::new(format!(
        "{why}: such workers take nothing from the failure store, so letters that are replayed to their group would \
         wait for ever. Publish them with --to HUB"
    )))
}

/// Whether the newest event of a partition is a dead letter.
async fn holds_letters(transport: &EventHubsTransport) -> Result<bool, Error> {
    for partition in transport.hub_properties().await?.partitions {
        let log = transport.log_properties(&partition).await?;
        let Some(newest) = log.last_enqueued.filter(|_| !log.is_empty()) else { continue };
        let start = match newest {
            SequenceNumber(number) if newest > log.begin => {
                LinkStart::After(SequenceNumber(number - 1))
            }
            _ => LinkStart::FirstEvent,
        };
        let mut link = transport.open(OpenLink::new(partition, start, 1)).await?;
        let mut events: Vec<Event> = Vec::new();
        let received = poll_fn(|cx| link.poll_receive(cx, 1, &mut events)).await;
        link.close().await;
        let is_letter =
            |event: &Event| event.properties().contains_key(&format!("{PREFIX}version"));
        if events.iter().any(is_letter) {
            return Ok(true);
        }
        match received {
            Err(error) if error.class() != ErrorClass::Unreadable => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}
