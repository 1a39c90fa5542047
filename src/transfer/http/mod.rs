//! HTTP for files from URLs that are not trusted.
//!
//! A host is resolved by the [`UrlPolicy`], and connections go to the addresses it returned and to no
//! others. Redirects are followed hop by hop, each URL judged like the first, and asked with the
//! credentials of its own origin. A host that named a time is asked by nobody before that. What a
//! status means is in `answer`; what is asked for next, in [`crate::state::fetch_plan`].

mod answer;
pub(super) mod failure;
#[cfg(feature = "testing")]
pub mod fuzzing;
mod pins;
mod resting;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Client, RequestBuilder, Response};
use tokio::time::{Instant, timeout};
use url::Url;

pub(super) use self::answer::Head;
use self::answer::{AskedFor, Meaning, meaning};
use self::failure::{failed, is_unanswered, silent};
use self::pins::{Pinned, Security};
use self::resting::Resting;
use super::host::host_name;
use super::rates::Rates;
use super::url_policy::{UrlPolicy, UrlRefused, redacted};
use crate::config::{DownloadLimits, HttpOptions, MAX_REDIRECTS, Redirects};
use crate::error::{Error, ErrorClass};
use crate::outcome::{Failure, Outcome, RetryDelay};
use crate::secret::Secret;
use crate::state::fetch_plan::{Answer, Ask};

/// The longest address that Blob Storage copies from.
const MAX_READABLE_BYTES: usize = 2 << 10;

/// Fetches what the policy allows.
pub(super) struct Fetcher {
    policy: UrlPolicy,
    options: HttpOptions,
    limits: DownloadLimits,
    http: Pinned,
    https: Pinned,
    resting: Resting,
}

/// An answer that has a body of the file.
pub(super) struct Fetched {
    pub(super) response: Response,
    pub(super) answer: Answer,
    /// Whose rates its bytes count for.
    pub(super) host: Arc<str>,
    /// Where redirects led.
    pub(super) at: Url,
}

/// Why there is none.
pub(super) enum NotFetched {
    /// What becomes of the task.
    Ends(Outcome),
    /// The rest was asked for, and there is no such part.
    NoSuchPart,
}

impl From<Outcome> for NotFetched {
    fn from(outcome: Outcome) -> Self {
        Self::Ends(outcome)
    }
}

impl Fetcher {
    pub(super) fn new(policy: UrlPolicy, limits: &DownloadLimits, options: HttpOptions) -> Self {
        Self {
            policy,
            http: Pinned::new(Security::Plain, limits, &options),
            https: Pinned::new(Security::Tls, limits, &options),
            limits: *limits,
            options,
            resting: Resting::default(),
        }
    }

    /// Makes what can be made at once.
    ///
    /// # Errors
    /// If the HTTP client cannot be set up.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        self.http.reusing().map(drop)
    }

    /// The same, asking in another way.
    pub(super) fn with_options(self, options: HttpOptions) -> Self {
        Self::new(self.policy, &self.limits, options)
    }

    /// An address as others can ask for it; `None` if it takes credentials to read.
    pub(super) fn readable(&self, url: &Url) -> Option<Secret> {
        if self.options.credentials().of(url).is_some() {
            return None;
        }
        let mut url = url.clone();
        url.set_fragment(None);
        (url.as_str().len() <= MAX_READABLE_BYTES).then(|| Secret::new(url.as_str()))
    }

    /// What the server says of a file without its bytes; `None` if it says nothing of use.
    ///
    /// # Errors
    /// What becomes of the task where the host wants to be left alone, or may not be asked.
    pub(super) async fn head(&self, url: &Url, rates: &Rates) -> Result<Option<Head>, Outcome> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let host: Arc<str> = host_name(&at).unwrap_or_default().into();
            let clients = self.clients(&at).await?;
            self.resting(&host, &at)?;
            rates.begin(&host).await?;
            let Ok(Ok(response)) =
                self.send(clients.reusing().map_err(unusable)?.head(at.clone()), &at).await
            else {
                return Ok(None);
            };
            match meaning(&at, &response, AskedFor::Whole, SystemTime::now()) {
                Meaning::File(_) => return Ok(Some(Head::of(response.headers()))),
                Meaning::Rest(wait, outcome) => {
                    self.resting.on_named(&host, Instant::now(), wait);
                    return Err(redirected(url, &at, outcome));
                }
                Meaning::Elsewhere(to) if self.options.redirects() == Redirects::Follow => at = to,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Asks for a file, or for the rest of it, when the rates let it.
    ///
    /// # Errors
    /// What becomes of the task instead.
    pub(super) async fn get(
        &self,
        url: &Url,
        ask: Ask<'_>,
        rates: &Rates,
    ) -> Result<Fetched, NotFetched> {
        let asked_for = match ask {
            Ask::Whole => AskedFor::Whole,
            Ask::Rest { .. } | Ask::Part { .. } => AskedFor::Rest,
        };
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            // Without a host it is refused before it can matter.
            let host: Arc<str> = host_name(&at).unwrap_or_default().into();
            let response = match self.ask(&at, &host, ask, rates).await {
                Ok(response) => response,
                Err(outcome) => return Err(redirected(url, &at, outcome).into()),
            };
            let status = response.status();
            match meaning(&at, &response, asked_for, SystemTime::now()) {
                Meaning::File(answer) => return Ok(Fetched { response, answer, host, at }),
                Meaning::NoSuchPart => return Err(NotFetched::NoSuchPart),
                Meaning::Rest(wait, outcome) => {
                    self.resting.on_named(&host, Instant::now(), wait);
                    return Err(redirected(url, &at, outcome).into());
                }
                Meaning::Ends(outcome) => return Err(redirected(url, &at, outcome).into()),
                Meaning::Elsewhere(to) if self.options.redirects() == Redirects::Refuse => {
                    let message = format!(
                        "{}: the server answered {status}, and redirects are not followed; the file \
                         is at {}",
                        redacted(&at),
                        redacted(&to)
                    );
                    return Err(Outcome::dead_letter(Failure::permanent(message)).into());
                }
                Meaning::Elsewhere(to) => at = to,
            }
        }
        Err(Outcome::dead_letter(Failure::permanent(format!(
            "{}: there are more than {MAX_REDIRECTS} redirects, the last one to {}",
            redacted(url),
            redacted(&at)
        )))
        .into())
    }

    /// One request to one URL, and its answer, whatever that says.
    async fn ask(
        &self,
        url: &Url,
        host: &Arc<str>,
        ask: Ask<'_>,
        rates: &Rates,
    ) -> Result<Response, Outcome> {
        let clients = self.clients(url).await?;
        self.resting(host, url)?;
        rates.begin(host).await?;
        // The rates may have taken their time, in which somebody else was told to wait.
        self.resting(host, url)?;
        let request = |client: &Client| {
            let request = client.get(url.clone());
            match ask {
                Ask::Whole => request,
                Ask::Rest { from, validator } => request
                    .header(RANGE, format!("bytes={from}-"))
                    .header(IF_RANGE, validator.as_str()),
                Ask::Part { from, to, validator } => request
                    .header(RANGE, format!("bytes={from}-{}", to.saturating_sub(1)))
                    .header(IF_RANGE, validator.as_str()),
            }
        };
        let client = match ask {
            Ask::Part { .. } => clients.apart(),
            Ask::Whole | Ask::Rest { .. } => clients.reusing(),
        };
        match self.send(request(client.map_err(unusable)?), url).await? {
            Ok(response) => Ok(response),
            // As soon as the rates let it, and it counts for nothing.
            Err(error) if is_unanswered(&error) => {
                rates.begin(host).await?;
                self.resting(host, url)?;
                let sent = self.send(request(clients.fresh().map_err(unusable)?), url).await?;
                sent.map_err(|error| failed(url, self.no_answer(), error))
            }
            Err(error) => Err(failed(url, self.no_answer(), error)),
        }
    }

    async fn send(
        &self,
        request: RequestBuilder,
        url: &Url,
    ) -> Result<reqwest::Result<Response>, Outcome> {
        let mut request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(shown) = self.options.credentials().of(url)
            && let Ok(mut shown) = HeaderValue::from_str(shown.reveal())
        {
            shown.set_sensitive(true);
            request = request.header(AUTHORIZATION, shown);
        }
        let limit = self.limits.answer_timeout;
        timeout(limit, request.send())
            .await
            .map_err(|_elapsed| silent(url, "no answer", limit, "answer-timeout"))
    }

    /// Who is to be looked at where a request fails.
    fn no_answer(&self) -> &'static str {
        match self.options.proxy() {
            Some(_) => "no answer through the proxy",
            None => "no answer",
        }
    }

    /// The clients for a URL that the policy allows, whose host they know.
    async fn clients(&self, url: &Url) -> Result<&Pinned, Outcome> {
        let pinned = if url.scheme() == "https" { &self.https } else { &self.http };
        self.policy.check(url).map_err(refused)?;
        let host = url.host_str().unwrap_or_default();
        if self.options.proxy().is_none() && !pinned.knows(host) {
            let limit = self.limits.connect_timeout;
            let addresses = timeout(limit, self.policy.resolve(url))
                .await
                .map_err(|_elapsed| {
                    silent(url, "the host name was not resolved", limit, "connect-timeout")
                })?
                .map_err(refused)?;
            pinned.set(host, addresses);
        }
        Ok(pinned)
    }

    /// # Errors
    /// The host named a time that is not over.
    fn resting(&self, host: &str, url: &Url) -> Result<(), Outcome> {
        match self.resting.left(host, Instant::now()) {
            None => Ok(()),
            Some(left) => Err(rests(url, host, left)),
        }
    }
}

/// Every other task would fail alike.
fn unusable(error: Error) -> Outcome {
    Outcome::abort(Failure::from_error(error.class(), &error))
}

/// Says where the URL came from that something is said of, if it is another. The lane of the task is
/// that of the host it names; what another host says of itself closes it for nobody else.
fn redirected(from: &Url, at: &Url, outcome: Outcome) -> Outcome {
    if at == from {
        return outcome;
    }
    let mut outcome = outcome.with_failure(|failure| {
        failure.message = format!("{} led elsewhere: {}", redacted(from), failure.message);
    });
    if let Outcome::Retry(request) = &mut outcome
        && let RetryDelay::LaneCloses(wait) = request.delay
    {
        request.delay = RetryDelay::Postponed(wait);
    }
    outcome
}

fn rests(url: &Url, host: &str, left: Duration) -> Outcome {
    let what = format!("{host} asked to be left alone");
    let message = format!("{}: {what} for {} s more", redacted(url), left.as_secs());
    let failure = Failure::new(ErrorClass::Throttling, message);
    if left > answer::MAX_RETRY_AFTER {
        Outcome::dead_letter(failure)
    } else {
        Outcome::close_lane(left, failure)
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

#[cfg(test)]
mod tests;
