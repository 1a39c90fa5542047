//! From values as they were written to settings: each is checked alone, then with the others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;

use super::hub::{Namespace, Protocol, read_authorities};
use super::keys::{self, Key};
use super::knob::{self, Kind};
use super::problem::{Problem, SettingsError};
use super::proxy;
use super::source::{Value, Values, WORKER_PREFIX};
use super::stores::{Container, Place};
use super::{Access, ProxyAddress, Settings, TransportKind, Verification, value};
use crate::config::{
    ConsumerOptions, Credentials, DownloadLimits, HttpOptions, HttpProxy, LeaseOptions, RateLimits,
    Redirects,
};
use crate::credential::{Credential, SecretAddress};
use crate::event::{ConsumerGroup, EntityName};

/// Most characters of the name of a hub.
const MAX_ENTITY_CHARS: usize = 256;
/// Most characters of the name of a consumer group.
const MAX_GROUP_CHARS: usize = 50;

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
fn worker_key(worker: &str) -> String {
    let letter = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' => letter.to_ascii_uppercase(),
        _ => '_',
    };
    format!("{WORKER_PREFIX}{}", worker.chars().map(letter).collect::<String>())
}

/// Values on the way to settings.
pub(super) struct Resolved {
    values: Values,
    problems: Vec<Problem>,
}

impl Resolved {
    pub(super) fn new(mut values: Values) -> Self {
        let problems = std::mem::take(&mut values.problems);
        Self { values, problems }
    }

    pub(super) fn into_settings(mut self) -> Result<Settings, SettingsError> {
        let transport = match self.choice(&keys::TRANSPORT) {
            Some("memory") => TransportKind::Memory,
            _ => TransportKind::EventHubs,
        };
        let asked = self.choice(&keys::CREDENTIAL);
        let credential = asked.and_then(|word| self.credential(word));
        let place = self.checkpoint_place(credential.as_ref());
        let access = self.access(transport, asked, credential);
        let entities = self.entities();
        if let Access::Namespace(namespace) = &access {
            self.problems.extend(entities.check(namespace.entity_path()));
        }
        let consumer_group = self.consumer_group();
        let protocol = self.protocol();
        let ca_file = self.ca_file();
        let proxy = self.proxy(&access, protocol);
        let verification = self.verification();
        let consumer_options = self.consumer_options();
        let lease_options = self.lease_options();
        let rate_limits = self.rate_limits();
        let connections_per_host = self.connections_per_host();
        let download_limits = self.download_limits();
        let http_options = self.http_options();
        if !self.problems.is_empty() {
            return Err(SettingsError::new(self.problems, self.values.warnings));
        }
        Ok(Settings {
            transport,
            access,
            entities,
            consumer_group,
            protocol,
            ca_file,
            proxy: proxy.map(ProxyAddress),
            verification,
            consumer_options,
            place,
            lease_options,
            rate_limits,
            connections_per_host,
            download_limits,
            http_options,
            warnings: self.values.warnings,
        })
    }

    fn access(
        &mut self,
        transport: TransportKind,
        asked: Option<&str>,
        credential: Option<Credential>,
    ) -> Access {
        if cfg!(not(feature = "event-hubs")) {
            if transport == TransportKind::EventHubs {
                self.problems.push(Problem::new(format!(
                    "{} = eventhub: this was built without the feature event-hubs; build with it, \
                     or set memory",
                    keys::TRANSPORT.name
                )));
            }
            return Access::None;
        }
        let connection = self.read(&keys::CONNECTION_STRING, |text| {
            Namespace::from_connection_string(text).map_err(|error| error.bound)
        });
        let secret = self.read(&keys::SECRET, |text| {
            SecretAddress::parse(text)
                .ok_or_else(|| format!("it must read {}", keys::SECRET.allowed()))
        });
        let host = self.read(&keys::NAMESPACE, |text| {
            is_host(text)
                .then(|| text.to_ascii_lowercase())
                .ok_or_else(|| format!("it must be {}", keys::NAMESPACE.allowed()))
        });
        let given = |key| self.values.get(key).is_some();
        let (has_string, has_secret, has_host) =
            (given(&keys::CONNECTION_STRING), given(&keys::SECRET), given(&keys::NAMESPACE));
        if has_string && has_secret {
            self.refuse(
                &keys::SECRET,
                format!("not be given beside {}", keys::CONNECTION_STRING.name),
            );
        }
        if let (Some(connection), Some(host)) = (&connection, &host)
            && !connection.host().eq_ignore_ascii_case(host)
        {
            let must = format!(
                "be the namespace of {}, which is {}, or be left out",
                keys::CONNECTION_STRING.name,
                connection.host()
            );
            self.refuse(&keys::NAMESPACE, must);
        }
        if has_string && credential.is_some() {
            self.refuse(
                &keys::CREDENTIAL,
                format!("be connection-string beside {}", keys::CONNECTION_STRING.name),
            );
        }
        if asked == Some("connection-string") && !has_string {
            let must = format!("go with {}", keys::CONNECTION_STRING.name);
            self.refuse(&keys::CREDENTIAL, must);
        }
        if (has_secret || has_host) && !has_string && asked.is_none() {
            let opened = if has_secret { "the vault" } else { "the namespace" };
            let choices = "developer, managed-identity or workload-identity";
            let why = format!("say how to get into {opened}: {choices}");
            if !given_problem(&self.problems, &keys::CREDENTIAL) {
                self.problems.push(Problem::missing(&keys::CREDENTIAL, why));
            }
        }
        if !(has_string || has_secret || has_host) && transport == TransportKind::EventHubs {
            let why = format!(
                "give the connection string of the namespace or hub, or {} or {} with {}",
                keys::NAMESPACE.name,
                keys::SECRET.name,
                keys::CREDENTIAL.name
            );
            self.problems.push(Problem::missing(&keys::CONNECTION_STRING, why));
        }
        match (connection, secret, host, credential) {
            (Some(namespace), _, _, _) => Access::Namespace(Box::new(namespace)),
            (None, Some(secret), _, Some(credential)) => Access::KeyVault { secret, credential },
            (None, None, Some(host), Some(credential)) => Access::EntraId { host, credential },
            _ => Access::None,
        }
    }

    fn credential(&self, word: &str) -> Option<Credential> {
        let text = |key| self.values.get(key).map(|value| value.text.clone());
        match word {
            "developer" => Some(Credential::Developer),
            "managed-identity" => {
                Some(Credential::ManagedIdentity { client_id: text(&keys::CLIENT_ID) })
            }
            "workload-identity" => Some(Credential::WorkloadIdentity {
                client_id: text(&keys::CLIENT_ID),
                tenant_id: text(&keys::TENANT_ID),
                token_file: text(&keys::TOKEN_FILE).map(PathBuf::from),
            }),
            _ => None,
        }
    }

    fn entities(&mut self) -> Entities {
        let mut named = |key: &Key, value: &Value| {
            if is_name(&value.text, MAX_ENTITY_CHARS) {
                let entity = EntityName::new(&value.text);
                return Some(Named { entity, place: format!("{} ({})", value.name, value.origin) });
            }
            self.problems.push(value.refused(key, format!("it must be {}", key.allowed())));
            None
        };
        let common = self.values.get(&keys::ENTITY).and_then(|value| named(&keys::ENTITY, value));
        let workers = self
            .values
            .workers()
            .filter_map(|(key, value)| Some((key.clone(), named(&keys::WORKER_ENTITY, value)?)));
        Entities { common, workers: workers.collect() }
    }

    fn consumer_group(&mut self) -> ConsumerGroup {
        let group = self.read(&keys::CONSUMER_GROUP, |text| {
            let valid = is_name(text, MAX_GROUP_CHARS) || text.eq_ignore_ascii_case("$Default");
            valid
                .then(|| ConsumerGroup::new(text))
                .ok_or_else(|| format!("it must be {}", keys::CONSUMER_GROUP.allowed()))
        });
        group.unwrap_or_else(|| ConsumerGroup::new(keys::CONSUMER_GROUP.default))
    }

    fn protocol(&mut self) -> Option<Protocol> {
        self.choice(&keys::PROTOCOL).map(|word| match word {
            "tcp" => Protocol::Tcp,
            _ => Protocol::WebSocket,
        })
    }

    fn ca_file(&mut self) -> Option<PathBuf> {
        self.read(&keys::CA_FILE, |text| {
            let path = PathBuf::from(text);
            read_authorities(&path).map_err(|error| error.bound)?;
            Ok::<_, String>(path)
        })
    }

    fn proxy(&mut self, access: &Access, protocol: Option<Protocol>) -> Option<Url> {
        if self.values.get(&keys::PROXY).is_some() {
            return self.read(&keys::PROXY, proxy::read);
        }
        let (host, protocol) = match access {
            Access::Namespace(namespace) => {
                (Some(namespace.host()), protocol.unwrap_or(namespace.protocol()))
            }
            Access::EntraId { host, .. } => (Some(host.as_str()), protocol.unwrap_or_default()),
            // Where the connection string leads is not known yet.
            Access::KeyVault { .. } => (None, protocol.unwrap_or_default()),
            Access::None => return None,
        };
        let variable = self.values.proxy_variable("HTTPS_PROXY")?;
        let no_proxy = self.values.proxy_variable("NO_PROXY");
        if protocol == Protocol::Tcp || proxy::is_direct(host.unwrap_or_default(), no_proxy) {
            return None;
        }
        match proxy::read(variable) {
            Ok(proxy) => Some(proxy),
            Err(bound) => {
                self.problems.push(Problem::new(format!(
                    "HTTPS_PROXY = (hidden) (environment): {bound}; {} and NO_PROXY come before it",
                    keys::PROXY.name
                )));
                None
            }
        }
    }

    fn verification(&mut self) -> Verification {
        let off = self.read(&keys::DISABLE_SSL_VERIFY, |text| {
            value::flag(text)
                .ok_or_else(|| format!("it must be {}", keys::DISABLE_SSL_VERIFY.allowed()))
        });
        if off != Some(true) {
            return Verification::On;
        }
        let environment = self.values.get(&keys::ENVIRONMENT);
        let is_production = environment.is_some_and(|value| {
            ["production", "prod"].iter().any(|word| value.text.trim().eq_ignore_ascii_case(word))
        });
        if let Some(environment) = environment.filter(|_| is_production).cloned() {
            let must = format!(
                "be false where {} = {} ({}): trust a private certificate authority with {}",
                environment.name,
                environment.text,
                environment.origin,
                keys::CA_FILE.name
            );
            self.refuse(&keys::DISABLE_SSL_VERIFY, must);
        } else {
            self.values.warnings.push(format!(
                "{} = true: CERTIFICATES ARE NOT CHECKED. Anyone on the way can read keys and \
                 events. For local development only; {} is the safe way",
                keys::DISABLE_SSL_VERIFY.name,
                keys::CA_FILE.name
            ));
        }
        Verification::Off
    }

    fn consumer_options(&mut self) -> ConsumerOptions {
        let mut options = ConsumerOptions::default();
        for key in keys::ALL {
            let Kind::Knob(knob) = key.kind else { continue };
            let Some(value) = self.values.get(key) else { continue };
            if !knob.apply(&mut options, &value.text) {
                self.problems.push(value.refused(key, format!("it must be {}", key.allowed())));
            }
        }
        options
    }

    fn lease_options(&mut self) -> LeaseOptions {
        let before = self.problems.len();
        let mut options = LeaseOptions::default();
        for key in keys::ALL {
            let Kind::LeaseTime(time) = key.kind else { continue };
            let Some(value) = self.values.get(key) else { continue };
            if !time.apply(&mut options, &value.text) {
                self.problems.push(value.refused(key, format!("it must be {}", key.allowed())));
            }
        }
        let (expiry, heartbeat) = (&keys::LEASE_EXPIRY, &keys::HEARTBEAT_INTERVAL);
        let pairs = [
            (
                options.validate_heartbeats(),
                (expiry, "be at least three times"),
                (heartbeat, "be at most a third of"),
            ),
            (
                options.validate_looks(),
                (&keys::LOOK_INTERVAL, "be at most half of"),
                (expiry, "be at least twice"),
            ),
        ];
        // A value that was refused already is not there to judge the other by.
        let is_there = |key| !given_problem(&self.problems, key);
        let wrong: Vec<_> = pairs
            .into_iter()
            .filter(|(valid, one, other)| valid.is_err() && is_there(one.0) && is_there(other.0))
            .collect();
        for (_, one, other) in wrong {
            self.refuse_pair(one, other);
        }
        // Whatever else is wrong with them is said as well.
        if let Err(error) = options.validate()
            && self.problems.len() == before
        {
            self.problems.push(Problem::new(error.to_string()));
        }
        options
    }

    fn rate_limits(&mut self) -> RateLimits {
        let mut limits = RateLimits::default();
        for key in keys::ALL {
            let Kind::RateLimit(rate) = key.kind else { continue };
            self.read(key, |text| rate.apply(&mut limits, text));
        }
        limits
    }

    fn download_limits(&mut self) -> DownloadLimits {
        let mut limits = DownloadLimits::default();
        for key in keys::ALL {
            let Kind::Download(limit) = key.kind else { continue };
            self.read(key, |text| {
                let is_set = limit.apply(&mut limits, text);
                is_set.then_some(()).ok_or_else(|| format!("it must be {}", key.allowed()))
            });
        }
        limits
    }

    fn http_options(&mut self) -> HttpOptions {
        let mut options = HttpOptions::new();
        if self.choice(&keys::DOWNLOAD_REDIRECTS) == Some("refuse") {
            options = options.with_redirects(Redirects::Refuse);
        }
        let proxy = self.read(&keys::DOWNLOAD_PROXY, |text| {
            HttpProxy::parse(text).map_err(|error| error.bound)
        });
        if let Some(proxy) = proxy {
            options = options.with_proxy(proxy);
        }
        let credentials = self.read(&keys::DOWNLOAD_CREDENTIALS, |path| {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("it must be a file that can be read: {error}"))?;
            Credentials::from_toml(&text)
                .map_err(|error| format!("{}: {}", error.value, error.bound))
        });
        match credentials {
            Some(credentials) => options.with_credentials(credentials),
            None => options,
        }
    }

    fn connections_per_host(&mut self) -> Option<usize> {
        let key = &keys::CONNECTIONS_PER_HOST;
        self.read(key, |text| {
            knob::slots(text).ok_or_else(|| format!("it must be {}", key.allowed()))
        })
    }

    /// Refuses one of two values that do not go together: the first, if it was given. Each comes
    /// with what it must be to the other.
    fn refuse_pair(&mut self, first: (&Key, &str), second: (&Key, &str)) {
        let is_given = self.values.get(first.0).is_some();
        let ((key, must), (other, _)) = if is_given { (first, second) } else { (second, first) };
        let other_is = match self.values.get(other) {
            Some(value) => format!("{} ({})", value.text, value.origin),
            None => format!("{} by default", other.default),
        };
        self.refuse(key, format!("{must} {}, which is {other_is}", other.name));
    }

    fn checkpoint_place(&mut self, credential: Option<&Credential>) -> Place {
        let asked = self.choice(&keys::CHECKPOINT_CREDENTIAL);
        let own = asked.and_then(|word| self.credential(word));
        let credential = own.as_ref().or(credential).cloned();
        let container =
            self.read(&keys::CHECKPOINT_CONTAINER, |text| Container::read(text, credential));
        let has_container = self.values.get(&keys::CHECKPOINT_CONTAINER).is_some();
        if has_container {
            let must = format!("not be given beside {}", keys::CHECKPOINT_CONTAINER.name);
            self.refuse(&keys::CHECKPOINT_FOLDER, must);
        }
        let is_signed = container.as_ref().is_some_and(Container::is_signed);
        if asked.is_some() && (is_signed || !has_container) {
            let must = format!("go with {} without a signature", keys::CHECKPOINT_CONTAINER.name);
            self.refuse(&keys::CHECKPOINT_CREDENTIAL, must);
        }
        let folder = self.values.get(&keys::CHECKPOINT_FOLDER).map(|value| value.text.as_str());
        match container {
            Some(container) => Place::Container(container),
            None => Place::Folder(folder.unwrap_or(keys::CHECKPOINT_FOLDER.default).into()),
        }
    }

    /// The value of a key, read; what is wrong with it is kept.
    fn read<T, E: std::fmt::Display>(
        &mut self,
        key: &Key,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.values.get(key)?;
        match read(&value.text) {
            Ok(read) => Some(read),
            Err(bound) => {
                self.problems.push(value.refused(key, bound));
                None
            }
        }
    }

    /// The value of a key that is one of several words.
    fn choice(&mut self, key: &Key) -> Option<&'static str> {
        let Kind::Choice(words) = key.kind else { return None };
        self.read(key, |text| {
            let word = words.iter().copied().find(|word| word.eq_ignore_ascii_case(text));
            word.ok_or_else(|| format!("it must be {}", key.allowed()))
        })
    }

    /// Refuses a value that was given.
    fn refuse(&mut self, key: &Key, must: impl std::fmt::Display) {
        if let Some(value) = self.values.get(key) {
            self.problems.push(value.refused(key, format!("it must {must}")));
        }
    }
}

fn given_problem(problems: &[Problem], key: &Key) -> bool {
    problems.iter().any(|problem| problem.key() == Some(key.name))
}

fn is_name(text: &str, most: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=most).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}
