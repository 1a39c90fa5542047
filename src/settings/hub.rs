//! What settings lead to at Event Hubs; without the feature `event-hubs`, what stands in its place.

#[cfg(feature = "event-hubs")]
pub(super) use crate::transport::event_hubs::{Namespace, Protocol};
#[cfg(feature = "event-hubs")]
pub(super) use crate::transport::tunnel::{Proxy, read_authorities};

#[cfg(not(feature = "event-hubs"))]
pub(super) use self::absent::{Namespace, Protocol, Proxy, read_authorities};

#[cfg(feature = "event-hubs")]
mod present {
    use std::sync::Arc;

    use crate::credential::SecretStore;
    use crate::dead_letter::DeadLetterSink;
    use crate::dead_letter::folder::FolderDeadLetterSink;
    use crate::dead_letter::hub::HubDeadLetterSink;
    use crate::dead_letter::store::StoreDeadLetterSink;
    use crate::error::{Error, ErrorClass, InvalidConfig};
    use crate::settings::{
        Access, DeadLetterPlace, ProxyAddress, Settings, Topic, Verification, keys,
    };
    use crate::transport::event_hubs::{EventHubsPublisher, Namespace};

    impl Settings {
        /// The namespace, ready to connect to. Nothing is connected here. The file of certificate authorities is
        /// read again.
        ///
        /// # Errors
        /// `Auth` if the credential cannot be opened. `Permanent` if the transport is not Event Hubs, if the
        /// connection string is in a vault and not [fetched](Self::fetched_from), if the file of authorities has
        /// changed, or if every topic has a namespace of its own.
        pub fn namespace(&self) -> Result<Namespace, Error> {
            self.opened(&self.access, self.proxy.as_ref())
        }

        /// The namespace of a topic, ready to connect to.
        ///
        /// # Errors
        /// As [`namespace`](Self::namespace).
        pub fn namespace_of(&self, topic: &Topic) -> Result<Namespace, Error> {
            let (access, proxy) = self.access_of(topic);
            self.opened(access, proxy)
        }

        /// Opens the sink of dead letters: the failure store, a folder, or a hub. A missing folder is created.
        /// Nothing is connected to a hub yet; a letter that is too large for it goes into the failure store. It
        /// blocks while it handles files.
        ///
        /// # Errors
        /// As [`namespace`](Self::namespace), and `Permanent` if the folder cannot be used.
        pub fn open_dead_letters(
            &self,
            place: &DeadLetterPlace,
        ) -> Result<Arc<dyn DeadLetterSink>, Error> {
            Ok(match place {
                DeadLetterPlace::Store(_) => Arc::new(self.store_of_letters()?),
                DeadLetterPlace::Folder(path) => Arc::new(FolderDeadLetterSink::open(path)?),
                DeadLetterPlace::Topic(topic) => {
                    let namespace = self.namespace_of(topic)?;
                    let publisher = EventHubsPublisher::new(namespace, topic.entity().clone());
                    let sink = HubDeadLetterSink::new(Arc::new(publisher));
                    Arc::new(sink.with_store(self.store_of_letters()?))
                }
            })
        }

        fn store_of_letters(&self) -> Result<StoreDeadLetterSink, Error> {
            let sink = StoreDeadLetterSink::new(self.open_failures()?);
            Ok(sink.with_body(self.letter_body()))
        }

        fn opened(
            &self,
            access: &Access,
            proxy: Option<&ProxyAddress>,
        ) -> Result<Namespace, Error> {
            let mut namespace = match access {
                Access::Namespace(namespace) => Namespace::clone(namespace),
                Access::EntraId { host, credential } => {
                    Namespace::with_credential(host, credential.open()?).map_err(unusable)?
                }
                Access::KeyVault { secret, .. } => {
                    let message = format!("it is in {secret}: fetch it first");
                    return Err(Error::new(ErrorClass::Permanent, NAMESPACE, message));
                }
                Access::None if !self.has_common_namespace() => {
                    let string = keys::CONNECTION_STRING.name;
                    let message = format!("each topic has one of its own, and {string} is not set");
                    return Err(Error::new(ErrorClass::Permanent, NAMESPACE, message));
                }
                Access::None => {
                    let message = format!(
                        "{} = memory names no hub; for a test without a network use testing::TestHub, \
                         otherwise set it to eventhub",
                        keys::TRANSPORT.name
                    );
                    return Err(Error::new(ErrorClass::Permanent, NAMESPACE, message));
                }
            };
            if let Some(protocol) = self.protocol {
                namespace = namespace.with_protocol(protocol);
            }
            if let Some(path) = &self.ca_file {
                namespace = namespace.with_certificate_authority_file(path).map_err(unusable)?;
            }
            if let Some(ProxyAddress(url)) = proxy {
                namespace = namespace.with_proxy(url.clone()).map_err(unusable)?;
            }
            Ok(match self.verification {
                Verification::On => namespace,
                Verification::Off => namespace.without_certificate_verification(),
            })
        }

        /// Fetches all connection strings that are in Azure Key Vault, those of tables as well. Other settings
        /// stay as they are.
        ///
        /// # Errors
        /// As [`SecretStore::fetch`]; and `Permanent` if a secret is not a connection string, or one of another
        /// hub than the settings name.
        #[cfg(feature = "key-vault")]
        pub async fn fetched(mut self) -> Result<Self, Error> {
            let named = self.topics.namespaces.keys().map(|name| Some(name.clone()));
            for name in std::iter::once(None).chain(named).collect::<Vec<_>>() {
                if let Access::KeyVault { credential, .. } = self.access_named(name.as_deref()) {
                    let vault = crate::credential::KeyVault::new(credential.open()?);
                    self.fetch(name.as_deref(), &vault).await?;
                }
            }
            Ok(self)
        }

        /// Fetches them from a secret store of your own.
        ///
        /// # Errors
        /// As [`SecretStore::fetch`]; and `Permanent` if a secret is not a connection string, or one of another
        /// hub than the settings name.
        pub async fn fetched_from(mut self, store: &dyn SecretStore) -> Result<Self, Error> {
            let named = self.topics.namespaces.keys().map(|name| Some(name.clone()));
            for name in std::iter::once(None).chain(named).collect::<Vec<_>>() {
                self.fetch(name.as_deref(), store).await?;
            }
            Ok(self)
        }

        fn access_named(&self, name: Option<&str>) -> &Access {
            let named = name.and_then(|name| self.topics.namespaces.get(name));
            named.map_or(&self.access, |named| &named.access)
        }

        /// Fetches the connection string of a namespace, if it is in a vault: that of a table, or
        /// that of all.
        async fn fetch(
            &mut self,
            name: Option<&str>,
            store: &dyn SecretStore,
        ) -> Result<(), Error> {
            const OPERATION: &str = "use the connection string of the vault";
            let Access::KeyVault { secret, .. } = self.access_named(name) else { return Ok(()) };
            let text = store.fetch(secret).await?;
            let namespace = Namespace::from_connection_string(text.reveal()).map_err(|error| {
                let message = format!("the secret {secret}: {}", error.bound);
                Error::new(ErrorClass::Permanent, OPERATION, message)
            })?;
            let path = namespace.entity_path();
            let problem = match name {
                Some(name) => self.topics.check(Some(name), path),
                None => {
                    let of_keys = self.entities.check(path).into_iter().next();
                    of_keys.or_else(|| self.topics.check(None, path))
                }
            };
            if let Some(problem) = problem {
                return Err(Error::new(ErrorClass::Permanent, OPERATION, problem.to_string()));
            }
            let access = Access::Namespace(Box::new(namespace));
            match name.and_then(|name| self.topics.namespaces.get_mut(name)) {
                Some(named) => named.access = access,
                None => self.access = access,
            }
            Ok(())
        }
    }

    const NAMESPACE: &str = "connect to Event Hubs";

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

        pub(in crate::settings) fn name(&self) -> &str {
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
