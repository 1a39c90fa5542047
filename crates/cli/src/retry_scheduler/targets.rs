//! Which hub a name stands for, and what may not be published to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::CommandError;
use longshore::event::EntityName;
use longshore::retry_scheduler::Target;
use longshore::settings::Settings;
use longshore::transport::event_hubs::{EventHubsPublisher, Namespace};

/// The hubs that names stand for.
#[derive(Debug)]
pub(super) struct Targets {
    settings: Settings,
    /// By the names of their topics.
    topics: BTreeMap<String, (Namespace, EntityName)>,
    /// The namespace of all names that are no topics.
    common: Option<Namespace>,
}

impl Targets {
    /// Those of the settings.
    ///
    /// # Errors
    /// A topic whose namespace cannot be used.
    pub(super) fn new(settings: &Settings) -> Result<Self, CommandError> {
        let mut topics = BTreeMap::new();
        for topic in settings.topics() {
            let hub = (settings.namespace_of(topic)?, topic.entity().clone());
            topics.insert(topic.name().to_owned(), hub);
        }
        Ok(Self { settings: settings.clone(), topics, common: settings.namespace().ok() })
    }

    /// The hub of a topic, or the one of this name in the namespace that all share.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn hub(&self, name: &str) -> Result<(Namespace, EntityName), String> {
        let topic = self.settings.topic(name).ok();
        if let Some(hub) = topic.and_then(|topic| self.topics.get(topic.name())) {
            return Ok(hub.clone());
        }
        let Some(common) = &self.common else {
            return Err(format!(
                "there is no table [topics.{name}], and no EVENTHUB_CONNECTION_STRING or EVENTHUB_NAMESPACE names a \
                 namespace that all share"
            ));
        };
        match common.entity_path().filter(|path| !path.eq_ignore_ascii_case(name)) {
            Some(path) => Err(format!(
                "the connection string opens the hub {path} alone: use one of the namespace, or give {name} a table \
                 [topics.{name}]"
            )),
            None => Ok((common.clone(), name.into())),
        }
    }

    /// The hub that events of this target go to.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn target(&self, name: &str) -> Result<Target, String> {
        if let Some(worker) = self.settings.writer_of_dead_letters(name) {
            return Err(format!("the worker {worker} writes its dead letters there"));
        }
        // Each event spells it as it likes, and it is one hub.
        let (namespace, entity) = self.hub(&name.to_ascii_lowercase())?;
        let of = namespace.name().to_owned();
        Ok(Target::new(of, Arc::new(EventHubsPublisher::new(namespace, entity))))
    }
}
