//! A credential of the Event Hubs SDK's core, for the older core under Blob Storage's client.

use std::fmt;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core_of_blob::credentials::{
    AccessToken, TokenCredential as BlobTokenCredential, TokenRequestOptions,
};
use azure_core_of_blob::error::ErrorKind;

/// Passes requests for tokens on. Goes when both clients stand on one core.
pub(crate) struct Adapted(pub(crate) Arc<dyn TokenCredential>);

impl fmt::Debug for Adapted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapted").finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl BlobTokenCredential for Adapted {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core_of_blob::Result<AccessToken> {
        let token = self
            .0
            .get_token(scopes, None)
            .await
            .map_err(|error| azure_core_of_blob::Error::new(ErrorKind::Credential, error))?;
        Ok(AccessToken::new(token.token.secret().to_owned(), token.expires_on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed;

    #[async_trait::async_trait]
    impl TokenCredential for Fixed {
        async fn get_token(
            &self,
            scopes: &[&str],
            _: Option<azure_core::credentials::TokenRequestOptions<'_>>,
        ) -> azure_core::Result<azure_core::credentials::AccessToken> {
            let expires_on = time::OffsetDateTime::UNIX_EPOCH;
            match scopes {
                ["refused"] => Err(azure_core::Error::with_message(
                    azure_core::error::ErrorKind::Credential,
                    "no login",
                )),
                _ => Ok(azure_core::credentials::AccessToken::new(scopes.join(" "), expires_on)),
            }
        }
    }

    #[tokio::test]
    async fn scopes_tokens_and_refusals_pass_through() {
        let adapted = Adapted(Arc::new(Fixed));
        let token = adapted.get_token(&["a", "b"], None).await.expect("a token");
        assert_eq!(token.token.secret(), "a b");
        assert_eq!(token.expires_on, time::OffsetDateTime::UNIX_EPOCH);
        let refused = adapted.get_token(&["refused"], None).await.expect_err("refused");
        assert_eq!(refused.kind(), &ErrorKind::Credential);
        assert!(crate::error::error_chain(&refused).concat().contains("no login"));
    }
}
