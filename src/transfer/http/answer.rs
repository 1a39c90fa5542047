//! What an answer means, by RFC 9110.
//!
//! | status | meaning |
//! | --- | --- |
//! | 200, 203, and 206 where a part was asked for | the file |
//! | 301, 302, 303, 307, 308 | the file is elsewhere |
//! | 429, 503 | busy; with `Retry-After` the host is left alone until then, and no attempt is used up |
//! | 408, 421, 423, 425 | may pass |
//! | 416 where a part was asked for | the file became shorter: all of it is asked for |
//! | 413 with `Retry-After` | may pass, after that time |
//! | any other 4xx | as 400: will not pass (15.5) |
//! | 501, 505 | will not pass |
//! | any other 5xx | as 500: may pass (15.6) |
//! | anything else | will not pass: it is no file |

use std::time::{Duration, SystemTime};

use reqwest::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED,
    LOCATION, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

use crate::error::ErrorClass;
use crate::outcome::{Failure, Outcome};
use crate::state::fetch_plan::{Answer, ContentRange, Version};
use crate::transfer::url_policy::redacted;

/// The longest wait a server may ask for: a day. Its events hold the window meanwhile; a task that would
/// wait longer is a dead letter, and its host is left alone by others all the same.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The wait where a server is busy and names none.
const BUSY_WAIT: Duration = Duration::from_secs(4);

/// The shortest wait where it does: one that names none at all would be asked without end.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What an answer is good for.
#[derive(Debug)]
pub(super) enum Meaning {
    /// It has a body of the file.
    File(Answer),
    /// The file is there.
    Elsewhere(Url),
    /// There is no such part of the file.
    NoSuchPart,
    /// The host wants to be left alone for so long.
    Rest(Duration, Outcome),
    /// What becomes of the task.
    Ends(Outcome),
}

/// Whether a part of the file was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AskedFor {
    Whole,
    Rest,
}

/// What a server says of a file without its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::transfer) struct Head {
    pub(in crate::transfer) length: Option<u64>,
    /// When it was changed last.
    pub(in crate::transfer) modified: Option<SystemTime>,
}

impl Head {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self {
            length: text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            modified: text(headers, LAST_MODIFIED).and_then(http_date),
        }
    }
}

/// What an answer to a request for this URL means.
pub(super) fn meaning(
    url: &Url,
    response: &Response,
    asked_for: AskedFor,
    now: SystemTime,
) -> Meaning {
    let length = response.content_length();
    of_head(url, response.status(), response.headers(), length, asked_for, now)
}

pub(super) fn of_head(
    url: &Url,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
    asked_for: AskedFor,
    now: SystemTime,
) -> Meaning {
    let said = || format!("{}: the server answered {status}", redacted(url));
    let failure = |class| Failure::new(class, said());
    let named = || retry_after(headers, now);
    match status.as_u16() {
        200 | 203 => Meaning::File(answer(url, headers, length, None)),
        206 => {
            let range = text(headers, CONTENT_RANGE).and_then(ContentRange::parse);
            Meaning::File(answer(url, headers, length, Some(range)))
        }
        301 | 302 | 303 | 307 | 308 => match location(url, headers) {
            Some(to) => Meaning::Elsewhere(to),
            None => Meaning::Ends(Outcome::dead_letter(Failure::permanent(format!(
                "{}, and says nothing of where the file is",
                said()
            )))),
        },
        416 if asked_for == AskedFor::Rest => Meaning::NoSuchPart,
        429 | 503 => match named() {
            Some(wait) if wait > MAX_RETRY_AFTER => {
                let mut failure = failure(ErrorClass::Throttling);
                failure.message += &format!(
                    " and asks to come back in {} hours; a task waits for a day at most",
                    wait.as_secs() / 3_600
                );
                Meaning::Rest(wait, Outcome::dead_letter(failure))
            }
            Some(wait) => {
                let wait = wait.max(MIN_RETRY_AFTER);
                let closes = Outcome::close_lane(wait, failure(ErrorClass::Throttling));
                Meaning::Rest(wait, closes)
            }
            None => {
                let busy = failure(ErrorClass::Throttling);
                Meaning::Ends(Outcome::retry_after(BUSY_WAIT, busy))
            }
        },
        408 | 421 | 423 | 425 => Meaning::Ends(may_pass(named(), failure(ErrorClass::Transient))),
        413 if named().is_some() => {
            Meaning::Ends(may_pass(named(), failure(ErrorClass::Transient)))
        }
        501 | 505 => Meaning::Ends(Outcome::dead_letter(failure(ErrorClass::Permanent))),
        500..=599 => Meaning::Ends(may_pass(named(), failure(ErrorClass::Transient))),
        _ => Meaning::Ends(Outcome::dead_letter(failure(ErrorClass::Permanent))),
    }
}

fn answer(
    url: &Url,
    headers: &HeaderMap,
    length: Option<u64>,
    partial: Option<Option<ContentRange>>,
) -> Answer {
    // A list of units (RFC 9110, 14.3); in practice one.
    let has_ranges = text(headers, ACCEPT_RANGES).is_some_and(|units| {
        units.split(',').any(|unit| unit.trim().eq_ignore_ascii_case("bytes"))
    });
    Answer { partial, length, version: version(headers), resource: resource(url), has_ranges }
}

/// Another attempt; not before the time that the server named, which is a word about this file, and not
/// about its host.
fn may_pass(named: Option<Duration>, failure: Failure) -> Outcome {
    match named {
        // No shorter than what it would wait unasked.
        Some(wait) if wait >= BUSY_WAIT => Outcome::retry_after(wait.min(MAX_RETRY_AFTER), failure),
        _ => Outcome::retry(failure),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn version(headers: &HeaderMap) -> Version {
    // One that is no text counts as a weak one: it is no validator, and neither is the time beside it.
    let etag = headers.get(ETAG).map(|etag| etag.to_str().unwrap_or_default().trim().to_owned());
    let last_modified = text(headers, LAST_MODIFIED);
    // It matters where there is no ETag.
    let age = || {
        let answered = text(headers, DATE).and_then(http_date)?;
        answered.duration_since(last_modified.and_then(http_date)?).ok()
    };
    let age = if etag.is_none() { age() } else { None };
    Version { etag, last_modified: last_modified.map(str::to_owned), age }
}

/// Without its query, which is another one for each signature.
fn resource(url: &Url) -> String {
    redacted(url)
}

/// Where an answer sends us. What is no text in UTF-8 is no URL.
fn location(url: &Url, headers: &HeaderMap) -> Option<Url> {
    let bytes = headers.get(LOCATION)?.as_bytes();
    url.join(std::str::from_utf8(bytes).ok()?.trim()).ok()
}

/// How long a server wants to be left alone (RFC 9110, 10.2.3): it names seconds, or a time, which is
/// one of its own clock where it tells it.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let named = text(headers, RETRY_AFTER)?;
    if !named.is_empty() && named.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than a number holds is long.
        return Some(named.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let now = text(headers, DATE).and_then(http_date).unwrap_or(now);
    // A time that is past is no wait.
    Some(http_date(named)?.duration_since(now).unwrap_or_default())
}

/// A time in any of the three forms of RFC 9110, 5.6.7; or one of mail, with a zone, or of a day of the week
/// that it is not, as some servers write it.
fn http_date(text: &str) -> Option<SystemTime> {
    let of_mail = || OffsetDateTime::parse(text, &Rfc2822).ok().map(SystemTime::from);
    httpdate::parse_http_date(text).ok().or_else(of_mail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::RetryDelay;

    fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), value.parse().expect("a header"))).collect()
    }

    fn of(status: u16, all: &[(HeaderName, &str)]) -> Meaning {
        let url = Url::parse("https://h/a/b?sig=hush").expect("a URL");
        let status = StatusCode::from_u16(status).expect("a status");
        of_head(&url, status, &headers(all), None, AskedFor::Whole, SystemTime::now())
    }

    fn delay(meaning: Meaning) -> (ErrorClass, RetryDelay) {
        match meaning {
            Meaning::Ends(Outcome::Retry(retry)) | Meaning::Rest(_, Outcome::Retry(retry)) => {
                assert!(!retry.failure.message.contains("hush"), "{}", retry.failure);
                (retry.failure.class, retry.delay)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_status_means_what_the_table_says() {
        let backoff = (ErrorClass::Transient, RetryDelay::Backoff);
        for status in [408, 421, 423, 425, 500, 502, 504, 507, 509, 520, 522, 530, 599] {
            assert_eq!(delay(of(status, &[])), backoff, "{status}");
            let after = RetryDelay::After(Duration::from_secs(7));
            assert_eq!(delay(of(status, &[(RETRY_AFTER, "7")])).1, after, "{status}");
        }
        for status in [204, 205, 300, 304, 305, 400, 401, 403, 404, 410, 413, 416, 418, 451, 499] {
            assert!(matches!(of(status, &[]), Meaning::Ends(Outcome::DeadLetter(_))), "{status}");
        }
        for status in [501, 505] {
            assert!(matches!(of(status, &[]), Meaning::Ends(Outcome::DeadLetter(_))), "{status}");
        }
        assert_eq!(delay(of(413, &[(RETRY_AFTER, "7")])).0, ErrorClass::Transient);
        for status in [200, 203, 206] {
            assert!(matches!(of(status, &[]), Meaning::File(_)), "{status}");
        }
    }

    #[test]
    fn who_is_busy_is_left_alone_until_the_time_it_names() {
        let unnamed = RetryDelay::After(BUSY_WAIT);
        let closes = |seconds| RetryDelay::LaneCloses(Duration::from_secs(seconds));
        for status in [429, 503] {
            for (asked, expected) in [
                ("soon", unnamed),
                ("-1", unnamed),
                ("1.5", unnamed),
                ("", unnamed),
                ("0", closes(1)),
                ("1", closes(1)),
                ("60", closes(60)),
                ("86400", closes(86_400)),
                ("Sun, 06 Nov 1994 08:49:37 GMT", closes(1)),
            ] {
                let (class, delay) = delay(of(status, &[(RETRY_AFTER, asked)]));
                assert_eq!((class, delay), (ErrorClass::Throttling, expected), "{asked}");
            }
            assert_eq!(delay(of(status, &[])).1, unnamed);
            for asked in ["86401", "99999999999999999999999", "Sun, 06 Nov 2094 08:49:37 GMT"] {
                let Meaning::Rest(wait, Outcome::DeadLetter(failure)) =
                    of(status, &[(RETRY_AFTER, asked)])
                else {
                    panic!("{asked}");
                };
                assert!(wait > MAX_RETRY_AFTER && failure.message.contains("come back in"));
            }
        }
    }

    #[test]
    fn a_time_that_a_server_names_is_one_of_its_own_clock_in_any_of_three_forms() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let thirty = Some(Duration::from_secs(30));
        for named in [
            "Sun, 06 Nov 1994 08:50:07 GMT",
            "Sunday, 06-Nov-94 08:50:07 GMT",
            "Sun Nov  6 08:50:07 1994",
        ] {
            assert_eq!(retry_after(&headers(&[(RETRY_AFTER, named)]), at), thirty, "{named}");
            let both = headers(&[(RETRY_AFTER, named), (DATE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
            assert_eq!(retry_after(&both, SystemTime::now()), thirty, "{named}");
        }
        assert_eq!(retry_after(&headers(&[(RETRY_AFTER, "")]), at), None);
        assert_eq!(retry_after(&headers(&[]), at), None);
    }

    #[test]
    fn a_redirect_leads_where_its_location_says_and_nowhere_without_one() {
        let to = |location: &str| match of(302, &[(LOCATION, location)]) {
            Meaning::Elsewhere(url) => url.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(to("https://other/x"), "https://other/x");
        assert_eq!(to("//other/x"), "https://other/x");
        assert_eq!(to("../c?d"), "https://h/c?d");
        for nowhere in [&[][..], &[(LOCATION, "https://")]] {
            assert!(matches!(of(302, nowhere), Meaning::Ends(Outcome::DeadLetter(_))));
        }
    }

    #[test]
    fn a_part_that_is_not_there_is_news_only_where_one_was_asked_for() {
        let url = Url::parse("https://h/").expect("a URL");
        let of = |asked_for| {
            let none = HeaderMap::new();
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            of_head(&url, status, &none, None, asked_for, SystemTime::now())
        };
        assert!(matches!(of(AskedFor::Rest), Meaning::NoSuchPart));
        assert!(matches!(of(AskedFor::Whole), Meaning::Ends(Outcome::DeadLetter(_))));
    }
}
