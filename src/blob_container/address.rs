//! The address of a container, and the secret in it.

use std::net::IpAddr;

use url::{Host, Url};

use crate::error::InvalidConfig;
use crate::secret::{HIDDEN, has_signature};

/// A checked address: `https`, or `http` on this machine.
pub(crate) struct ContainerAddress {
    /// With the shared access signature, if there is one.
    pub(crate) url: Url,
    /// Without it: for errors and `Debug`.
    pub(crate) shown: String,
    /// The signature, decoded: what no error may hold.
    pub(crate) signature: Option<String>,
}

impl ContainerAddress {
    /// Whether a text is meant to end in a shared access signature.
    pub(crate) fn names_a_signature(text: &str) -> bool {
        Url::parse(text).is_ok_and(|url| url.query_pairs().any(|(key, _)| key == "sig"))
    }

    /// Reads an address that ends in a shared access signature (SAS).
    ///
    /// # Errors
    /// Names what is wrong, and repeats no secret.
    pub(crate) fn with_signature(text: &str) -> Result<Self, InvalidConfig> {
        let address = Self::parse(text)?;
        match &address.signature {
            Some(signature) if !signature.is_empty() => Ok(address),
            _ => Err(refused(&address.shown, "it must end in a shared access signature: ?…&sig=…")),
        }
    }

    /// Reads an address that a credential opens.
    ///
    /// # Errors
    /// Names what is wrong, and repeats no secret.
    pub(crate) fn without_signature(text: &str) -> Result<Self, InvalidConfig> {
        let address = Self::parse(text)?;
        if address.url.query().is_some() {
            return Err(refused(&address.shown, "with a credential it must have no query"));
        }
        if address.url.scheme() != "https" {
            return Err(refused(&address.shown, "a token is sent over https only"));
        }
        Ok(address)
    }

    fn parse(text: &str) -> Result<Self, InvalidConfig> {
        const FORM: &str = "it must read https://ACCOUNT.blob.core.windows.net/CONTAINER";
        let url = Url::parse(text).map_err(|_| refused(HIDDEN, FORM))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused(HIDDEN, "it must have no user and no password"));
        }
        let signature =
            url.query_pairs().find(|(key, _)| key == "sig").map(|(_, value)| value.into_owned());
        if has_signature(url.path()) {
            let bound = "its path must hold no signature: the ? and & before it are no %3F and %26";
            return Err(refused(HIDDEN, bound));
        }
        let mut bare = url.clone();
        bare.set_query(None);
        bare.set_fragment(None);
        let shown = bare.to_string();
        let container = bare.path_segments().into_iter().flatten().next_back();
        if container.is_none_or(str::is_empty) || url.fragment().is_some() {
            return Err(refused(&shown, FORM));
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) => {}
            "http" => return Err(refused(&shown, "http is for addresses of this machine only")),
            _ => return Err(refused(&shown, FORM)),
        }
        Ok(Self { url, shown, signature })
    }
}

fn refused(shown: &str, bound: &str) -> InvalidConfig {
    InvalidConfig::new("container_url", shown, bound)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_signature_is_shown_without_it() {
        for (text, shown) in [
            (
                "https://acc.blob.core.windows.net/state?sv=1&sig=ab%2Bc",
                "https://acc.blob.core.windows.net/state",
            ),
            (
                "http://127.0.0.1:10000/devstoreaccount1/state?sig=ab%2Bc",
                "http://127.0.0.1:10000/devstoreaccount1/state",
            ),
            ("http://localhost/state?sig=ab%2Bc", "http://localhost/state"),
        ] {
            let address = ContainerAddress::with_signature(text).expect(text);
            assert_eq!(address.shown, shown);
            assert_eq!(address.signature.as_deref(), Some("ab+c"));
            assert_eq!(address.url.as_str(), text);
        }
    }

    #[test]
    fn a_wrong_address_is_refused_and_no_secret_repeated() {
        for (text, bound) in [
            ("state?sig=canary", "must read https://"),
            ("https://acc.blob.core.windows.net/?sig=canary", "must read https://"),
            ("https://acc.blob.core.windows.net?sig=canary", "must read https://"),
            ("https://acc.blob.core.windows.net/state/?sig=canary", "must read https://"),
            ("https://acc.blob.core.windows.net/state?sig=canary#a", "must read https://"),
            ("ftp://acc.blob.core.windows.net/state?sig=canary", "must read https://"),
            ("http://acc.blob.core.windows.net/state?sig=canary", "http is for"),
            ("https://a:canary@acc.blob.core.windows.net/state?sig=x", "no user"),
            ("https://acc.blob.core.windows.net/state?sv=canary", "shared access signature"),
            ("https://acc.blob.core.windows.net/state?sig=&a=canary", "shared access signature"),
            ("https://acc.blob.core.windows.net/state", "shared access signature"),
            ("https://acc.blob.core.windows.net/state%3Fsig=canary?sig=x", "path must hold no"),
        ] {
            let refused = ContainerAddress::with_signature(text).err().expect(text).to_string();
            assert!(refused.contains(bound), "{refused}");
            assert!(!refused.contains("canary"), "{refused}");
        }
        for (text, bound) in [
            ("https://acc.blob.core.windows.net/state?sig=canary", "no query"),
            ("http://127.0.0.1:10000/devstoreaccount1/state", "over https only"),
            ("https://acc.blob.core.windows.net/state%3Fsv=1%26sig=canary", "path must hold no"),
            (
                "https://acc.blob.core.windows.net/state%3fsv%3d1%26SIG%3dcanary",
                "path must hold no",
            ),
            ("https://acc.blob.core.windows.net/state%253Fsig%253Dcanary", "path must hold no"),
            ("https://acc.blob.core.windows.net/state&sig=canary", "path must hold no"),
        ] {
            let refused = ContainerAddress::without_signature(text).err().expect(text).to_string();
            assert!(refused.contains(bound) && !refused.contains("canary"), "{refused}");
        }
        let open = ContainerAddress::without_signature("https://acc.blob.core.windows.net/state");
        assert!(open.is_ok());
    }
}
