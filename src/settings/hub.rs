//! What settings lead to at Event Hubs; without the feature `event-hubs`, what stands in its place.

#[cfg(feature = "event-hubs")]
pub(super) use crate::transport::event_hubs::{Namespace, Protocol};
#[cfg(feature = "event-hubs")]
pub(super) use crate::transport::tunnel::{Proxy, read_authorities};

#[cfg(not(feature = "event-hubs"))]
pub(super) use self::absent::{Namespace, Protocol, Proxy, read_authorities};

#[cfg(feature = "event-hubs")]
mod present {
    use crate::credential::SecretStore;
    use crate::error::{Error, ErrorClass, InvalidConfig};
    use crate::settings::{Access, ProxyAddress, Settings, Verification, keys};
    use crate::transport::event_hubs::Namespace;

    impl Settings {
        /// The namespace, ready to connect to. Nothing is connected here; the file of authorities is
        /// read again.
        ///
        /// # Errors
        /// `Auth` where the credential cannot be opened. `Permanent` where the transport is not Event
        /// Hubs, where the connection string is in a vault and not [fetched](Self::fetched_from), and
        /// where that file has changed.
        pub fn namespace(&self) -> Result<Namespace, Error> {
            let mut namespace = match &self.access {
                Access::Namespace(namespace) => Namespace::clone(namespace),
                Access::EntraId { host, credential } => {
                    Namespace::with_credential(host, credential.open()?).map_err(unusable)?
                }
                Access::KeyVault { secret, .. } => {
                    let message = format!("it is in {secret}: fetch it first");
                    return Err(Error::new(ErrorClass::Permanent, NAMESPACE, message));
                }
                Access::None => {
                    let message =
                        format!("{} = memory has none to connect to", keys::TRANSPORT.name);
                    return Err(Error::new(ErrorClass::Permanent, NAMESPACE, message));
                }
            };
            if let Some(protocol) = self.protocol {
                namespace = namespace.with_protocol(protocol);
            }
            if let Some(path) = &self.ca_file {
                namespace = namespace.with_certificate_authority_file(path).map_err(unusable)?;
            }
            if let Some(ProxyAddress(url)) = &self.proxy {
                namespace = namespace.with_proxy(url.clone()).map_err(unusable)?;
            }
            Ok(match self.verification {
                Verification::On => namespace,
                Verification::Off => namespace.without_certificate_verification(),
            })
        }

        /// The settings with the connection string that is in Azure Key Vault, where they name one
        /// there; else as they are.
        ///
        /// # Errors
        /// As [`SecretStore::fetch`]; and `Permanent` where the secret is no connection string, or one
        /// of another hub than the settings name.
        #[cfg(feature = "key-vault")]
        pub async fn fetched(self) -> Result<Self, Error> {
            match &self.access {
                Access::KeyVault { credential, .. } => {
                    let vault = crate::credential::KeyVault::new(credential.open()?);
                    self.fetched_from(&vault).await
                }
                _ => Ok(self),
            }
        }

        /// The same, from a store of one's own.
        ///
        /// # Errors
        /// As [`SecretStore::fetch`]; and `Permanent` where the secret is no connection string, or one
        /// of another hub than the settings name.
        pub async fn fetched_from(mut self, store: &dyn SecretStore) -> Result<Self, Error> {
            const OPERATION: &str = "use the connection string of the vault";
            let Access::KeyVault { secret, .. } = &self.access else { return Ok(self) };
            let text = store.fetch(secret).await?;
            let namespace = Namespace::from_connection_string(text.reveal()).map_err(|error| {
                let message = format!("the secret {secret}: {}", error.bound);
                Error::new(ErrorClass::Permanent, OPERATION, message)
            })?;
            if let Some(problem) = self.entities.check(namespace.entity_path()).first() {
                return Err(Error::new(ErrorClass::Permanent, OPERATION, problem.to_string()));
            }
            self.access = Access::Namespace(Box::new(namespace));
            Ok(self)
        }
    }

    const NAMESPACE: &str = "name the namespace";

    fn unusable(error: InvalidConfig) -> Error {
        Error::new(ErrorClass::Permanent, NAMESPACE, error.to_string())
    }
}

#[cfg(not(feature = "event-hubs"))]
mod absent {
    use std::path::Path;

    use url::Url;

    use crate::error::InvalidConfig;

    /// There is none without the feature `event-hubs`.
    #[derive(Clone, Debug)]
    pub(in crate::settings) enum Namespace {}

    impl Namespace {
        pub(in crate::settings) fn from_connection_string(
            text: &str,
        ) -> Result<Self, InvalidConfig> {
            let _secret = text;
            Err(InvalidConfig::new(
                "connection string",
                "(hidden)",
                "the feature event-hubs is missing",
            ))
        }

        pub(in crate::settings) fn host(&self) -> &str {
            match *self {}
        }

        pub(in crate::settings) fn protocol(&self) -> Protocol {
            match *self {}
        }

        pub(in crate::settings) fn entity_path(&self) -> Option<&str> {
            match *self {}
        }
    }

    /// Read, so that its words are checked.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(in crate::settings) enum Protocol {
        Tcp,
        #[default]
        WebSocket,
    }

    /// An address whose parts are not judged further.
    pub(in crate::settings) struct Proxy;

    impl Proxy {
        pub(in crate::settings) fn from_url(_: &Url) -> Result<Self, InvalidConfig> {
            Ok(Self)
        }
    }

    /// Nothing is connected to, so nobody need be trusted.
    pub(in crate::settings) fn read_authorities(_: &Path) -> Result<(), InvalidConfig> {
        Ok(())
    }
}
