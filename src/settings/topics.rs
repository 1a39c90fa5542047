//! Topics: names for hubs, each of one of several namespaces.

use std::collections::BTreeMap;
use std::fmt;

use super::access::{Asked, Door};
use super::keys::{self, Key, Section, canonical};
use super::problem::{Problem, SettingsError};
use super::source::Value;
use super::tables::{Table, Tables, suggestion};
use super::value::{MAX_ENTITY_CHARS, is_name};
use super::{Access, ProxyAddress, Settings, TransportKind};
use crate::event::EntityName;

/// A name for a hub of a namespace: a table `[topics.NAME]`, or the hub that other keys name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    name: String,
    entity: EntityName,
    /// What the name of its namespace is compared by; `None` is the namespace that all share.
    pub(super) namespace: Option<String>,
}

impl Topic {
    /// The hub of this name, in the namespace that all share.
    pub(super) fn of_entity(entity: EntityName) -> Self {
        Self { name: entity.as_str().to_owned(), entity, namespace: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hub that it stands for; [`Settings::namespace_of`] has its namespace.
    pub fn entity(&self) -> &EntityName {
        &self.entity
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A namespace that a table names.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) access: Access,
    pub(super) proxy: Option<ProxyAddress>,
}

/// The tables of namespaces and topics, read.
#[derive(Clone, Debug, Default)]
pub(super) struct Topics {
    /// By what their names are compared by, as the topics.
    pub(super) namespaces: BTreeMap<String, Named>,
    pub(super) topics: BTreeMap<String, Topic>,
}

impl Access {
    /// The host, if it is known.
    pub(super) fn host(&self) -> Option<&str> {
        match self {
            Self::Namespace(namespace) => Some(namespace.host()),
            Self::EntraId { host, .. } => Some(host),
            Self::None | Self::KeyVault { .. } => None,
        }
    }

    /// What tells it from other namespaces, if it is known: brokers on this machine by their ports.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Namespace(namespace) => Some(namespace.name()),
            other => other.host(),
        }
    }

    /// The one hub that a connection string opens.
    pub(super) fn entity_path(&self) -> Option<&str> {
        match self {
            Self::Namespace(namespace) => namespace.entity_path(),
            _ => None,
        }
    }
}

/// The namespaces of tables. `asked` is how the namespace that all share is opened.
pub(super) fn read_namespaces(
    tables: &Tables,
    transport: TransportKind,
    asked: &Asked,
    problems: &mut Vec<Problem>,
    mut own: impl FnMut(&Value) -> Result<Asked, Problem>,
    mut proxy: impl FnMut(&Access, &mut Vec<Problem>) -> Option<ProxyAddress>,
) -> BTreeMap<String, Named> {
    let mut namespaces = BTreeMap::new();
    for table in tables.of(Section::Namespaces) {
        let door = Door::Table(table);
        let asked = match table.get(door.credential()).map(&mut own) {
            Some(Ok(own)) => own,
            Some(Err(problem)) => {
                problems.push(problem);
                Asked::default()
            }
            // What opens the others opens this one, unless it has a key of its own.
            None if door.has_string() || asked.credential.is_none() => Asked::default(),
            None => asked.clone(),
        };
        let access = door.open(transport, &asked, problems);
        let proxy = proxy(&access, problems);
        namespaces
            .insert(canonical(&table.name), Named { name: table.name.clone(), access, proxy });
    }
    namespaces
}

/// The topics of tables. `common` is the namespace that all share.
pub(super) fn read_topics(
    tables: &Tables,
    namespaces: BTreeMap<String, Named>,
    common: Option<&Access>,
    problems: &mut Vec<Problem>,
) -> Topics {
    let mut topics = BTreeMap::new();
    for table in tables.of(Section::Topics) {
        match read_topic(table, &namespaces, common) {
            Ok(topic) => {
                topics.insert(canonical(&table.name), topic);
            }
            Err(problem) => problems.push(problem),
        }
    }
    Topics { namespaces, topics }
}

fn read_topic(
    table: &Table,
    namespaces: &BTreeMap<String, Named>,
    common: Option<&Access>,
) -> Result<Topic, Problem> {
    let key = &keys::TOPIC_NAMESPACE;
    let (namespace, access) = match (table.get(key), common) {
        (Some(value), _) => {
            let name = canonical(&value.text);
            let Some(named) = namespaces.get(&name) else {
                let names = namespaces.values().map(|named| named.name.as_str());
                return Err(value.refused(key, no_such(key, &value.text, names)));
            };
            (Some(name), &named.access)
        }
        (None, Some(common)) => (None, common),
        (None, None) => {
            let why = format!(
                "say of which namespace it is: {}; or give {}",
                key.allowed(),
                keys::CONNECTION_STRING.name
            );
            return Err(Problem::missing_as(key, &table.path(key), why));
        }
    };
    let entity = read_entity(table, access.entity_path())?;
    Ok(Topic { name: table.name.clone(), entity, namespace })
}

fn read_entity(table: &Table, bound_to: Option<&str>) -> Result<EntityName, Problem> {
    let key = &keys::TOPIC_ENTITY;
    let text = match (table.get(key), bound_to) {
        (Some(value), _) if !is_name(&value.text, MAX_ENTITY_CHARS) => {
            return Err(value.refused(key, format!("it must be {}", key.allowed())));
        }
        (Some(value), Some(path)) if !value.text.eq_ignore_ascii_case(path) => {
            let bound = format!(
                "it must be the EntityPath of the connection string, which is {path}; or use a \
                 connection string of the namespace"
            );
            return Err(value.refused(key, bound));
        }
        (Some(value), _) => &value.text,
        (None, Some(path)) => path,
        (None, None) if table.place.is_some() => &table.name,
        // How a variable spells its name is not how the hub is spelled.
        (None, None) => {
            return Err(Problem::missing_as(key, &table.path(key), "name the hub"));
        }
    };
    Ok(EntityName::new(text))
}

/// What a value that names no table must be, and which name was probably meant.
pub(super) fn no_such<'a>(key: &Key, text: &str, names: impl Iterator<Item = &'a str>) -> String {
    let suggestion = suggestion(keys::nearest_of(text, names));
    format!("it must be {}{suggestion}", key.allowed())
}

impl Topics {
    /// What is wrong with a topic of this namespace, if its connection string is for one hub only.
    #[cfg_attr(not(feature = "event-hubs"), expect(dead_code, reason = "for a namespace only"))]
    pub(super) fn check(&self, namespace: Option<&str>, bound_to: Option<&str>) -> Option<Problem> {
        let path = bound_to?;
        let mut topics = self.topics.values();
        let wrong = topics.find(|topic| {
            topic.namespace.as_deref() == namespace
                && !topic.entity.as_str().eq_ignore_ascii_case(path)
        })?;
        Some(Problem::new(format!(
            "the hub {} of the topic {} and the EntityPath = {path} of the connection string are \
             different: use a connection string of the namespace",
            wrong.entity, wrong.name
        )))
    }
}

impl Settings {
    /// The topics, by their names.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.topics.values()
    }

    /// The topic of this name: a table `[topics.NAME]`.
    ///
    /// # Errors
    /// If there is none.
    pub fn topic(&self, name: &str) -> Result<&Topic, SettingsError> {
        self.topics.topics.get(&canonical(name)).ok_or_else(|| {
            let suggestion = suggestion(keys::nearest_of(name, self.topics().map(Topic::name)));
            Problem::new(format!(
                "there is no topic {name}: no table [topics.{name}]{suggestion}; the variable \
                 LONGSHORE_TOPICS_{}_ENTITY makes one as well",
                name.to_ascii_uppercase().replace(['-', '.'], "_")
            ))
            .into()
        })
    }

    /// How the namespace of a topic lets us in.
    pub(super) fn access_of(&self, topic: &Topic) -> (&Access, Option<&ProxyAddress>) {
        match topic.namespace.as_ref().and_then(|name| self.topics.namespaces.get(name)) {
            Some(named) => (&named.access, named.proxy.as_ref()),
            None => (&self.access, self.proxy.as_ref()),
        }
    }

    /// Whether two topics are one hub, as far as that is known.
    pub(super) fn is_same_hub(&self, one: &Topic, other: &Topic) -> bool {
        let name = |topic| self.access_of(topic).0.name();
        let is_one = name(one).zip(name(other)).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b));
        one.entity == other.entity && (one.namespace == other.namespace || is_one)
    }
}
