//! What holds of the heads of answers, whatever a server says.

use std::time::SystemTime;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::answer::{AskedFor, MAX_RETRY_AFTER, Meaning, of_head};
use crate::outcome::{Outcome, RetryDelay};

/// Whatever a server answers with, a host is left alone for no longer than may be, unless the task ends;
/// and the secret of the URL is in nothing that is said. The first line is the status, each line that
/// follows a header.
///
/// # Panics
/// Where that does not hold.
pub fn answers(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let status = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
    let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else { return };
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = HeaderValue::from_bytes(value.get(1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value) {
            headers.append(name, value);
        }
    }
    let Ok(url) = Url::parse("https://user:hush@h/a?sig=hush") else { return };
    for asked_for in [AskedFor::Whole, AskedFor::Rest] {
        let now = SystemTime::UNIX_EPOCH;
        match of_head(&url, status, &headers, None, asked_for, now) {
            Meaning::Ends(outcome) => check(&outcome),
            Meaning::Rest(wait, outcome) => {
                assert!(wait <= MAX_RETRY_AFTER || matches!(outcome, Outcome::DeadLetter(_)));
                check(&outcome);
            }
            meaning => assert!(!format!("{meaning:?}").contains("Retry")),
        }
    }
}

fn check(outcome: &Outcome) {
    let failure = match outcome {
        Outcome::Retry(retry) => {
            let (RetryDelay::After(wait) | RetryDelay::LaneCloses(wait)) = retry.delay else {
                return;
            };
            assert!(wait <= MAX_RETRY_AFTER);
            &retry.failure
        }
        Outcome::DeadLetter(failure) => failure,
        _ => return,
    };
    assert!(!failure.to_string().contains("hush"), "{failure}");
}
