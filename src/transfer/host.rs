//! The host of a task, which is the lane of its event.

use std::borrow::Cow;

use serde::Deserialize;
use url::Url;

use crate::event::Event;
use crate::lanes::Lane;

/// The host of a URL, by which limits go: one whatever the scheme, and another one with a port that
/// is not its scheme's own.
pub(super) fn host_name(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    let host = host.strip_suffix('.').unwrap_or(host);
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// The lane of a task's event: its host. An event that is no task has none.
pub(super) fn host_lane(event: &Event) -> Option<Lane> {
    /// As much of a task as names its host.
    #[derive(Deserialize)]
    struct Located<'a> {
        #[serde(borrow)]
        url: Cow<'a, str>,
    }
    let body = event.body();
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let located: Located<'_> = serde_json::from_slice(body).ok()?;
    host_name(&Url::parse(&located.url).ok()?).map(Lane::new)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{EventParts, Partition};

    fn lane(body: &[u8]) -> Option<String> {
        let partition = Arc::new(Partition::new("tasks", "0"));
        let event = EventParts::new(partition, 1, body.to_vec()).into();
        host_lane(&event).map(|lane| lane.to_string())
    }

    #[test]
    fn a_host_is_one_whatever_the_scheme_the_case_and_the_path() {
        for url in [
            "https://example.com/a",
            "http://EXAMPLE.com/b?c#d",
            "https://example.com:443",
            "http://example.com:80/",
            "https://example.com./",
        ] {
            let body = format!(r#" {{"id":"1","url":"{url}","path":"x","more":[1]}}"#);
            assert_eq!(lane(body.as_bytes()).as_deref(), Some("example.com"), "{url}");
        }
        let other = |url: &str| lane(format!(r#"{{"url":"{url}"}}"#).as_bytes());
        assert_eq!(other("http://example.com:443/").as_deref(), Some("example.com:443"));
        assert_eq!(other("https://[::1]:8443/").as_deref(), Some("[::1]:8443"));
        assert_eq!(other(r"https:\/\/example.com\/").as_deref(), Some("example.com"));
    }

    #[test]
    fn what_is_no_task_has_no_lane() {
        for body in
            ["", "[]", "{}", "null", r#"{"url":1}"#, r#"{"url":"x"}"#, r#"["https://h/"]"#, "\u{0}"]
        {
            assert_eq!(lane(body.as_bytes()), None, "{body}");
        }
        assert_eq!(lane(&[0xff, 0xfe]), None);
        assert_eq!(lane(br#"{"url":"data:text/plain,x"}"#), None);
    }
}
