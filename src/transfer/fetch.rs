//! HTTP for files from URLs that are not trusted.
//!
//! A host is resolved by the [`UrlPolicy`], and connections go to the addresses it returned
//! and to no others: the client's own resolver knows nothing but those. No redirects, no
//! proxy from the environment, no decompression, so that what is counted is what is stored.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT_ENCODING, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::{Instant, timeout};
use url::Url;

use super::limits::DownloadLimits;
use super::rates::Rates;
use super::url_policy::{UrlPolicy, UrlRefused, redacted};
use crate::error::{Error, ErrorClass};
use crate::outcome::{Failure, Outcome};

/// How long an answer of the resolver is used for further files of the same host.
const RESOLVED_FOR: Duration = Duration::from_secs(30);

/// Most hosts remembered at once; beyond that, those whose time is up are forgotten, then all.
const MAX_PINNED_HOSTS: usize = 4_096;

/// The longest wait a server may ask for in `Retry-After`; its events hold the window meanwhile.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// The wait where a server is busy and names none, and the shortest where it does.
const MIN_THROTTLING_WAIT: Duration = Duration::from_secs(4);

/// Fetches what the policy allows.
pub(super) struct Fetcher {
    policy: UrlPolicy,
    resolve_timeout: Duration,
    read_timeout: Duration,
    /// Plain and TLS apart: an address that is good for one scheme may be refused for the other.
    http: Pinned,
    https: Pinned,
}

struct Pinned {
    client: Client,
    pins: Arc<Pins>,
}

/// The addresses each host may be reached at.
#[derive(Debug, Default)]
struct Pins(Mutex<HashMap<String, Pin>>);

#[derive(Debug)]
struct Pin {
    addresses: Vec<SocketAddr>,
    until: Instant,
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, host: &str) -> bool {
        self.lock().get(host).is_some_and(|pin| pin.until > Instant::now())
    }

    fn set(&self, host: &str, addresses: Vec<SocketAddr>) {
        let now = Instant::now();
        let mut pins = self.lock();
        if pins.len() >= MAX_PINNED_HOSTS {
            pins.retain(|_, pin| pin.until > now);
        }
        if pins.len() >= MAX_PINNED_HOSTS {
            pins.clear();
        }
        pins.insert(host.to_owned(), Pin { addresses, until: now + RESOLVED_FOR });
    }
}

struct PinnedResolver(Arc<Pins>);

impl Resolve for PinnedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = self.0.lock().get(name.as_str()).map(|pin| pin.addresses.clone());
        Box::pin(async move {
            match addresses {
                Some(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
                None => Err("the host was not resolved under the policy".into()),
            }
        })
    }
}

impl Pinned {
    fn new(limits: &DownloadLimits) -> Result<Self, Error> {
        let pins = Arc::new(Pins::default());
        let client = Client::builder()
            .dns_resolver(Arc::new(PinnedResolver(Arc::clone(&pins))))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .connect_timeout(limits.connect_timeout)
            .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                Error::new(ErrorClass::Permanent, "build the HTTP client", "TLS cannot be set up")
                    .with_source(error)
            })?;
        Ok(Self { client, pins })
    }
}

impl Fetcher {
    pub(super) fn new(policy: UrlPolicy, limits: &DownloadLimits) -> Result<Self, Error> {
        Ok(Self {
            policy,
            resolve_timeout: limits.connect_timeout,
            read_timeout: limits.read_timeout,
            http: Pinned::new(limits)?,
            https: Pinned::new(limits)?,
        })
    }

    /// Asks for the file when the rates let it; `Ok` is an answer whose body is the file.
    ///
    /// # Errors
    /// What becomes of the task instead.
    pub(super) async fn get(
        &self,
        url: &Url,
        host_name: &Arc<str>,
        rates: &Rates,
    ) -> Result<Response, Outcome> {
        let pinned = if url.scheme() == "https" { &self.https } else { &self.http };
        let host = self.policy.check_url(url).map_err(refused)?.url().host_str().map(str::to_owned);
        if let Some(host) = host
            && !pinned.pins.knows(&host)
        {
            let resolving = timeout(self.resolve_timeout, self.policy.resolve(url));
            let addresses = resolving
                .await
                .map_err(|_elapsed| {
                    Outcome::retry(Failure::transient(format!(
                        "{}: the host name was not resolved in time",
                        redacted(url)
                    )))
                })?
                .map_err(refused)?;
            pinned.pins.set(&host, addresses);
        }
        let request = pinned
            .client
            .get(url.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        rates.begin(host_name).await?;
        let response = timeout(self.read_timeout, request.send())
            .await
            .map_err(|_elapsed| silent(url, "no answer", self.read_timeout))?
            .map_err(|error| failed(url, "no answer", error))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => {
                let named = retry_after(response.headers(), SystemTime::now());
                Err(answered(url, status, named))
            }
        }
    }
}

fn refused(refused: UrlRefused) -> Outcome {
    let failure = Failure::from_error(refused.class(), &refused);
    if failure.class.is_retryable() {
        Outcome::retry(failure)
    } else {
        Outcome::DeadLetter(failure)
    }
}

/// What an answer that is not the file means (the HTTP column of the classification).
///
/// A server that names a time is left alone until then: that says nothing against the task, so
/// its lane is closed and no attempt is used up. One that is busy for ever and names none uses up
/// the attempts of its tasks.
fn answered(url: &Url, status: StatusCode, named: Option<Duration>) -> Outcome {
    let from = redacted(url);
    let failure = |class| Failure::new(class, format!("{from}: the server answered {status}"));
    match (status.as_u16(), named) {
        (429 | 503, Some(wait)) => {
            let wait = wait.clamp(MIN_THROTTLING_WAIT, MAX_RETRY_AFTER);
            Outcome::close_lane(wait, failure(ErrorClass::Throttling))
        }
        (429 | 503, None) => {
            Outcome::retry_after(MIN_THROTTLING_WAIT, failure(ErrorClass::Throttling))
        }
        (408 | 500 | 502 | 504, _) => Outcome::retry(failure(ErrorClass::Transient)),
        (300..=399, _) => Outcome::dead_letter(Failure::permanent(format!(
            "{from}: the server answered {status}, and redirects are not followed; \
             use the final URL"
        ))),
        _ => Outcome::dead_letter(failure(ErrorClass::Permanent)),
    }
}

/// How long a server wants to be left alone: it names seconds, or a time, which is one of its own
/// clock where it tells it.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let time = |text: &str| OffsetDateTime::parse(text, &Rfc2822).ok().map(SystemTime::from);
    let named = text(RETRY_AFTER)?;
    if named.bytes().all(|byte| byte.is_ascii_digit()) && !named.is_empty() {
        // More than a number holds is long.
        return Some(named.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs));
    }
    let now = text(DATE).and_then(time).unwrap_or(now);
    // A time that is past is no wait.
    Some(time(named)?.duration_since(now).unwrap_or_default())
}

/// What it means that nothing comes any more.
pub(super) fn silent(url: &Url, what: &str, waited: Duration) -> Outcome {
    let message = format!("{}: {what} in {} s", redacted(url), waited.as_secs_f64());
    Outcome::retry(Failure::transient(message))
}

/// What a request or a body that broke off means. The URL is taken out of the error: its query
/// may be a secret.
pub(super) fn failed(url: &Url, what: &str, error: reqwest::Error) -> Outcome {
    let error = error.without_url();
    let class = if error.is_builder() { ErrorClass::Permanent } else { ErrorClass::Transient };
    let failure = Failure::new(class, format!("{}: {what}", redacted(url))).caused_by(&error);
    if class.is_retryable() { Outcome::retry(failure) } else { Outcome::DeadLetter(failure) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use axum::Router;
    use axum::extract::Path;
    use axum::http::HeaderMap;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;
    use crate::outcome::RetryDelay;
    use crate::transfer::url_policy::PrivateAddresses;

    /// A server that answers with the status its path names and asks for the wait in its query.
    async fn server() -> String {
        let answer = async |Path((status, wait)): Path<(u16, String)>| {
            let mut headers = HeaderMap::new();
            if wait != "none" {
                headers.insert("retry-after", wait.parse().unwrap());
            }
            (StatusCode::from_u16(status).unwrap(), headers)
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/{status}/{wait}", get(answer));
        tokio::spawn(async { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn fetcher() -> Fetcher {
        let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
        Fetcher::new(policy, &DownloadLimits::default()).unwrap()
    }

    async fn outcome(url: &str) -> Outcome {
        let host = "127.0.0.1".into();
        fetcher().get(&Url::parse(url).unwrap(), &host, &Rates::default()).await.unwrap_err()
    }

    #[tokio::test]
    async fn each_status_means_what_the_table_says() {
        let server = server().await;
        for status in [408, 500, 502, 504] {
            match outcome(&format!("{server}/{status}/none")).await {
                Outcome::Retry(retry) => {
                    assert_eq!(retry.failure.class, ErrorClass::Transient, "{status}");
                    assert_eq!(retry.delay, RetryDelay::Backoff, "{status}");
                }
                other => panic!("{status}: {other:?}"),
            }
        }
        for status in [429, 503] {
            let closes = |seconds| RetryDelay::LaneCloses(Duration::from_secs(seconds));
            let unnamed = RetryDelay::After(MIN_THROTTLING_WAIT);
            for (asked, delay) in [
                ("none", unnamed),
                ("soon", unnamed),
                ("-1", unnamed),
                ("0", closes(4)),
                ("1", closes(4)),
                ("60", closes(60)),
                ("86400", closes(3_600)),
                ("99999999999999999999999", closes(3_600)),
                ("Sun, 06 Nov 1994 08:49:37 GMT", closes(4)),
                ("Sun, 06 Nov 2094 08:49:37 GMT", closes(3_600)),
            ] {
                match outcome(&format!("{server}/{status}/{asked}")).await {
                    Outcome::Retry(retry) => {
                        assert_eq!(retry.failure.class, ErrorClass::Throttling, "{status}");
                        assert_eq!(retry.delay, delay, "{status}, asked for {asked}");
                    }
                    other => panic!("{status}: {other:?}"),
                }
            }
        }
        for status in [204, 206, 301, 307, 400, 401, 403, 404, 410, 416, 451, 501] {
            match outcome(&format!("{server}/{status}/none")).await {
                Outcome::DeadLetter(failure) => {
                    assert_eq!(failure.class, ErrorClass::Permanent, "{status}");
                }
                other => panic!("{status}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_time_that_a_server_names_is_one_of_its_own_clock() {
        let headers = |all: &[(HeaderName, &str)]| -> HeaderMap {
            all.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
        };
        let named = (RETRY_AFTER, "Sun, 06 Nov 1994 08:50:07 GMT");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let thirty = Some(Duration::from_secs(30));
        assert_eq!(retry_after(&headers(std::slice::from_ref(&named)), at), thirty);
        let both = headers(&[named, (DATE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        assert_eq!(retry_after(&both, SystemTime::now()), thirty);
        assert_eq!(retry_after(&headers(&[(RETRY_AFTER, "")]), at), None);
        assert_eq!(retry_after(&headers(&[]), at), None);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_transient_and_what_is_no_url_is_permanent() {
        let gone = {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            listener.local_addr().unwrap()
        };
        match outcome(&format!("http://{gone}/x")).await {
            Outcome::Retry(retry) => assert_eq!(retry.failure.class, ErrorClass::Transient),
            other => panic!("{other:?}"),
        }
        match outcome("ftp://127.0.0.1/x").await {
            Outcome::DeadLetter(failure) => assert_eq!(failure.class, ErrorClass::Permanent),
            other => panic!("{other:?}"),
        }
    }
}
