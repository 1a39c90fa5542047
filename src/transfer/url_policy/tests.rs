#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// Answers from a table and counts the questions.
#[derive(Debug, Default)]
struct Table {
    names: BTreeMap<&'static str, Vec<&'static str>>,
    asked: Mutex<Vec<String>>,
}

impl Table {
    fn new(names: &[(&'static str, &[&'static str])]) -> Arc<Self> {
        Arc::new(Self {
            names: names.iter().map(|(name, addresses)| (*name, addresses.to_vec())).collect(),
            asked: Mutex::default(),
        })
    }
}

impl Resolver for Table {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        _port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.lock().unwrap().push(host.to_owned());
        let answer = match self.names.get(host) {
            // The port is wrong on purpose: the URL's counts.
            Some(addresses) => Ok(addresses
                .iter()
                .map(|address| SocketAddr::new(address.parse().unwrap(), 1))
                .collect()),
            None => Err(io::Error::other("no such name")),
        };
        async move { answer }.boxed()
    }
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn reason(policy: &UrlPolicy, text: &str) -> Reason {
    match policy.check_url(&url(text)) {
        Err(refused) => refused.reason().clone(),
        Ok(_) => panic!("{text} was allowed"),
    }
}

fn kind(policy: &UrlPolicy, text: &str) -> AddressKind {
    match reason(policy, text) {
        Reason::Address { kind, .. } => kind,
        other => panic!("{text}: {other}"),
    }
}

fn allow_private() -> UrlPolicy {
    UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow)
}

#[test]
fn https_to_public_hosts_passes() {
    let policy = UrlPolicy::new();
    for text in [
        "https://example.com",
        "https://EXAMPLE.com:8443/a/b?sig=1#f",
        "https://8.8.8.8/a",
        "https://[2606:4700::1111]/a",
        "https://localhost.example.com/",
        "https://notlocalhost/",
    ] {
        let checked = policy.check_url(&url(text)).unwrap();
        assert_eq!(checked.url(), &url(text));
    }
    let checked = policy.check_url(&url("https://example.com/a")).unwrap();
    assert_eq!(checked.port(), 443);
    assert_eq!(checked.host(), &Host::Domain("example.com".to_owned()));
}

#[test]
fn other_schemes_are_refused() {
    let policy = allow_private().with_schemes(Schemes::HttpAndHttps);
    for text in [
        "ftp://example.com/a",
        "file:///etc/passwd",
        "data:text/plain,secret",
        "gopher://example.com/",
        "ws://example.com/",
        "javascript:alert(1)",
        "blob:https://example.com/x",
    ] {
        assert!(matches!(reason(&policy, text), Reason::Scheme(_)), "{text}");
    }
}

#[test]
fn plain_http_needs_leave() {
    let policy = UrlPolicy::new();
    for text in ["http://example.com/", "http://8.8.8.8/"] {
        assert_eq!(reason(&policy, text), Reason::PlainHttp);
        let policy = UrlPolicy::new().with_schemes(Schemes::HttpAndHttps);
        policy.check_url(&url(text)).unwrap();
    }
    let policy = UrlPolicy::new().with_schemes(Schemes::HttpAndHttps);
    assert_eq!(kind(&policy, "http://127.0.0.1/"), AddressKind::Loopback);
    assert_eq!(reason(&allow_private(), "http://8.8.8.8/"), Reason::PlainHttp);
}

#[test]
fn user_names_and_passwords_are_refused_and_not_repeated() {
    let policy = allow_private().with_schemes(Schemes::HttpAndHttps);
    for text in [
        "https://user@example.com/",
        "https://user:hush@example.com/",
        "https://:hush@example.com/",
        "https://example.com@127.0.0.1/",
    ] {
        assert_eq!(reason(&policy, text), Reason::UserInfo);
        let refused = policy.check_url(&url(text)).unwrap_err();
        let shown = format!("{refused} {refused:?}");
        assert!(!shown.contains("hush") && !shown.contains("user@"), "{shown}");
    }
}

#[test]
fn odd_spellings_of_an_address_are_that_address() {
    let policy = UrlPolicy::new();
    for text in [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://%31%32%37.0.0.1/",
        "https://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
        "https://127\u{3002}0\u{3002}0\u{3002}1/",
        "https:\\\\127.0.0.1\\",
        "https:127.0.0.1",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://\u{24db}ocalhost/",
    ] {
        assert_eq!(kind(&policy, text), AddressKind::Loopback, "{text}");
    }
    for text in ["https://0/", "https://0.0.0.0/", "https://[::]/"] {
        assert_eq!(kind(&policy, text), AddressKind::Unspecified, "{text}");
    }
    for text in [
        "https://169.254.169.254/latest/meta-data/",
        "https://2852039166/",
        "https://0xa9fea9fe/",
        "https://0251.0376.0251.0376/",
        "https://[::ffff:a9fe:a9fe]/",
    ] {
        assert_eq!(kind(&policy, text), AddressKind::Metadata, "{text}");
    }
    for text in ["https://256.0.0.1/", "https://1.2.3.4.5/", "https://0x100000000/"] {
        assert!(Url::parse(text).is_err(), "{text}");
    }
}

#[test]
fn metadata_services_of_every_cloud_are_refused_where_private_addresses_are_not() {
    let policy = UrlPolicy::new().with_private_addresses(PrivateAddresses::Allow);
    for address in [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.42.42",
        "169.254.0.23",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd20:ce::254]",
        "[fd00:c1::a9fe:a9fe]",
        "[fd00:42::42]",
        "[fd00:a9fe:a9fe::1]",
        "[fd00:100::100:200]",
        "[fe80::a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b::6464:64c8]",
        "[2002:a83f:8110::]",
        "[::ffff:192.0.0.192]",
    ] {
        let text = format!("https://{address}/latest/");
        assert_eq!(kind(&policy, &text), AddressKind::Metadata, "{address}");
    }
    // Their neighbours are addresses of private networks like others.
    for address in ["100.100.100.201", "[fd00:42::43]", "[fd20:ce::255]", "[fd00:ec3::254]"] {
        let allowed = policy.check_url(&url(&format!("https://{address}/")));
        assert!(allowed.is_ok(), "{address}: {allowed:?}");
    }
}

#[test]
fn addresses_are_sorted_by_what_they_are_for() {
    use AddressKind as K;
    for (addresses, kind) in [
        (
            &[
                "1.1.1.1",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "126.255.255.255",
                "128.0.0.0",
                "169.253.255.255",
                "169.255.0.0",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.0",
                "192.0.3.0",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "203.0.112.255",
                "203.0.114.0",
                "223.255.255.255",
                "::ffff:8.8.8.8",
                "64:ff9b::8.8.8.8",
                "2002:808:808::1",
                "2000::",
                "2001:200::1",
                "2606:4700::1111",
                "2a00:1450::1",
                "3fff:1000::",
            ][..],
            K::Public,
        ),
        (
            &[
                "127.0.0.0",
                "127.255.255.255",
                "::1",
                "::ffff:127.0.0.1",
                "::ffff:0:127.0.0.1",
                "64:ff9b::127.0.0.1",
                "2002:7f00:1::",
            ],
            K::Loopback,
        ),
        (
            &[
                "10.0.0.0",
                "10.255.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "192.168.0.0",
                "192.168.255.255",
                "fc00::",
                "fdff:ffff::1",
                "fec0::1",
                "feff::1",
                "::10.0.0.1",
                "::ffff:10.0.0.1",
                "64:ff9b::10.0.0.1",
                "2002:a00:1::1",
                "2002:c0a8:101::",
            ],
            K::Private,
        ),
        (&["100.64.0.0", "100.127.255.255"], K::SharedSpace),
        (
            &[
                "169.254.169.254",
                "168.63.129.16",
                "100.100.100.200",
                "192.0.0.192",
                "fd00:ec2::254",
                "64:ff9b::169.254.169.254",
                "2002:a9fe:a9fe::",
            ],
            K::Metadata,
        ),
        (&["169.254.0.0", "169.254.255.255", "fe80::1", "febf::1"], K::LinkLocal),
        (&["0.0.0.0", "0.255.255.255", "::"], K::Unspecified),
        (&["255.255.255.255", "::ffff:255.255.255.255"], K::Broadcast),
        (&["224.0.0.0", "239.255.255.255", "ff00::", "ff02::1", "ffff::"], K::Multicast),
        (
            &[
                "192.0.2.1",
                "198.51.100.1",
                "203.0.113.255",
                "2001:db8::1",
                "2001:db8:ffff::",
                "3fff::",
                "3fff:fff::",
            ],
            K::Documentation,
        ),
        (&["198.18.0.0", "198.19.255.255", "2001:2::"], K::Benchmarking),
        (&["2001::", "2001:0:ffff::1", "64:ff9b:1::1", "64:ff9b::1:0:0"], K::Tunnel),
        (
            &[
                "192.0.0.0",
                "192.0.0.255",
                "192.88.99.1",
                "240.0.0.0",
                "255.255.255.254",
                "::8.8.8.8",
                "100::1",
                "2001:1::1",
                "2001:20::1",
                "2001:1ff::",
                "1fff::",
                "4000::",
                "5f00::1",
                "fe00::",
            ],
            K::Reserved,
        ),
    ] {
        for address in addresses {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!(K::of(parsed), kind, "{address}");
        }
    }
}

proptest! {
    #[test]
    fn a_mapped_address_is_what_it_wraps(bits in any::<u32>()) {
        let inner = Ipv4Addr::from(bits);
        prop_assert_eq!(
            AddressKind::of(inner.to_ipv6_mapped().into()),
            AddressKind::of(inner.into())
        );
    }

    #[test]
    fn no_wrapping_makes_a_refused_address_public(bits in any::<u32>()) {
        let inner = Ipv4Addr::from(bits);
        let [a, b, c, d] = inner.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let wrapped = [
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        ];
        for address in wrapped {
            if AddressKind::of(address.into()) == AddressKind::Public {
                prop_assert_eq!(AddressKind::of(inner.into()), AddressKind::Public);
            }
        }
    }

    /// The standard library knows some of the kinds too.
    #[test]
    fn what_the_standard_library_calls_special_is_not_public(bits in any::<u32>()) {
        let address = Ipv4Addr::from(bits);
        if address.is_private()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_documentation()
            || address.is_unspecified()
        {
            prop_assert_ne!(AddressKind::of(address.into()), AddressKind::Public);
        }
    }

    #[test]
    fn public_ipv6_is_global_unicast(bits in any::<u128>()) {
        let address = Ipv6Addr::from(bits);
        if AddressKind::of(address.into()) == AddressKind::Public {
            prop_assert_eq!(address.segments()[0] & 0xe000, 0x2000);
        }
    }

    #[test]
    fn no_error_shows_a_query(secret in "[a-z0-9]{12}") {
        let text = format!("http://example.com/p?sig={secret}#{secret}");
        let refused = UrlPolicy::new().check_url(&url(&text)).unwrap_err();
        let shown = format!("{refused} {refused:?}");
        prop_assert!(!shown.contains(&secret), "{}", shown);
    }
}

#[test]
fn leave_for_private_addresses_reaches_local_ones_only() {
    let policy = allow_private();
    for text in [
        "http://127.0.0.1:9000/a",
        "http://localhost/a",
        "http://10.1.2.3/",
        "https://192.168.1.1/",
        "http://[::1]/",
        "http://[fd12::1]/",
        "http://100.64.0.1/",
        "http://[::ffff:10.0.0.1]/",
        "https://8.8.8.8/",
    ] {
        policy.check_url(&url(text)).unwrap();
    }
    for text in [
        "https://169.254.169.254/",
        "https://168.63.129.16/",
        "https://169.254.1.1/",
        "https://[fe80::1]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://198.18.0.1/",
        "https://240.0.0.1/",
        "https://[2001::1]/",
    ] {
        kind(&policy, text);
    }
}

#[test]
fn only_listed_hosts_pass() {
    let policy = UrlPolicy::new()
        .with_hosts([
            "files.example.com",
            "*.Blob.Core.Windows.net",
            "b\u{fc}cher.example",
            "8.8.8.8",
            "[2606:4700::1111]",
            "root.example.",
        ])
        .unwrap();
    for text in [
        "https://files.example.com/",
        "https://FILES.example.com./",
        "https://a.blob.core.windows.net/",
        "https://a.b.blob.core.windows.net./",
        "https://xn--bcher-kva.example/",
        "https://8.8.8.8/",
        "https://0x08080808/",
        "https://[2606:4700::1111]/",
        "https://root.example/",
    ] {
        policy.check_url(&url(text)).unwrap();
    }
    for text in [
        "https://example.com/",
        "https://a.files.example.com/",
        "https://blob.core.windows.net/",
        "https://evilblob.core.windows.net/",
        "https://a.blob.core.windows.net.evil.com/",
        "https://files.example.com.evil.com/",
        "https://8.8.4.4/",
        "https://[2606:4700::1112]/",
    ] {
        assert_eq!(reason(&policy, text), Reason::Host, "{text}");
    }
}

#[test]
fn a_listed_host_gets_no_leave_for_its_address() {
    let policy = UrlPolicy::new().with_hosts(["127.0.0.1"]).unwrap();
    assert_eq!(kind(&policy, "https://127.0.0.1/"), AddressKind::Loopback);
}

#[test]
fn patterns_that_cannot_be_meant_are_refused() {
    for pattern in [
        "",
        "*",
        "*.",
        "*.*.com",
        "a.*.com",
        "*example.com",
        "*.1.2.3.4",
        "https://example.com",
        "example.com:443",
        "example.com/a",
        "user@example.com",
    ] {
        let error = UrlPolicy::new().with_hosts([pattern]).unwrap_err();
        assert_eq!(error.field, "allowed_hosts", "{pattern}");
    }
    assert!(UrlPolicy::new().with_hosts::<&str>([]).is_err());
    assert!(UrlPolicy::new().with_ports([]).is_err());
}

#[test]
fn only_listed_ports_pass() {
    let policy = UrlPolicy::new().with_ports([443, 8443]).unwrap();
    policy.check_url(&url("https://example.com/")).unwrap();
    policy.check_url(&url("https://example.com:8443/")).unwrap();
    assert_eq!(reason(&policy, "https://example.com:22/"), Reason::Port(22));
    let any = UrlPolicy::new();
    any.check_url(&url("https://example.com:22/")).unwrap();
    assert_eq!(reason(&any, "https://example.com:0/"), Reason::Port(0));
}

#[tokio::test]
async fn a_name_is_resolved_once_and_gives_the_addresses_to_connect_to() {
    let table = Table::new(&[("files.example", &["8.8.8.8", "2606:4700::1111"])]);
    let policy = UrlPolicy::new().with_resolver(table.clone());
    let addresses = policy.resolve(&url("https://files.example:8443/a?b")).await.unwrap();
    let expected: Vec<SocketAddr> =
        vec!["8.8.8.8:8443".parse().unwrap(), "[2606:4700::1111]:8443".parse().unwrap()];
    assert_eq!(addresses, expected);
    assert_eq!(*table.asked.lock().unwrap(), ["files.example"]);
}

#[tokio::test]
async fn one_refused_address_refuses_the_name() {
    let table = Table::new(&[
        ("a.example", &["8.8.8.8", "10.0.0.1"]),
        ("b.example", &["169.254.169.254", "8.8.8.8"]),
        ("c.example", &["::ffff:127.0.0.1"]),
        ("d.example", &["8.8.8.8", "8.8.4.4", "fd00::1"]),
    ]);
    let policy = UrlPolicy::new().with_resolver(table);
    for (host, kind) in [
        ("a", AddressKind::Private),
        ("b", AddressKind::Metadata),
        ("c", AddressKind::Loopback),
        ("d", AddressKind::Private),
    ] {
        let refused = policy.resolve(&url(&format!("https://{host}.example/"))).await.unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Permanent);
        assert!(
            matches!(refused.reason(), Reason::Address { kind: found, .. } if *found == kind),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn plain_http_to_a_name_needs_local_addresses_only() {
    let table = Table::new(&[
        ("local.example", &["10.0.0.1", "127.0.0.1"]),
        ("mixed.example", &["10.0.0.1", "8.8.8.8"]),
        ("public.example", &["8.8.8.8"]),
    ]);
    let policy = allow_private().with_resolver(table);
    let resolve = |text: &str| {
        let (policy, url) = (policy.clone(), url(text));
        async move { policy.resolve(&url).await }
    };
    resolve("http://local.example/").await.unwrap();
    resolve("https://mixed.example/").await.unwrap();
    for text in ["http://mixed.example/", "http://public.example/"] {
        let refused = resolve(text).await.unwrap_err();
        assert_eq!(refused.reason(), &Reason::PlainHttp);
    }
}

#[tokio::test]
async fn a_refused_url_and_an_address_are_not_resolved() {
    let table = Table::new(&[]);
    let policy = UrlPolicy::new().with_resolver(table.clone());
    for text in ["http://a.example/", "https://u@a.example/", "https://localhost/"] {
        policy.resolve(&url(text)).await.unwrap_err();
    }
    let addresses = policy.resolve(&url("https://8.8.8.8/")).await.unwrap();
    assert_eq!(addresses, ["8.8.8.8:443".parse().unwrap()]);
    assert!(table.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_name_without_an_address_may_have_one_later() {
    let table = Table::new(&[("empty.example", &[])]);
    let policy = UrlPolicy::new().with_resolver(table);
    for text in ["https://empty.example/", "https://unknown.example/"] {
        let refused = policy.resolve(&url(text)).await.unwrap_err();
        assert_eq!(refused.reason(), &Reason::Unresolved);
        assert_eq!(refused.class(), ErrorClass::Transient);
        assert!(std::error::Error::source(&refused).is_some());
    }
}

#[test]
fn redaction_keeps_scheme_host_port_and_path() {
    for (text, shown) in [
        (
            "https://u:p@example.com:8443/a/b%20c?sig=secret#frag",
            "https://example.com:8443/a/b%20c",
        ),
        ("https://example.com?sig=secret", "https://example.com/"),
        ("https://[2606::1]/a", "https://[2606::1]/a"),
        ("data:text/plain,secret", "data:(hidden)"),
        ("file:///secret", "file:(hidden)"),
    ] {
        assert_eq!(redacted(&url(text)), shown);
    }
    let checked = UrlPolicy::new().check_url(&url("https://example.com/a?sig=secret")).unwrap();
    assert_eq!(format!("{checked:?}"), "CheckedUrl(https://example.com/a)");
}

#[test]
fn refusals_say_why_in_plain_words() {
    let refused = |text: &str| UrlPolicy::new().check_url(&url(text)).unwrap_err().to_string();
    assert_eq!(
        refused("https://10.0.0.1/a?sig=secret"),
        "https://10.0.0.1/a is refused: its host has the address 10.0.0.1, which is in a private \
         network"
    );
    assert_eq!(
        refused("https://localhost/a"),
        "https://localhost/a is refused: its host (by its name) is the machine the worker runs on"
    );
    assert_eq!(
        refused("http://example.com/a"),
        "http://example.com/a is refused: it is plain http; use https, or allow http in the policy"
    );
}

#[test]
fn of_a_text_that_is_no_url_no_secret_is_shown() {
    for (text, shown) in [
        ("no url", "no url"),
        ("http://u:hush@127.0.0.1:99999/x?sig=hush", "http://127.0.0.1:99999/x…"),
        ("http://u:hush@h/a b?sig=hush", "http://h/a b…"),
        ("http:/u:hush@h/?sig=hush", "http:/h/…"),
        ("u:hush@h", "u:h"),
        ("https://h/a@b#hush", "https://h/a@b…"),
        ("", ""),
        ("://@", "://"),
        ("https://u:hu/sh@h/x", "https://…"),
        ("https://u:hu?sh@h/x", "https://…"),
        ("https://u:hu#sh@h/x", "https://…"),
        ("https://u:hu\\sh@h/x", "https://…"),
        ("https://[::1:80/x@y", "https://…"),
        ("https://[::1]:8x/y", "https://[::1]:8x/y"),
        ("https:-/user:hush@h/a b", "https:…h/a b"),
        ("//h/user:hush@i/a?sig=hush", "//h/user:i/a…"),
        ("https:a.binsig=hush#x", "https:…"),
        ("a.binsig=hush,https:b", "…"),
    ] {
        assert_eq!(redacted_text(text), shown);
    }
}
