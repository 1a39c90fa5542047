//! The SDK's client up to its HTTP client, behind which a vault stands.

use std::sync::Mutex;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenRequestOptions};
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, HttpClient, Request, RetryOptions, StatusCode, Transport,
};
use azure_core::time::OffsetDateTime;

use super::*;

#[derive(Debug, Default)]
struct Identity(Mutex<Vec<String>>);

#[async_trait]
impl TokenCredential for Identity {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.0.lock().unwrap().extend(scopes.iter().map(|scope| (*scope).to_owned()));
        Ok(AccessToken::new("canary-token", OffsetDateTime::now_utc() + Duration::from_secs(3600)))
    }
}

/// Challenges whoever has no token, and then gives one answer.
#[derive(Debug)]
struct Vault {
    status: u16,
    body: &'static str,
    asked: Mutex<Vec<String>>,
}

#[async_trait]
impl HttpClient for Vault {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        self.asked.lock().unwrap().push(request.url().to_string());
        let token = request.headers().iter().find(|(name, _)| name.as_str() == "authorization");
        let mut headers = Headers::new();
        if token.is_none_or(|(_, token)| token.as_str() != "Bearer canary-token") {
            headers.insert(
                "www-authenticate",
                "Bearer authorization=\"https://login.microsoftonline.com/t\", \
                 resource=\"https://vault.azure.net\"",
            );
            return Ok(AsyncRawResponse::from_bytes(StatusCode::Unauthorized, headers, ""));
        }
        let status = StatusCode::from(self.status);
        Ok(AsyncRawResponse::from_bytes(status, headers, self.body))
    }
}

async fn fetch(status: u16, body: &'static str) -> (Result<Secret>, Arc<Vault>, Arc<Identity>) {
    let identity = Arc::new(Identity::default());
    let vault = Arc::new(Vault { status, body, asked: Mutex::default() });
    let client = ClientOptions {
        transport: Some(Transport::new(vault.clone())),
        retry: RetryOptions::none(),
        ..ClientOptions::default()
    };
    let store = KeyVault { credential: identity.clone(), client };
    let address = SecretAddress::parse("https://v.vault.azure.net/secrets/hub/7").unwrap();
    (store.fetch(&address).await, vault, identity)
}

#[tokio::test]
async fn a_secret_is_fetched_with_a_token_for_the_vault() {
    let (secret, vault, identity) = fetch(200, r#"{"value": "Endpoint=canary"}"#).await;
    assert_eq!(secret.unwrap().reveal(), "Endpoint=canary");
    assert_eq!(*identity.0.lock().unwrap(), ["https://vault.azure.net/.default"]);
    let asked = vault.asked.lock().unwrap();
    assert_eq!(asked.len(), 2, "once to be challenged, once with the token: {asked:?}");
    assert!(asked.iter().all(|url| url.starts_with("https://v.vault.azure.net/secrets/hub/7?")));
}

#[tokio::test]
async fn an_answer_that_is_no_secret_has_a_class_and_says_what_to_do() {
    for (status, body, class, said) in [
        (403, "{}", ErrorClass::Auth, "Key Vault Secrets User"),
        (404, "{}", ErrorClass::Permanent, "https://v.vault.azure.net/secrets/hub/7"),
        (429, "{}", ErrorClass::Throttling, "is busy"),
        (503, "{}", ErrorClass::Throttling, "is busy"),
        (500, "{}", ErrorClass::Transient, "failed"),
        (418, "{}", ErrorClass::Unknown, "418"),
        (200, "{}", ErrorClass::BadData, "has no value"),
    ] {
        let (fetched, ..) = fetch(status, body).await;
        let error = fetched.unwrap_err();
        assert_eq!(error.class(), class, "{status}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
