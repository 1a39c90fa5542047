//! From values as they were written to settings: each is checked alone, then with the others.

use std::path::{Path, PathBuf};

use super::access::{Asked, Door};
use super::entities::Entities;
use super::failures::Failures;
use super::files::is_address;
use super::hub::{Protocol, read_authorities};
use super::keys::{self, Key, Section};
use super::knob::{self, Kind};
use super::problem::{Problem, SettingsError};
use super::proxy::read_proxy;
use super::source::{Value, Values};
use super::stores::{Container, Place};
use super::topics::{Topics, read_namespaces, read_topics};
use super::value::is_name;
use super::worker::read_workers;
use super::{Access, Settings, TransportKind, Verification, value};
use crate::config::{
    ConsumerOptions, Credentials, DownloadLimits, ExistingFiles, HttpOptions, HttpProxy,
    LeaseOptions, PrivateAddresses, RateLimits, Redirects, Schemes,
};
use crate::credential::Credential;
use crate::dead_letter::store::LetterBody;
use crate::event::ConsumerGroup;
use crate::named_file::{self, MOST_CONFIGURATION_BYTES};

/// Most characters of the name of a consumer group.
const MAX_GROUP_CHARS: usize = 50;

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
        let word = self.choice(&keys::CREDENTIAL);
        let credential = word.and_then(|word| self.values.credential(word));
        let asked = Asked { word, credential };
        let place = self.checkpoint_place(asked.credential.as_ref());
        let failures = self.failures(asked.credential.as_ref(), &place);
        let access = self.access(transport, &asked);
        let entities = Entities::read(&self.values, &mut self.problems);
        self.problems.extend(entities.check(access.entity_path()));
        let consumer_group = self.consumer_group();
        let protocol = self.protocol();
        let ca_file = self.ca_file();
        let proxy = read_proxy(&self.values, &access, protocol, &mut self.problems);
        let topics = self.topics(transport, &asked, &access, protocol);
        let workers = read_workers(
            &self.values.tables,
            &topics,
            asked.credential.as_ref(),
            &mut self.problems,
        );
        let verification = self.verification();
        let consumer_options = self.consumer_options();
        let lease_options = self.lease_options();
        let rate_limits = self.rate_limits();
        let connections_per_host = self.connections_per_host();
        let download_limits = self.download_limits();
        let http_options = self.http_options();
        let schemes = match self.choice(&keys::DOWNLOAD_SCHEMES) {
            Some("http-and-https") => Schemes::HttpAndHttps,
            _ => Schemes::HttpsOnly,
        };
        let private_addresses = match self.choice(&keys::DOWNLOAD_PRIVATE_ADDRESSES) {
            Some("allow") => PrivateAddresses::Allow,
            _ => PrivateAddresses::Refuse,
        };
        let existing_files = match self.choice(&keys::DOWNLOAD_EXISTING) {
            Some("verify") => ExistingFiles::Verify,
            Some("skip") => ExistingFiles::Skip,
            _ => ExistingFiles::Replace,
        };
        let has_handler_timeout = self.values.is_given("LONGSHORE_HANDLER_TIMEOUT");
        let has_slots = self.values.is_given("LONGSHORE_MAX_EVENTS_IN_FLIGHT");
        let has_park_after = self.values.is_given("LONGSHORE_PARK_AFTER");
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
            proxy,
            topics,
            workers,
            verification,
            consumer_options,
            place,
            failures,
            lease_options,
            rate_limits,
            connections_per_host,
            download_limits,
            http_options,
            schemes,
            private_addresses,
            existing_files,
            has_handler_timeout,
            has_slots,
            has_park_after,
            warnings: self.values.warnings,
        })
    }

    /// How the namespace that all share lets us in. Where every topic may have its own, nothing needs
    /// to say so.
    fn access(&mut self, transport: TransportKind, asked: &Asked) -> Access {
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
        let door = Door::Common(&self.values);
        let others = self.values.tables.of(Section::Namespaces).next().is_some();
        if others && !door.is_given() {
            return Access::None;
        }
        door.open(transport, asked, &mut self.problems)
    }

    fn topics(
        &mut self,
        transport: TransportKind,
        asked: &Asked,
        access: &Access,
        protocol: Option<Protocol>,
    ) -> Topics {
        let (values, problems) = (&self.values, &mut self.problems);
        if cfg!(not(feature = "event-hubs")) {
            return Topics::default();
        }
        let own = |value: &Value| -> Result<Asked, Problem> {
            let word = choice_of(&keys::TABLE_CREDENTIAL, &value.text)
                .map_err(|bound| value.refused(&keys::TABLE_CREDENTIAL, bound))?;
            Ok(Asked { word: Some(word), credential: values.credential(word) })
        };
        let proxy = |access: &Access, problems: &mut Vec<Problem>| {
            read_proxy(values, access, protocol, problems)
        };
        let namespaces = read_namespaces(&values.tables, transport, asked, problems, own, proxy);
        // Where none is named at all, that was said.
        let has_common = Door::Common(values).is_given()
            || namespaces.is_empty()
            || transport == TransportKind::Memory;
        let common = has_common.then_some(access);
        read_topics(&values.tables, namespaces, common, problems)
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
                "be false if {} = {} ({}): trust a private certificate authority with {}",
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
            let text = named_file::read_text(Path::new(path), MOST_CONFIGURATION_BYTES)
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
        let own = asked.and_then(|word| self.values.credential(word));
        let credential = own.as_ref().or(credential).cloned();
        let container = self.read(&keys::CHECKPOINT_CONTAINER, |text| {
            Container::read(text, credential, &keys::CHECKPOINT_CREDENTIAL)
        });
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

    /// Where failures are kept.
    fn failures(&mut self, credential: Option<&Credential>, checkpoints: &Place) -> Failures {
        let is_secret =
            self.values.get(&keys::FAILURES).is_some_and(|value| is_address(&value.text));
        let key = Key { is_secret, ..keys::FAILURES };
        let place = self.read(&key, |text| Failures::read_place(text, credential));
        let body = match self.choice(&keys::LETTER_BODY) {
            Some("omit") => LetterBody::Omit,
            _ => LetterBody::Keep,
        };
        Failures::new(place, checkpoints, body)
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
        self.read(key, |text| choice_of(key, text))
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

/// A value of a key that is one of several words.
///
/// # Errors
/// What it must be.
pub(super) fn choice_of(key: &Key, text: &str) -> Result<&'static str, String> {
    let Kind::Choice(words) = key.kind else { return Err(format!("{} is no choice", key.name)) };
    let word = words.iter().copied().find(|word| value::is_word(text, word));
    word.ok_or_else(|| format!("it must be {}", key.allowed()))
}
