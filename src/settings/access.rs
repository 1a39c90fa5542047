//! How a namespace lets us in: what its keys say, and whether that goes together.
//!
//! The keys are those of the namespace that all share, or those of a table `[namespaces.NAME]`.

use super::hub::Namespace;
use super::keys::{self, Key};
use super::problem::Problem;
use super::source::{Value, Values};
use super::tables::Table;
use super::value;
use super::{Access, TransportKind};
use crate::credential::{Credential, SecretAddress};

/// The keys of a namespace, with their values.
#[derive(Clone, Copy)]
pub(super) enum Door<'a> {
    Common(&'a Values),
    Table(&'a Table),
}

/// Where a token comes from, as a namespace is asked for it.
#[derive(Clone, Default)]
pub(super) struct Asked {
    /// The word that says so.
    pub(super) word: Option<&'static str>,
    /// `None` if it is not a token that opens the namespace.
    pub(super) credential: Option<Credential>,
}

impl<'a> Door<'a> {
    fn string(self) -> &'static Key {
        match self {
            Self::Common(_) => &keys::CONNECTION_STRING,
            Self::Table(_) => &keys::TABLE_STRING,
        }
    }

    fn secret(self) -> &'static Key {
        match self {
            Self::Common(_) => &keys::SECRET,
            Self::Table(_) => &keys::TABLE_SECRET,
        }
    }

    fn host(self) -> &'static Key {
        match self {
            Self::Common(_) => &keys::NAMESPACE,
            Self::Table(_) => &keys::TABLE_HOST,
        }
    }

    pub(super) fn credential(self) -> &'static Key {
        match self {
            Self::Common(_) => &keys::CREDENTIAL,
            Self::Table(_) => &keys::TABLE_CREDENTIAL,
        }
    }

    pub(super) fn get(self, key: &Key) -> Option<&'a Value> {
        match self {
            Self::Common(values) => values.get(key),
            Self::Table(table) => table.get(key),
        }
    }

    /// A key as somebody who sets it would write it.
    fn name(self, key: &Key) -> String {
        match self {
            Self::Common(_) => key.name.to_owned(),
            Self::Table(table) => table.path(key),
        }
    }

    pub(super) fn has_string(self) -> bool {
        self.get(self.string()).is_some()
    }

    /// Whether anything says which namespace it is.
    pub(super) fn is_given(self) -> bool {
        [self.string(), self.secret(), self.host()].iter().any(|key| self.get(key).is_some())
    }

    /// The value of a key, read; what is wrong with it is told.
    fn read<T>(
        self,
        key: &Key,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.get(key)?;
        read(&value.text).map_err(|bound| problems.push(value.refused(key, bound))).ok()
    }

    /// Refuses a value, if it is given.
    fn refuse(self, key: &Key, must: &str, problems: &mut Vec<Problem>) {
        if let Some(value) = self.get(key) {
            problems.push(value.refused(key, format!("it must {must}")));
        }
    }

    /// What to do with a host that stands where a connection string belongs.
    fn host_instead(self) -> String {
        let (host, credential) = (self.name(self.host()), self.name(self.credential()));
        format!("this is a host, not a connection string: set {host} and {credential}")
    }

    fn missing(self, key: &Key, why: &str, problems: &mut Vec<Problem>) {
        problems.push(Problem::missing_as(key, &self.name(key), why));
    }

    /// What the keys come to, with all that is wrong with them.
    pub(super) fn open(
        self,
        transport: TransportKind,
        asked: &Asked,
        problems: &mut Vec<Problem>,
    ) -> Access {
        let string = self.read(self.string(), problems, |text| {
            Namespace::from_connection_string(text).map_err(|error| match value::host(text) {
                Some(_) => self.host_instead(),
                None => error.bound,
            })
        });
        let secret = self.read(self.secret(), problems, |text| {
            SecretAddress::parse(text)
                .ok_or_else(|| format!("it must read {}", self.secret().allowed()))
        });
        let host = self.read(self.host(), problems, |text| {
            value::host(text).ok_or_else(|| match Namespace::from_connection_string(text) {
                Ok(_) => format!("this is a connection string: set {}", self.name(self.string())),
                Err(_) => format!("it must be {}", self.host().allowed()),
            })
        });
        if let (Some(string), Some(host)) = (&string, &host)
            && !string.host().eq_ignore_ascii_case(host)
        {
            let of = self.name(self.string());
            let must =
                format!("be the namespace of {of}, which is {}, or be left out", string.host());
            self.refuse(self.host(), &must, problems);
        }
        self.check(transport, asked, problems);
        let credential = asked.credential.clone();
        match (string, secret, host, credential) {
            (Some(namespace), _, _, _) => Access::Namespace(Box::new(namespace)),
            (None, Some(secret), _, Some(credential)) => Access::KeyVault { secret, credential },
            (None, None, Some(host), Some(credential)) => Access::EntraId { host, credential },
            _ => Access::None,
        }
    }

    /// Whether the keys that are given go together.
    fn check(self, transport: TransportKind, asked: &Asked, problems: &mut Vec<Problem>) {
        let (string, secret) = (self.name(self.string()), self.name(self.secret()));
        let (host, credential) = (self.name(self.host()), self.name(self.credential()));
        let given = |key| self.get(key).is_some();
        let (has_string, has_secret, has_host) =
            (given(self.string()), given(self.secret()), given(self.host()));
        if has_string && has_secret {
            self.refuse(self.secret(), &format!("not be given beside {string}"), problems);
        }
        if has_string && asked.credential.is_some() {
            let must = format!("be connection-string beside {string}");
            self.refuse(self.credential(), &must, problems);
        }
        if asked.word == Some("connection-string") && !has_string {
            self.refuse(self.credential(), &format!("go with {string}"), problems);
        }
        if (has_secret || has_host)
            && !has_string
            && asked.word.is_none()
            && !given(self.credential())
        {
            let opened = if has_secret { "the vault" } else { "the namespace" };
            let choices = "developer, managed-identity or workload-identity";
            let why = format!("say how to get into {opened}: {choices}");
            self.missing(self.credential(), &why, problems);
        }
        if !self.is_given() && transport == TransportKind::EventHubs {
            let why = format!(
                "set it to the connection string of the namespace or the hub; or set {credential}, \
                 together with {host} or {secret}"
            );
            self.missing(self.string(), &why, problems);
        }
    }
}
