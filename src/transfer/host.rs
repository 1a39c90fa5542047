//! The host of a task, which is the lane of its event.

use std::borrow::Cow;
use std::net::Ipv4Addr;

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
    if let Some(host) = plain_host(&located.url) {
        return Some(Lane::new(host));
    }
    host_name(&Url::parse(&located.url).ok()?).map(Lane::new)
}

/// The host of a URL that has it as [`host_name`] writes it, which most do; `None` if that takes more
/// than to look: each event is asked for its lane.
fn plain_host(url: &str) -> Option<&str> {
    let (rest, own_port) = match url.strip_prefix("https://") {
        Some(rest) => (rest, "443"),
        None => (url.strip_prefix("http://")?, "80"),
    };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let authority = rest.get(..end)?;
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    // A last part of digits makes it an address, which has other forms.
    let is_name = |part: &str| part.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    let is_plain_name = host
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
        && host.rsplit('.').next().is_some_and(is_name)
        && !host.starts_with(['.', '-'])
        && !host.contains("..")
        && !host.contains("xn--");
    let is_plain_host = is_plain_name || host.parse::<Ipv4Addr>().is_ok();
    let is_plain_port = |port: &str| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        digits && port.parse::<u16>().is_ok() && port != own_port
    };
    (is_plain_host && port.is_none_or(is_plain_port)).then_some(authority)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn a_host_that_is_plain_is_the_one_that_the_whole_url_has(
            scheme in "https?://",
            host in "[a-c0-2.x-]{1,6}|1?2?7\\.0\\.[0-3]{1,3}\\.1|(xn--)?[a-z]{1,3}\\.[a-z0-9]{1,3}",
            port in "(:[0-9]{0,6})?|:443|:80",
            rest in "([/?#@\\\\:][a-z:@/]{0,4})?",
        ) {
            let url = format!("{scheme}{host}{port}{rest}");
            if let Some(plain) = plain_host(&url) {
                let whole = Url::parse(&url).ok().and_then(|url| host_name(&url));
                prop_assert_eq!(Some(plain), whole.as_deref(), "{}", url);
            }
        }
    }

    #[test]
    fn usual_hosts_are_plain() {
        for url in ["https://example.com/a?b", "http://10.0.0.7:8080/x", "https://a.blob.core.net"]
        {
            assert!(plain_host(url).is_some(), "{url}");
        }
        for url in ["https://u@h/", "https://H/", "http://127.1/", "https://h:443/", "ftp://h/"] {
            assert!(plain_host(url).is_none(), "{url}");
        }
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
