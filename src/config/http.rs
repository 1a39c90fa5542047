//! Options of our HTTP clients beside the policy for URLs: redirects, a proxy, credentials.

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use url::{Origin, Url};

use crate::error::InvalidConfig;
use crate::secret::Secret;

/// What to do about an answer that says where the file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Redirects {
    /// Follow it, as far as the policy for URLs allows each one on the way, and at most
    /// [`MAX_REDIRECTS`] times. Each is asked with its own credentials.
    #[default]
    Follow,
    /// The task becomes a dead letter that names the other URL.
    Refuse,
}

/// The most redirects of one request: 20. Browsers follow about as many, Python's `requests` 30, curl 50.
pub const MAX_REDIRECTS: usize = 20;

/// How a download worker asks. The default follows redirects, and has no proxy and no credentials.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    redirects: Redirects,
    proxy: Option<HttpProxy>,
    credentials: Credentials,
}

impl HttpOptions {
    /// The default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether redirects are followed. Default: [`Redirects::Follow`].
    #[must_use]
    pub fn with_redirects(mut self, redirects: Redirects) -> Self {
        self.redirects = redirects;
        self
    }

    /// Sends everything through a proxy. The proxy resolves the names of hosts, so the policy judges names only,
    /// not addresses. The address of the proxy itself is not judged.
    #[must_use]
    pub fn with_proxy(mut self, proxy: HttpProxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Sets the credentials. Default: none.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Whether redirects are followed.
    pub fn redirects(&self) -> Redirects {
        self.redirects
    }

    /// The proxy, if one is set.
    pub fn proxy(&self) -> Option<&HttpProxy> {
        self.proxy.as_ref()
    }

    /// The credentials.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// An HTTP proxy: `http://HOST:PORT` or `http://USER:PASSWORD@HOST:PORT`, or the same with `https`. `Debug` shows
/// neither user nor password.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy(Url);

impl HttpProxy {
    /// Reads the URL of a proxy.
    ///
    /// # Errors
    /// What the URL must be. Nothing of the URL is repeated.
    pub fn parse(url: &str) -> Result<Self, InvalidConfig> {
        let fault = || InvalidConfig::new("proxy", "(hidden)", "it must be http://host:port");
        let url = Url::parse(url.trim()).map_err(|_| fault())?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        let known = matches!(url.scheme(), "http" | "https") && url.has_host();
        if known && bare { Ok(Self(url)) } else { Err(fault()) }
    }

    /// The whole URL, password included: for the client that connects, and for no log.
    #[cfg(feature = "transfer")]
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({})", shown(&self.0))
    }
}

/// What is shown to an origin.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Authorization {
    /// `Authorization: Bearer …` (RFC 6750).
    Bearer(Secret),
    /// `Authorization: Basic …` (RFC 7617).
    Basic {
        /// Without a colon.
        user: String,
        /// The password.
        password: Secret,
    },
}

/// Credentials by origin: scheme, host and port. An origin is shown its own credential and no other, whatever leads
/// to it.
///
/// ```
/// use longshore::secret::Secret;
/// use longshore::config::{Authorization, Credentials};
///
/// let credentials = Credentials::default()
///     .with("https://files.example.com", Authorization::Bearer(Secret::new("a-token")))?;
/// # Ok::<(), longshore::error::InvalidConfig>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Credentials(HashMap<Origin, Secret>);

impl Credentials {
    /// Adds the credential of an origin, such as `https://files.example.com` or `http://127.0.0.1:8080`. Anyone on
    /// the way can read what goes over `http`.
    ///
    /// # Errors
    /// If `origin` is not an origin, has a path or a query, or was added before; and if no header can hold the
    /// credential. No secret is repeated.
    pub fn with(mut self, origin: &str, shown: Authorization) -> Result<Self, InvalidConfig> {
        let fault = |why| InvalidConfig::new("credentials", shortened(origin), why);
        let url = Url::parse(origin.trim());
        let bare = |url: &Url| {
            matches!(url.scheme(), "http" | "https")
                && matches!(url.path(), "" | "/")
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        };
        let Some(url) = url.ok().filter(bare) else {
            return Err(fault("it must be a scheme and a host, such as https://files.example.com"));
        };
        let header = header(&shown)
            .ok_or_else(|| fault("its credential has a character that no header holds"))?;
        if self.0.insert(url.origin(), header).is_some() {
            return Err(fault("it is named twice"));
        }
        Ok(self)
    }

    /// Reads a TOML file with a table for each origin:
    ///
    /// ```toml
    /// ["https://files.example.com"]
    /// bearer = "…"
    ///
    /// ["https://archive.example.com:8443"]
    /// user = "reader"
    /// password = "…"
    /// ```
    ///
    /// # Errors
    /// What is wrong, and with which origin. No value is repeated.
    pub fn from_toml(text: &str) -> Result<Self, InvalidConfig> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Entry {
            bearer: Option<String>,
            user: Option<String>,
            password: Option<String>,
        }
        let must = "each table is an origin with bearer, or with user and password";
        let tables: HashMap<String, toml::Value> =
            toml::from_str(text).map_err(|error: toml::de::Error| {
                // Its message quotes the line.
                let line = error.span().map_or(1, |span| {
                    text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
                });
                InvalidConfig::new("credentials", format!("line {line}"), "it is not valid TOML")
            })?;
        tables.into_iter().try_fold(Self::default(), |known, (origin, table)| {
            let fault = || InvalidConfig::new("credentials", shortened(&origin), must);
            let entry: Entry = table.try_into().map_err(|_| fault())?;
            let shown = match entry {
                Entry { bearer: Some(token), user: None, password: None } => {
                    Authorization::Bearer(Secret::new(token))
                }
                Entry { bearer: None, user: Some(user), password: Some(password) } => {
                    Authorization::Basic { user, password: Secret::new(password) }
                }
                _ => return Err(fault()),
            };
            known.with(&origin, shown)
        })
    }

    /// What this URL's origin is shown: the value of the header `Authorization`.
    #[cfg(any(feature = "transfer", test))]
    pub(crate) fn of(&self, url: &Url) -> Option<&Secret> {
        if self.0.is_empty() { None } else { self.0.get(&url.origin()) }
    }
}

/// The value of the header, if one holds it (RFC 9110, 5.5).
fn header(shown: &Authorization) -> Option<Secret> {
    let text = match shown {
        Authorization::Bearer(token) => format!("Bearer {}", token.reveal()),
        Authorization::Basic { user, .. } if user.contains(':') => return None,
        Authorization::Basic { user, password } => {
            format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal())))
        }
    };
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte)).then(|| Secret::new(text))
}

/// A hostile text may be long, and may have a secret where a host should be.
fn shortened(origin: &str) -> String {
    match Url::parse(origin) {
        Ok(url) => shown(&url),
        Err(_) => "(no URL)".to_owned(),
    }
}

/// Scheme, host and port, and the path: no user name, password or query.
fn shown(url: &Url) -> String {
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let host = url.host_str().unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(credentials: &Credentials, url: &str) -> Option<String> {
        let header = credentials.of(&Url::parse(url).expect("a URL"))?;
        Some(header.reveal().to_owned())
    }

    #[test]
    fn an_origin_is_shown_its_own_and_no_other_is() {
        let text = "[\"https://a.example\"]\nbearer = \"token\"\n\
                    [\"http://b.example:8080/\"]\nuser = \"me\"\npassword = \"pass:word\"\n";
        let credentials = Credentials::from_toml(text).expect("valid");
        assert_eq!(shown(&credentials, "https://A.example:443/x").as_deref(), Some("Bearer token"));
        let basic = Some("Basic bWU6cGFzczp3b3Jk");
        assert_eq!(shown(&credentials, "http://b.example:8080/y?z").as_deref(), basic);
        for other in [
            "http://a.example/",
            "https://a.example:8443/",
            "https://sub.a.example/",
            "https://b.example:8080/",
            "http://b.example/",
        ] {
            assert_eq!(shown(&credentials, other), None, "{other}");
        }
        let debug = format!("{credentials:?}");
        assert!(!debug.contains("token") && !debug.contains("bWU6"), "{debug}");
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_repeated() {
        for (text, named) in [
            ("[\"https://a\"]\nbearer = \"hush\"\nuser = \"x\"", "https://a"),
            ("[\"https://a\"]\ntoken = \"hush\"", "https://a"),
            ("[\"https://a\"]\npassword = \"hush\"", "https://a"),
            ("[\"https://a/b\"]\nbearer = \"hush\"", "https://a/b"),
            ("[\"https://me:hush@a\"]\nbearer = \"x\"", "https://a"),
            ("[\"a.example\"]\nbearer = \"hush\"", "no URL"),
            ("[\"https://a\"]\nbearer = \"hu\\nsh\"", "no header holds"),
            ("[\"https://a\"]\nuser = \"a:b\"\npassword = \"hush\"", "no header holds"),
            ("[\"https://a\"]\nbearer = \"x\"\n[\"https://a:443\"]\nbearer = \"y\"", "named twice"),
            ("\n\nbearer = hush", "line 3"),
            ("bearer = \"hush\"", "(no URL)"),
        ] {
            let error = Credentials::from_toml(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("hush") && !error.contains("hu\n"), "{text}: {error}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_and_its_password_is_never_shown() {
        let proxy = HttpProxy::parse("http://me:hush@proxy.example:3128").expect("valid");
        assert!(!format!("{proxy:?}").contains("hush"));
        for wrong in ["", "proxy:3128", "socks5://p:1080", "http://p/path", "http://"] {
            let error = HttpProxy::parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains("http://host:port"), "{error}");
        }
    }
}
