//! The hubs that keys name: one for all workers, and one for each.

use std::collections::BTreeMap;

use super::keys::{self, Key, canonical};
use super::problem::{Problem, SettingsError};
use super::source::{Value, Values, WORKER_PREFIX};
use super::value::{MAX_ENTITY_CHARS, is_name};
use crate::event::EntityName;

/// The hubs that keys name.
#[derive(Clone, Debug, Default)]
pub(super) struct Entities {
    common: Option<Named>,
    /// By the name of the key.
    workers: BTreeMap<String, Named>,
}

/// A hub, and how it was written.
#[derive(Clone, Debug)]
struct Named {
    entity: EntityName,
    /// The key and where it is.
    place: String,
}

impl Entities {
    /// Those that the keys name, with all that is wrong with them.
    pub(super) fn read(values: &Values, problems: &mut Vec<Problem>) -> Self {
        let mut named = |key: &Key, value: &Value| {
            if is_name(&value.text, MAX_ENTITY_CHARS) {
                let entity = EntityName::new(&value.text);
                return Some(Named { entity, place: format!("{} ({})", value.name, value.origin) });
            }
            problems.push(value.refused(key, format!("it must be {}", key.allowed())));
            None
        };
        let common = values.get(&keys::ENTITY).and_then(|value| named(&keys::ENTITY, value));
        let workers = values
            .workers()
            .filter_map(|(key, value)| Some((key.clone(), named(&keys::WORKER_ENTITY, value)?)));
        Self { common, workers: workers.collect() }
    }

    pub(super) fn common(&self, path: Option<&str>) -> Result<EntityName, SettingsError> {
        let named = self.common.as_ref().map(|named| named.entity.clone());
        named.or_else(|| path.map(EntityName::new)).ok_or_else(|| {
            let why = "name the hub, or use a connection string with an EntityPath";
            Problem::missing(&keys::ENTITY, why).into()
        })
    }

    pub(super) fn of(&self, worker: &str, path: Option<&str>) -> Result<EntityName, SettingsError> {
        let key = worker_key(worker);
        match self.workers.get(&key) {
            Some(named) => Ok(named.entity.clone()),
            None => self.common(path).map_err(|_| {
                let why = format!(
                    "name the hub of the worker {worker} in {key}, or one for all workers in {}",
                    keys::ENTITY.name
                );
                Problem::missing(&keys::WORKER_ENTITY, why).into()
            }),
        }
    }

    /// A key that works for one hub only does not open another.
    pub(super) fn check(&self, path: Option<&str>) -> Vec<Problem> {
        let Some(path) = path else { return Vec::new() };
        let named = self.common.iter().chain(self.workers.values());
        named
            .filter(|named| !named.entity.as_str().eq_ignore_ascii_case(path))
            .map(|named| {
                Problem::new(format!(
                    "{} = {} and the EntityPath = {path} of the connection string name different \
                     hubs: leave one out, or use a connection string of the namespace",
                    named.place, named.entity
                ))
            })
            .collect()
    }
}

/// The key that names the hub of a worker.
pub(super) fn worker_key(worker: &str) -> String {
    format!("{WORKER_PREFIX}{}", canonical(worker))
}
