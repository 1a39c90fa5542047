//! Shared access signatures: which are valid, what they open, and when that ends.
//!
//! ```text
//!  SharedAccessSignature sr=<resource>&sig=<signature>&se=<expiry>&skn=<key name>
//!  signature = base64(HMAC-SHA256(key, "<resource, as it is written>\n<expiry>"))
//! ```
//!
//! A token opens its resource and what is below it. The host in a resource is ignored: clients put
//! there what they call the broker. No clock: times come in.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use url::form_urlencoded;

use super::mailbox::LinkKey;
use super::refusal::{Refusal, UNAUTHORIZED_ACCESS};

const PREFIX: &str = "SharedAccessSignature ";
/// Resources one connection may have tokens for.
const MAX_GRANTS: usize = 1024;
/// Of a token; those of the service's clients have some hundred.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// What the hub of a request to `$management` is called as a resource.
const MANAGEMENT: &str = "$management";

/// A shared access key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct AccessKey {
    pub(super) name: String,
    pub(super) key: String,
}

/// The key itself stays out of logs.
impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a valid token opens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// In lower case, without scheme and host.
    path: String,
    /// In seconds since 1970.
    pub(super) expires_at_s: u64,
}

/// The path of an address, audience or resource, in lower case.
fn path_of(address: &str) -> String {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => address,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    path.to_ascii_lowercase()
}

fn covers(resource: &str, path: &str) -> bool {
    let rest = path.strip_prefix(resource);
    resource.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn decoded(text: &str) -> String {
    // The one value of a form without a name: what is left is the percent-decoding.
    let (value, _) = form_urlencoded::parse(text.as_bytes()).next().unwrap_or_default();
    value.into_owned()
}

/// Checks a token for an audience; the error says what is wrong with it.
pub(super) fn verify(
    token: &str,
    audience: &str,
    keys: &[AccessKey],
    now_s: u64,
) -> Result<Grant, &'static str> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err("MalformedToken: it is too long");
    }
    let fields = token.strip_prefix(PREFIX).ok_or(
        "MalformedToken: a token begins with 'SharedAccessSignature '; other kinds cannot be \
         checked here",
    )?;
    let field = |name: &str| {
        fields
            .split('&')
            .filter_map(|field| field.split_once('='))
            .find_map(|(found, value)| found.trim().eq_ignore_ascii_case(name).then_some(value))
    };
    let parts = (field("sr"), field("sig"), field("se"), field("skn"));
    let (Some(resource), Some(signature), Some(expiry), Some(key_name)) = parts else {
        return Err("MalformedToken: a token has the fields sr, sig, se and skn");
    };
    let expires_at_s = expiry.parse().map_err(|_| "MalformedToken: se is not a number")?;
    let key_name = decoded(key_name);
    let key = keys
        .iter()
        .find(|key| key.name == key_name)
        .ok_or("InvalidSignature: there is no key of the name in skn")?;
    let signature =
        STANDARD.decode(decoded(signature)).map_err(|_| "InvalidSignature: sig is not base64")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.key.as_bytes())
        .map_err(|_| "InvalidSignature: the key cannot be used")?;
    mac.update(resource.as_bytes());
    mac.update(b"\n");
    mac.update(expiry.as_bytes());
    mac.verify_slice(&signature)
        .map_err(|_| "InvalidSignature: The token has an invalid signature.")?;
    if expires_at_s <= now_s {
        return Err("ExpiredToken: The token is expired.");
    }
    let path = path_of(&decoded(resource));
    if !covers(&path, &path_of(audience)) {
        return Err(
            "InvalidAudience: the token is for another resource than the name of the request",
        );
    }
    Ok(Grant { path, expires_at_s })
}

/// What one connection may use, and which of its links do.
#[derive(Debug, Default)]
pub(super) struct Grants {
    until: BTreeMap<String, Instant>,
    /// None for one that any token opens.
    links: Vec<(LinkKey, Option<String>)>,
}

impl Grants {
    /// Adds what a token opens; a newer token for the same resource takes the place of the older.
    pub(super) fn on_token(
        &mut self,
        grant: Grant,
        now: Instant,
        now_s: u64,
    ) -> Result<(), Refusal> {
        if self.until.len() >= MAX_GRANTS && !self.until.contains_key(&grant.path) {
            return Err(unauthorized(format!("more than {MAX_GRANTS} tokens on one connection")));
        }
        // No one waits for longer than a year.
        let left = grant.expires_at_s.saturating_sub(now_s).min(365 * 24 * 3600);
        self.until.insert(grant.path, now + Duration::from_secs(left));
        Ok(())
    }

    /// Admits a link to a [resource](super::address::Node::resource), or, without one, to
    /// `$management`, whose requests are [asked for](Self::admit_properties) one by one.
    /// [`Self::take_expired`] tells when that ends.
    pub(super) fn on_attach(
        &mut self,
        link: LinkKey,
        resource: Option<String>,
    ) -> Result<(), Refusal> {
        if !self.admits(resource.as_deref()) {
            return Err(refused(resource.as_deref().unwrap_or(MANAGEMENT)));
        }
        self.links.push((link, resource));
        Ok(())
    }

    /// Whether a token opens the properties of a hub: one for it, or for them alone.
    pub(super) fn admit_properties(&self, hub: &str) -> Result<(), Refusal> {
        let resource = format!("{}/{MANAGEMENT}", hub.to_ascii_lowercase());
        if self.admits(Some(&resource)) { Ok(()) } else { Err(refused(&resource)) }
    }

    /// Whether there is any valid token.
    pub(super) fn are_any(&self) -> bool {
        !self.until.is_empty()
    }

    fn admits(&self, resource: Option<&str>) -> bool {
        match resource {
            None => self.are_any(),
            Some(path) => self.until.keys().any(|granted| covers(granted, path)),
        }
    }

    pub(super) fn on_detach(&mut self, link: LinkKey) {
        self.links.retain(|(other, _)| *other != link);
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.until.values().min().copied()
    }

    /// Forgets expired tokens, and gives the links that no other token covers.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<LinkKey> {
        if self.next_expiry().is_none_or(|next| next > now) {
            return Vec::new();
        }
        self.until.retain(|_, until| *until > now);
        let links = std::mem::take(&mut self.links);
        let (kept, expired) = links.into_iter().partition(|(_, path)| self.admits(path.as_deref()));
        self.links = kept;
        expired.into_iter().map(|(link, _): (LinkKey, Option<String>)| link).collect()
    }
}

fn refused(resource: &str) -> Refusal {
    unauthorized(format!(
        "Unauthorized access. A valid token for '{resource}' is required to perform this operation."
    ))
}

fn unauthorized(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(UNAUTHORIZED_ACCESS, text)
}

/// Why a link ends when its token does.
pub(super) fn expired() -> Refusal {
    unauthorized("ExpiredToken: The token is expired; put a new one before the old one ends.")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    const AUDIENCE: &str = "amqps://ns.example.com:5671/Orders";

    fn keys() -> Vec<AccessKey> {
        vec![AccessKey { name: "root".to_owned(), key: "SAS_KEY_VALUE".to_owned() }]
    }

    fn link(handle: u32) -> LinkKey {
        LinkKey { channel: 0, handle, serial: 1 }
    }

    /// Signed with openssl, for se=2000000000.
    const TOKEN: &str = "SharedAccessSignature sr=sb%3A%2F%2Flocalhost%2Forders\
                         &sig=h03Nk7j3Til5Q%2BCRFcFnFc0nQStId2YiacxFBegHLd0%3D&se=2000000000&skn=root";

    #[test]
    fn a_token_opens_its_resource_until_it_expires() {
        let grant = verify(TOKEN, AUDIENCE, &keys(), 1_999_999_999).unwrap();
        assert_eq!(grant, Grant { path: "orders".to_owned(), expires_at_s: 2_000_000_000 });
        for (token, audience, now_s, error) in [
            (TOKEN.to_owned(), AUDIENCE, 2_000_000_000, "ExpiredToken"),
            (TOKEN.to_owned(), "sb://localhost/ordersx", 0, "InvalidAudience"),
            (TOKEN.replace("2000000000", "2000000001"), AUDIENCE, 0, "InvalidSignature"),
            (TOKEN.replace("orders", "others"), "sb://x/others", 0, "InvalidSignature"),
            (TOKEN.replace("skn=root", "skn=other"), AUDIENCE, 0, "InvalidSignature"),
            (TOKEN.replace("&se=", "&xx="), AUDIENCE, 0, "MalformedToken"),
            ("eyJhbGciOi".to_owned(), AUDIENCE, 0, "MalformedToken"),
        ] {
            let said = verify(&token, audience, &keys(), now_s).unwrap_err();
            assert!(said.starts_with(error), "{token}: {said}");
        }
        assert!(!format!("{:?}", keys()).contains("SAS_KEY_VALUE"));
    }

    #[test]
    fn links_end_with_the_last_token_that_covers_them() {
        let start = Instant::now();
        let grant = |path: &str, expires_at_s| Grant { path: path.to_owned(), expires_at_s };
        let mut grants = Grants::default();
        let on_attach = |grants: &mut Grants, number, address: &str| {
            let node = super::super::address::parse_node(address).unwrap();
            grants.on_attach(link(number), node.resource())
        };
        assert!(on_attach(&mut grants, 0, "orders").is_err());
        grants.on_token(grant("orders", 10), start, 0).unwrap();
        grants.on_token(grant("orders/partitions/1", 20), start, 0).unwrap();
        on_attach(&mut grants, 1, "orders/Partitions/0").unwrap();
        on_attach(&mut grants, 2, "amqps://host/Orders/Partitions/1").unwrap();
        on_attach(&mut grants, 3, "orders").unwrap();
        on_attach(&mut grants, 4, "orders/$management").unwrap();
        grants.on_detach(link(3));
        assert!(on_attach(&mut grants, 5, "others").is_err());
        assert!(on_attach(&mut grants, 5, "ordersx/Partitions/0").is_err());
        assert!(grants.take_expired(start + Duration::from_secs(9)).is_empty());
        assert_eq!(grants.take_expired(start + Duration::from_secs(10)), [link(1)]);
        grants.on_token(grant("", 30), start, 0).unwrap();
        assert!(grants.take_expired(start + Duration::from_secs(20)).is_empty());
        let last = grants.take_expired(start + Duration::from_secs(30));
        assert_eq!(last, [link(2), link(4)]);
    }

    #[test]
    fn a_token_opens_what_it_names_however_an_address_is_written() {
        let start = Instant::now();
        let opens = |granted: &str, address: &str| {
            let mut grants = Grants::default();
            let grant = Grant { path: granted.to_owned(), expires_at_s: 10 };
            grants.on_token(grant, start, 0).unwrap();
            let node = super::super::address::parse_node(address);
            node.is_ok_and(|node| grants.on_attach(link(1), node.resource()).is_ok())
        };
        for (granted, address) in [
            ("orders", "amqps://h//Orders/"),
            ("orders", "orders/Publishers/x"),
            ("orders/publishers/x", "orders/Publishers/X"),
            ("orders/consumergroups/g/partitions/1", "orders//ConsumerGroups/G/Partitions/01"),
            ("", "orders"),
            ("orders", "$management"),
            ("orders/$management", "orders/$management"),
        ] {
            assert!(opens(granted, address), "{granted} {address}");
        }
        for (granted, address) in [
            ("orders", "secret/Publishers/x$management"),
            ("orders", "secret/Publishers/orders"),
            ("orders/$management", "orders"),
            ("orders/$management", "orders/Partitions/0"),
            ("orders/publishers/x", "orders/Publishers/y"),
            ("orders/publishers/x", "orders"),
            ("orders", "secret?/orders"),
            ("orders", "secret#orders"),
            ("orders", "amqps://orders/secret"),
            ("orders", "amqps://x/secret://y/orders"),
        ] {
            assert!(!opens(granted, address), "{granted} {address}");
        }
    }

    #[test]
    fn properties_are_for_who_may_use_the_hub() {
        let start = Instant::now();
        let mut grants = Grants::default();
        assert!(grants.admit_properties("orders").is_err());
        for (granted, hub, is_open) in [
            ("orders/partitions/0", "orders", false),
            ("orders/$management", "Orders", true),
            ("bills", "bills", true),
            ("bills", "secret", false),
            ("", "secret", true),
        ] {
            let grant = Grant { path: granted.to_owned(), expires_at_s: 10 };
            grants.on_token(grant, start, 0).unwrap();
            assert_eq!(grants.admit_properties(hub).is_ok(), is_open, "{granted} {hub}");
        }
    }
}
