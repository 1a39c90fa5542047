//! Fetches secrets from Azure Key Vault with the SDK's own client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::ClientOptions;
use azure_security_keyvault_secrets::models::SecretClientGetSecretOptions;
use azure_security_keyvault_secrets::{SecretClient, SecretClientOptions};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::{SecretAddress, SecretStore};
use crate::error::{Error, ErrorClass, Result};
use crate::secret::Secret;

/// How long fetching a secret may take, including the retries of the SDK: 60 s.
pub const DEFAULT_FETCH_TIMEOUT: Duration = Duration::from_secs(60);

const OPERATION: &str = "fetch the connection string from Key Vault";

/// Azure Key Vault, opened with a credential that may get secrets (the role Key Vault Secrets
/// User). The token goes to the vault only where its challenge names a resource of the same domain.
#[derive(Clone)]
pub struct KeyVault {
    credential: Arc<dyn TokenCredential>,
    client: ClientOptions,
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyVault").finish_non_exhaustive()
    }
}

impl KeyVault {
    /// Opens vaults with `credential`.
    pub fn new(credential: Arc<dyn TokenCredential>) -> Self {
        Self { credential, client: ClientOptions::default() }
    }

    async fn get(&self, address: &SecretAddress) -> azure_core::Result<Option<String>> {
        let options =
            SecretClientOptions { client_options: self.client.clone(), ..Default::default() };
        let client =
            SecretClient::new(address.vault(), Arc::clone(&self.credential), Some(options))?;
        let version = SecretClientGetSecretOptions {
            secret_version: address.version().map(str::to_owned),
            ..Default::default()
        };
        let secret = client.get_secret(address.name(), Some(version)).await?.into_model()?;
        Ok(secret.value)
    }
}

impl SecretStore for KeyVault {
    fn fetch<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<Secret>> {
        async move {
            match timeout(DEFAULT_FETCH_TIMEOUT, self.get(address)).await {
                Ok(Ok(Some(text))) => Ok(Secret::new(text)),
                Ok(Ok(None)) => {
                    let message = format!("{address} has no value");
                    Err(Error::new(ErrorClass::BadData, OPERATION, message))
                }
                Ok(Err(error)) => Err(classified(address, error)),
                Err(_elapsed) => {
                    let message = format!(
                        "{} did not answer within {} s",
                        address.vault(),
                        DEFAULT_FETCH_TIMEOUT.as_secs()
                    );
                    Err(Error::new(ErrorClass::Transient, OPERATION, message))
                }
            }
        }
        .boxed()
    }
}

fn classified(address: &SecretAddress, error: azure_core::Error) -> Error {
    let vault = address.vault();
    let (class, message) = match error.kind() {
        ErrorKind::HttpResponse { status, .. } => match u16::from(*status) {
            401 | 403 => (
                ErrorClass::Auth,
                format!(
                    "{vault} does not let this identity in; give it the role Key Vault Secrets \
                     User, and this network access"
                ),
            ),
            404 => (ErrorClass::Permanent, format!("there is no secret at {address}")),
            429 | 503 => (ErrorClass::Throttling, format!("{vault} is busy")),
            408 | 500 | 502 | 504 => (ErrorClass::Transient, format!("{vault} failed")),
            status => (ErrorClass::Unknown, format!("{vault} answered {status}")),
        },
        ErrorKind::Credential => (
            ErrorClass::Auth,
            "there is no token for it; check the credential and where it comes from".to_owned(),
        ),
        ErrorKind::Io | ErrorKind::Connection => (
            ErrorClass::Transient,
            format!("{vault} cannot be reached; check the name, the network and its private link"),
        ),
        _ => (ErrorClass::Unknown, format!("{vault} failed in a way that is not known")),
    };
    Error::new(class, OPERATION, message).with_source(error)
}

#[cfg(test)]
#[path = "key_vault_tests.rs"]
mod tests;
