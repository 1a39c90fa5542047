//! The hubs that are published to, each with a producer of its own, made when the first event is for it.
//!
//! Events name targets, and whoever publishes events may name many. So a target that turns out not to be there is
//! forgotten, and no more than [`MAX_TARGETS`] are known at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::refusal::Refusal;
use crate::event::EntityName;
use crate::producer::EntityProducer;
use crate::transport::Publisher;

/// Most targets that are known at once: each may have a connection.
pub(super) const MAX_TARGETS: usize = 1_000;

/// How often a send is tried before its failure is the consumer's: it waits without a slot, and knows which targets
/// fail for all.
const SEND_ATTEMPTS: u32 = 2;

/// A hub that events may be published to.
#[derive(Clone, Debug)]
pub struct Target {
    namespace: String,
    publisher: Arc<dyn Publisher>,
}

impl Target {
    /// The hub that this publishes to, in the namespace of this name.
    pub fn new(namespace: impl Into<String>, publisher: Arc<dyn Publisher>) -> Self {
        Self { namespace: namespace.into(), publisher }
    }
}

/// Says which hub a name stands for.
type Resolve = dyn Fn(&str) -> Result<Target, String> + Send + Sync;

/// See the [module](self).
pub(super) struct Targets {
    resolve: Box<Resolve>,
    known: Mutex<BTreeMap<EntityName, Arc<EntityProducer>>>,
    /// The hubs that are read: namespace and name.
    sources: Vec<(String, EntityName)>,
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl Targets {
    pub(super) fn new(resolve: Box<Resolve>) -> Self {
        Self { resolve, known: Mutex::default(), sources: Vec::new() }
    }

    /// A hub that is read.
    pub(super) fn add_source(&mut self, namespace: String, entity: EntityName) {
        self.sources.push((namespace, entity));
    }

    /// What publishes to the hub of this name.
    ///
    /// # Errors
    /// There is none, it is one of the sources, or there are too many.
    pub(super) fn producer(&self, name: &str) -> Result<Arc<EntityProducer>, Refusal> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = known.get(&EntityName::from(name)) {
            return Ok(Arc::clone(producer));
        }
        let unknown = |why: String| Refusal::Unknown { target: name.to_owned(), why };
        if known.len() >= MAX_TARGETS {
            return Err(unknown(format!(
                "events have named {MAX_TARGETS} others, which are the most"
            )));
        }
        let Target { namespace, publisher } = (self.resolve)(name).map_err(unknown)?;
        let is_source = self.sources.iter().any(|(of, entity)| {
            of.eq_ignore_ascii_case(&namespace) && entity == publisher.entity()
        });
        if is_source {
            return Err(Refusal::Loop { target: name.to_owned() });
        }
        let producer = Arc::new(EntityProducer::new(publisher).with_attempts(SEND_ATTEMPTS));
        known.insert(name.into(), Arc::clone(&producer));
        Ok(producer)
    }

    /// Forgets a hub that cannot be published to: the next event for it looks anew.
    pub(super) fn forget(&self, name: &str, producer: &Arc<EntityProducer>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let name = EntityName::from(name);
        if known.get(&name).is_some_and(|is| Arc::ptr_eq(is, producer)) {
            known.remove(&name);
        }
    }

    /// Waits for what is under way, and lets go of all connections.
    pub(super) async fn close(&self) {
        let known = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *known)
        };
        futures::future::join_all(known.values().map(|producer| producer.close())).await;
    }
}
