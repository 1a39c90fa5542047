//! The identity that we show to Microsoft Entra ID, and the place of a secret. Both are data until they are opened
//! or fetched, so settings can be checked without the crates that do that.

#[cfg(feature = "key-vault")]
mod key_vault;
#[cfg(any(feature = "event-hubs", feature = "blob", feature = "identity", feature = "key-vault"))]
mod open;

use std::fmt;
use std::path::PathBuf;

use futures::future::BoxFuture;
use url::{Host, Url};

#[cfg(feature = "key-vault")]
pub use key_vault::{DEFAULT_FETCH_TIMEOUT, KeyVault};

use crate::error::Result;
use crate::secret::Secret;

/// Where a token for Microsoft Entra ID comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Credential {
    /// The account that the Azure CLI or the Azure Developer CLI is signed in with.
    Developer,
    /// The identity of the machine or container.
    ManagedIdentity {
        /// A user-assigned identity. Default: the system-assigned one.
        client_id: Option<String>,
    },
    /// A token that Kubernetes keeps in a file. What is `None` comes from the `AZURE_` variables
    /// of the process.
    WorkloadIdentity {
        /// The application.
        client_id: Option<String>,
        /// Its tenant.
        tenant_id: Option<String>,
        /// The file with the token.
        token_file: Option<PathBuf>,
    },
}

/// Where secrets are fetched from: Azure Key Vault, or what a test has instead.
pub trait SecretStore: Send + Sync + fmt::Debug {
    /// Fetches a secret.
    ///
    /// # Errors
    /// `Auth` if the store does not let us in, `Permanent` if there is no such secret,
    /// and what a network gives.
    fn fetch<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<Secret>>;
}

/// The address of a secret in Azure Key Vault; not itself secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretAddress {
    vault: Url,
    name: String,
    version: Option<String>,
}

impl SecretAddress {
    /// Reads `https://VAULT.vault.azure.net/secrets/NAME`, with or without `/VERSION`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut vault = Url::parse(text).ok()?;
        let plain = vault.scheme() == "https"
            && matches!(vault.host(), Some(Host::Domain(_)))
            && vault.username().is_empty()
            && vault.password().is_none()
            && vault.query().is_none()
            && vault.fragment().is_none();
        let named = |part: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=127).contains(&part.len()) && part.bytes().all(allowed)
        };
        let parts: Vec<&str> = vault.path_segments()?.filter(|part| !part.is_empty()).collect();
        let (name, version) = match parts.as_slice() {
            ["secrets", name] => (*name, None),
            ["secrets", name, version] => (*name, Some(*version)),
            _ => return None,
        };
        if !plain || !named(name) || !version.is_none_or(named) {
            return None;
        }
        let (name, version) = (name.to_owned(), version.map(str::to_owned));
        vault.set_path("");
        Some(Self { vault, name, version })
    }

    /// The address of the vault.
    pub fn vault(&self) -> &str {
        self.vault.as_str()
    }

    /// The name of the secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version; `None` is the latest.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

impl fmt::Display for SecretAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}secrets/{}", self.vault, self.name)?;
        self.version.iter().try_for_each(|version| write!(f, "/{version}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_in_a_vault_and_has_a_name() {
        for text in
            ["https://v.vault.azure.net/secrets/hub-key", "https://v.vault.azure.net/secrets/a/0f1"]
        {
            let address = SecretAddress::parse(text).expect(text);
            assert_eq!(address.vault(), "https://v.vault.azure.net/");
            assert_eq!(address.to_string(), text);
        }
        for wrong in [
            "http://v.vault.azure.net/secrets/a",
            "https://v.vault.azure.net/keys/a",
            "https://v.vault.azure.net/secrets/",
            "https://v.vault.azure.net/secrets/a/b/c",
            "https://v.vault.azure.net/secrets/a%2Fb",
            "https://user@v.vault.azure.net/secrets/a",
            "https://10.0.0.1/secrets/a",
            "v.vault.azure.net/secrets/a",
            "",
        ] {
            assert_eq!(SecretAddress::parse(wrong), None, "{wrong}");
        }
    }
}
