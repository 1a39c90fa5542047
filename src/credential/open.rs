//! Opens a credential with the Azure SDK.

use std::sync::Arc;

use azure_core::credentials::TokenCredential;

use super::Credential;
use crate::error::{Error, ErrorClass, Result};

impl Credential {
    /// Makes ready to get tokens. Nothing is asked of anybody yet.
    ///
    /// # Errors
    /// `Auth` if something that the credential needs is not there; `Permanent` if the crate
    /// was built without the feature `identity`.
    pub fn open(&self) -> Result<Arc<dyn TokenCredential>> {
        self.open_with_identity()
    }

    #[cfg(feature = "identity")]
    fn open_with_identity(&self) -> Result<Arc<dyn TokenCredential>> {
        use azure_identity::{
            DeveloperToolsCredential, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
            UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
        };

        let opened: azure_core::Result<Arc<dyn TokenCredential>> = match self.clone() {
            Self::Developer => {
                DeveloperToolsCredential::new(None).map(|credential| credential as _)
            }
            Self::ManagedIdentity { client_id } => {
                let options = ManagedIdentityCredentialOptions {
                    user_assigned_id: client_id.map(UserAssignedId::ClientId),
                    ..Default::default()
                };
                ManagedIdentityCredential::new(Some(options)).map(|credential| credential as _)
            }
            Self::WorkloadIdentity { client_id, tenant_id, token_file } => {
                let options = WorkloadIdentityCredentialOptions {
                    client_id,
                    tenant_id,
                    token_file_path: token_file,
                    ..Default::default()
                };
                WorkloadIdentityCredential::new(Some(options)).map(|credential| credential as _)
            }
        };
        opened.map_err(|error| {
            let message = "something that it needs is not there";
            Error::new(ErrorClass::Auth, OPEN, message).with_source(error)
        })
    }

    #[cfg(not(feature = "identity"))]
    fn open_with_identity(&self) -> Result<Arc<dyn TokenCredential>> {
        let message = "this was built without the feature identity";
        Err(Error::new(ErrorClass::Permanent, OPEN, message))
    }
}

const OPEN: &str = "open the credential";
