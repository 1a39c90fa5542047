//! The environment and a file become settings, or every reason why they cannot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

/// The variables of the benches.
#[path = "../benches/own/mod.rs"]
mod own;

use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::Error;
use longshore::config::{DownloadLimits, Rate, RateLimits, Redirects};
use longshore::credential::{Credential, SecretAddress, SecretStore};
use longshore::secret::Secret;
use longshore::settings::{Settings, SettingsError, TransportKind};
use longshore::transport::event_hubs::Protocol;

const STRING: &str =
    "Endpoint=sb://hub.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5";
const BOUND: &str = "Endpoint=sb://hub.servicebus.windows.net/;SharedAccessKeyName=n;\
                     SharedAccessKey=Y2FuYXJ5;EntityPath=orders";
const KEY: &str = "EVENTHUB_CONNECTION_STRING";

fn load(environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(environment.iter().copied(), None)
}

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("worker.toml")
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::load(environment.iter().copied(), Some(&self.path()))
    }
}

/// The one thing that is wrong, which never shows a key.
#[track_caller]
fn problem(loaded: Result<Settings, SettingsError>) -> String {
    let error = loaded.expect_err("a problem");
    assert_eq!(error.problems().len(), 1, "{error}");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("Y2FuYXJ5") && !shown.contains("canary"), "{shown}");
    error.problems()[0].to_string()
}

#[test]
fn a_connection_string_is_enough() {
    let settings = load(&[(KEY, BOUND)]).unwrap();
    assert_eq!(settings.transport(), TransportKind::EventHubs);
    assert_eq!(settings.entity().unwrap().as_str(), "orders");
    assert_eq!(settings.consumer_group().as_str(), "$Default");
    assert_eq!(settings.consumer_options(), &longshore::ConsumerOptions::default());
    let namespace = settings.namespace().unwrap();
    assert_eq!(namespace.host(), "hub.servicebus.windows.net");
    assert!(format!("{namespace:?}").contains("WebSocket"), "the way that private endpoints have");
    assert!(settings.warnings().is_empty());
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = File::new(&format!(
        "EVENTHUB_NAMESPACE_CONNECTION_STRING = \"{BOUND}\"\n\
         EVENTHUB_CONSUMER_GROUP = \"billing\"\n\
         LONGSHORE_MAX_BATCH_SIZE = 50\n\
         LONGSHORE_BATCH_TIMEOUT = \"250ms\"\n"
    ));
    let settings = file.load(&[
        (KEY, STRING),
        ("EVENTHUB_ENTITY_NAME", "others"),
        ("LONGSHORE_MAX_BATCH_SIZE", "70"),
    ]);
    let settings = settings.unwrap();
    assert_eq!(settings.entity().unwrap().as_str(), "others", "the file's string is not used");
    assert_eq!(settings.consumer_group().as_str(), "billing");
    assert_eq!(settings.consumer_options().max_batch_size, 70);
    assert_eq!(settings.consumer_options().batch_timeout, Duration::from_millis(250));
}

#[test]
fn a_default_of_the_program_counts_where_neither_the_environment_nor_the_file_says_anything() {
    let file = File::new("LONGSHORE_BATCH_TIMEOUT = \"250ms\"\n");
    let defaults = [
        ("LONGSHORE_MAX_BATCH_SIZE", "10"),
        ("LONGSHORE_MAX_BATCH_BYTES", "1MiB"),
        ("LONGSHORE_BATCH_TIMEOUT", "9s"),
        ("LONGSHORE_TOPICS_LETTERS_ENTITY", "orders-letters"),
    ];
    let environment = [(KEY, STRING), ("LONGSHORE_MAX_BATCH_SIZE", "70")];
    let settings = Settings::load_with_defaults(defaults, environment, Some(&file.path())).unwrap();
    let options = settings.consumer_options();
    assert_eq!((options.max_batch_size, options.max_batch_bytes), (70, 1 << 20));
    assert_eq!(options.batch_timeout, Duration::from_millis(250));
    assert_eq!(settings.topic("letters").unwrap().entity().as_str(), "orders-letters");
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());

    let defaults = [("LONGSHORE_MAX_BATCH_SISE", "10"), ("LONGSHORE_MAX_BATCH_BYTES", "0")];
    let refused = Settings::load_with_defaults(defaults, environment, None).unwrap_err();
    let said: Vec<String> = refused.problems().iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        said[0],
        "LONGSHORE_MAX_BATCH_SISE (default of the program) is not a key; did you mean LONGSHORE_MAX_BATCH_SIZE?"
    );
    assert!(said[1].contains("LONGSHORE_MAX_BATCH_BYTES = 0 (default of the program)"), "{said:?}");
}

#[test]
fn an_empty_variable_is_none() {
    let settings = load(&[(KEY, BOUND), ("EVENTHUB_CONSUMER_GROUP", "")]).unwrap();
    assert_eq!(settings.consumer_group().as_str(), "$Default");
}

#[test]
fn an_alias_is_the_same_key() {
    let alias = "EVENTHUB_NAMESPACE_CONNECTION_STRING";
    assert_eq!(load(&[(alias, BOUND)]).unwrap().entity().unwrap().as_str(), "orders");
    assert!(load(&[(alias, BOUND), (KEY, BOUND)]).is_ok(), "said twice is said");
    let said = problem(load(&[(KEY, STRING), (alias, BOUND)]));
    assert_eq!(
        said,
        "EVENTHUB_NAMESPACE_CONNECTION_STRING = (hidden) (environment): it must be the same as \
         EVENTHUB_CONNECTION_STRING, which is another name of the key"
    );
}

#[test]
fn each_worker_may_have_a_hub() {
    let settings = load(&[
        (KEY, STRING),
        ("EVENTHUB_ENTITY_NAME", "common"),
        ("EVENTHUB_ENTITY_CLAIM_X_UPLOAD", "uploads"),
    ])
    .unwrap();
    assert_eq!(settings.entity_of("claim-x.upload").unwrap().as_str(), "uploads");
    assert_eq!(settings.entity_of("download").unwrap().as_str(), "common");
    let settings = load(&[(KEY, STRING)]).unwrap();
    let error = settings.entity_of("down load").unwrap_err().to_string();
    assert!(error.contains("EVENTHUB_ENTITY_DOWN_LOAD") && error.contains("EVENTHUB_ENTITY_NAME"));
}

#[test]
fn an_entity_given_twice_with_different_names_is_refused_with_both() {
    for key in ["EVENTHUB_ENTITY_NAME", "EVENTHUB_ENTITY_ENRICH"] {
        let said = problem(load(&[(KEY, BOUND), (key, "parcels")]));
        let both = format!(
            "{key} (environment) = parcels and the EntityPath = orders of the connection string \
             name different hubs"
        );
        assert!(said.starts_with(&both), "{said}");
        for same in ["orders", "Orders"] {
            assert!(load(&[(KEY, BOUND), (key, same)]).is_ok(), "the service ignores case");
        }
    }
}

#[test]
fn each_bad_value_has_its_own_message() {
    let unreadable = tempfile::tempdir().unwrap();
    let empty = unreadable.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    let missing = unreadable.path().join("missing.pem");
    let (empty, missing) = (empty.to_str().unwrap(), missing.to_str().unwrap());
    for (key, value, said) in [
        (KEY, "Endpoint=canary", "EVENTHUB_CONNECTION_STRING = (hidden) (environment): "),
        (
            "PIPELINE_TRANSPORT",
            "kafka",
            "PIPELINE_TRANSPORT = kafka (environment): it must be eventhub or memory",
        ),
        ("EVENTHUB_CA_FILE", missing, "it cannot be read: No such file"),
        ("EVENTHUB_CA_FILE", empty, "there is no certificate in it"),
        ("EVENTHUB_ENTITY_NAME", "two words", "it must be 1 to 256 letters, digits"),
        ("EVENTHUB_CONSUMER_GROUP", "$default group", "it must be 1 to 50 letters, digits"),
        (
            "EVENTHUB_PROTOCOL",
            "quic",
            "EVENTHUB_PROTOCOL = quic (environment): it must be websocket or tcp",
        ),
        (
            "EVENTHUB_PROXY",
            "user:canary@proxy",
            "EVENTHUB_PROXY = (hidden) (environment): it must read http://HOST:PORT",
        ),
        ("DISABLE_SSL_VERIFY", "yes", "it must be true or false"),
        (
            "EVENTHUB_CREDENTIAL",
            "password",
            "it must be connection-string, developer, managed-identity or workload-identity",
        ),
        (
            "LONGSHORE_MAX_BATCH_SIZE",
            "0",
            "LONGSHORE_MAX_BATCH_SIZE = 0 (environment): it must be from 1 to 32768",
        ),
        ("LONGSHORE_BATCH_TIMEOUT", "5", "it must be from 1ms to a year, such as 500ms"),
        (
            "EVENTHUB_NAMESPACE",
            "other.servicebus.windows.net",
            "it must be the namespace of EVENTHUB_CONNECTION_STRING, which is hub.servicebus.windows.net",
        ),
        (
            "EVENTHUB_CONNECTION_STRING_SECRET",
            "https://v.vault.azure.net/secrets/s",
            "it must not be given beside EVENTHUB_CONNECTION_STRING",
        ),
    ] {
        let mut environment = vec![(KEY, STRING), (key, value)];
        environment.dedup_by_key(|(key, _)| *key == KEY);
        let environment: Vec<_> = if key == KEY { vec![(key, value)] } else { environment };
        let message = problem(load(&environment));
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_its_place() {
    let file = File::new(
        "EVENTHUB_PROTOCOL = \"quic\"\n\n\
         LONGSHORE_MAX_BATCH_SISE = 5\n\
         LONGSHORE_WINDOW_EVENTS = [1]\n\
         LONGSHORE_MAX_ATTEMPTS = 0\n",
    );
    let error = file.load(&[("PIPELINE_TRANSPORT", "kafka")]).unwrap_err();
    let said = error.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let path = file.path();
    let path = path.display();
    for part in [
        format!("EVENTHUB_PROTOCOL = quic ({path}:1): it must be websocket or tcp"),
        format!(
            "LONGSHORE_MAX_BATCH_SISE ({path}:3) is not a key; did you mean LONGSHORE_MAX_BATCH_SIZE?"
        ),
        format!("LONGSHORE_WINDOW_EVENTS ({path}:4): it must be text, a number, true or false"),
        format!("LONGSHORE_MAX_ATTEMPTS = 0 ({path}:5): it must be from 1 to"),
        "PIPELINE_TRANSPORT = kafka (environment)".to_owned(),
        "EVENTHUB_CONNECTION_STRING is not set".to_owned(),
    ] {
        assert!(said.contains(&part), "{part} is not in\n{said}");
    }
    assert_eq!(error.problems().len(), 6, "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let said = problem(Settings::load([(KEY, BOUND)], Some("no/such/worker.toml".as_ref())));
    assert!(said.starts_with("no/such/worker.toml cannot be read: "), "{said}");
    let file = File::new("A = 1\nEVENTHUB_CONNECTION_STRING = \"canary\" x\n");
    let said = problem(file.load(&[(KEY, BOUND)]));
    assert!(said.contains("worker.toml:2: "), "{said}");
}

#[test]
fn a_variable_that_is_probably_misspelt_is_a_warning() {
    let settings = load(&[
        (KEY, BOUND),
        ("EVENTHUB_CONSUMER_GRUOP", "billing"),
        ("LONGSHORE_COLOUR", "blue"),
        ("EVENTHUB_ENTITY_SOMEBODY", "orders"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "EVENTHUB_CONSUMER_GRUOP (environment) is not a key; did you mean EVENTHUB_CONSUMER_GROUP?",
            "LONGSHORE_COLOUR (environment) is not a key",
        ]
    );
}

#[test]
fn a_misspelt_variable_is_named_beside_what_is_not_set() {
    let error = load(&[("EVENTHUB_CONECTION_STRING", BOUND)]).unwrap_err();
    assert_eq!(error.problems().len(), 1);
    let said = error.to_string();
    assert!(said.contains("EVENTHUB_CONNECTION_STRING is not set"), "{said}");
    assert!(said.contains("did you mean EVENTHUB_CONNECTION_STRING?"), "{said}");
    assert!(!said.contains("Y2FuYXJ5"), "{said}");
}

#[test]
fn production_refuses_to_believe_any_certificate() {
    for production in ["production", "prod", "Production"] {
        let said = problem(load(&[
            (KEY, BOUND),
            ("DISABLE_SSL_VERIFY", "true"),
            ("ENVIRONMENT", production),
        ]));
        assert!(said.contains("it must be false if ENVIRONMENT = "), "{said}");
        assert!(said.contains("EVENTHUB_CA_FILE"), "{said}");
        let on = [(KEY, BOUND), ("DISABLE_SSL_VERIFY", "false"), ("ENVIRONMENT", production)];
        assert!(load(&on).unwrap().warnings().is_empty());
    }
    for environment in ["", "development", "produktion"] {
        let settings =
            load(&[(KEY, BOUND), ("DISABLE_SSL_VERIFY", "TRUE"), ("ENVIRONMENT", environment)]);
        let settings = settings.unwrap();
        let [warning] = settings.warnings() else { panic!("{:?}", settings.warnings()) };
        assert!(warning.contains("CERTIFICATES ARE NOT CHECKED"), "{warning}");
    }
}

#[test]
fn a_choice_of_protocol_stands_above_what_the_connection_string_says() {
    let here = "Endpoint=sb://localhost:7001;SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5;\
                UseDevelopmentEmulator=true;EntityPath=orders";
    let protocol = |more: &[(&str, &str)]| {
        load(&[&[(KEY, here)], more].concat()).unwrap().namespace().unwrap().protocol()
    };
    assert_eq!(protocol(&[]), Protocol::Tcp);
    assert_eq!(protocol(&[("EVENTHUB_PROTOCOL", "websocket")]), Protocol::WebSocket);
    let there = here.replace("localhost", "broker.example");
    let said = problem(load(&[(KEY, &there)]));
    assert!(said.contains("(hidden)"), "{said}");
}

#[test]
fn the_proxy_of_the_environment_counts_unless_the_host_is_reached_directly() {
    let proxy = |more: &[(&str, &str)]| {
        let settings = load(&[&[(KEY, BOUND)], more].concat()).unwrap();
        format!("{:?}", settings.namespace().unwrap()).contains("proxy:3128")
    };
    assert!(!proxy(&[]));
    assert!(proxy(&[("EVENTHUB_PROXY", "http://proxy:3128"), ("NO_PROXY", "*")]));
    for name in ["HTTPS_PROXY", "https_proxy"] {
        let variable = (name, "http://proxy:3128");
        assert!(proxy(&[variable]));
        assert!(!proxy(&[variable, ("NO_PROXY", ".windows.net")]));
        assert!(!proxy(&[variable, ("EVENTHUB_PROTOCOL", "tcp")]), "proxies let 443 through");
        assert!(!proxy(&[variable, ("EVENTHUB_PROXY", "http://other:3128")]));
    }
    let said = problem(load(&[(KEY, BOUND), ("HTTPS_PROXY", "socks5://me:canary@proxy")]));
    assert!(said.starts_with("HTTPS_PROXY = (hidden) (environment): it must"), "{said}");
}

#[test]
fn the_memory_transport_needs_no_namespace() {
    let settings = load(&[("PIPELINE_TRANSPORT", "memory")]).unwrap();
    assert_eq!(settings.transport(), TransportKind::Memory);
    let error = settings.namespace().unwrap_err().to_string();
    assert!(error.contains("PIPELINE_TRANSPORT = memory"), "{error}");
    assert!(problem(load(&[])).starts_with("EVENTHUB_CONNECTION_STRING is not set: "));
}

#[test]
fn debug_shows_no_secret() {
    let settings =
        load(&[(KEY, BOUND), ("EVENTHUB_PROXY", "http://me:canary@proxy:3128")]).unwrap();
    let shown = format!("{settings:#?}");
    assert!(shown.contains("hub.servicebus.windows.net"), "{shown}");
    for secret in ["Y2FuYXJ5", "canary", "SharedAccessKey"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

const SECRET: &[(&str, &str)] = &[
    ("EVENTHUB_CONNECTION_STRING_SECRET", "https://v.vault.azure.net/secrets/hub"),
    ("EVENTHUB_CREDENTIAL", "managed-identity"),
    ("AZURE_CLIENT_ID", "me"),
];

#[derive(Debug)]
struct Vault(&'static str);

impl SecretStore for Vault {
    fn fetch<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<Secret, Error>> {
        assert_eq!(address.to_string(), "https://v.vault.azure.net/secrets/hub");
        async { Ok(Secret::new(self.0)) }.boxed()
    }
}

#[tokio::test]
async fn a_connection_string_comes_from_a_vault() {
    let settings = load(SECRET).unwrap();
    let me = Credential::ManagedIdentity { client_id: Some("me".to_owned()) };
    assert_eq!(settings.credential(), Some(&me));
    let error = settings.namespace().unwrap_err().to_string();
    assert!(error.contains("https://v.vault.azure.net/secrets/hub"), "{error}");
    let fetched = settings.fetched_from(&Vault(BOUND)).await.unwrap();
    assert_eq!(fetched.entity().unwrap().as_str(), "orders");
    assert_eq!(fetched.namespace().unwrap().host(), "hub.servicebus.windows.net");
}

#[tokio::test]
async fn what_a_vault_gives_is_checked_like_the_rest() {
    let settings = load(&[SECRET, &[("EVENTHUB_ENTITY_NAME", "parcels")]].concat()).unwrap();
    let error = settings.clone().fetched_from(&Vault(BOUND)).await.unwrap_err().to_string();
    assert!(error.contains("EVENTHUB_ENTITY_NAME (environment) = parcels"), "{error}");
    let error = settings.fetched_from(&Vault("canary")).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("secrets/hub") && !shown.contains("canary"), "{shown}");
}

#[test]
fn a_namespace_or_a_vault_needs_a_credential() {
    for needs in [("EVENTHUB_NAMESPACE", "a.servicebus.windows.net"), SECRET[0]] {
        assert!(problem(load(&[needs])).starts_with("EVENTHUB_CREDENTIAL is not set: "));
        let said = problem(load(&[needs, ("EVENTHUB_CREDENTIAL", "connection-string")]));
        assert!(said.contains("it must go with EVENTHUB_CONNECTION_STRING"), "{said}");
    }
    let said = problem(load(&[(KEY, BOUND), ("EVENTHUB_CREDENTIAL", "developer")]));
    assert!(said.contains("it must be connection-string beside"), "{said}");
}

#[cfg(feature = "identity")]
#[test]
fn a_namespace_is_entered_with_a_credential() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    let settings = load(&[
        ("EVENTHUB_NAMESPACE", "A.servicebus.windows.net"),
        ("EVENTHUB_CREDENTIAL", "workload-identity"),
        ("AZURE_CLIENT_ID", "client"),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_FEDERATED_TOKEN_FILE", token.to_str().unwrap()),
        ("EVENTHUB_ENTITY_NAME", "orders"),
    ])
    .unwrap();
    let error = settings.namespace().unwrap_err();
    assert_eq!(error.class(), longshore::ErrorClass::Auth);
    let chain = longshore::error::error_chain(&error).join(": ");
    assert!(chain.contains(token.to_str().unwrap()), "{chain}");
    std::fs::write(&token, "token").unwrap();
    assert_eq!(settings.namespace().unwrap().host(), "a.servicebus.windows.net");
}

const CONTAINER: &str = "https://acc.blob.core.windows.net/state";
const SIGNED: &str = "https://acc.blob.core.windows.net/state?sv=1&sig=canary";

#[test]
fn checkpoints_are_in_a_folder_unless_a_container_is_named() {
    let place = |more: &[(&str, &str)]| {
        let environment = [&[(KEY, BOUND)], more].concat();
        load(&environment).unwrap().checkpoint_place().to_string()
    };
    assert_eq!(place(&[]), "longshore-state/checkpoints");
    assert_eq!(place(&[("LONGSHORE_CHECKPOINT_FOLDER", "/var/lib/a")]), "/var/lib/a");
    assert_eq!(place(&[("LONGSHORE_CHECKPOINT_CONTAINER", SIGNED)]), CONTAINER);
    let own = ("LONGSHORE_CHECKPOINT_CREDENTIAL", "managed-identity");
    assert_eq!(place(&[("LONGSHORE_CHECKPOINT_CONTAINER", CONTAINER), own]), CONTAINER);

    let common = [("EVENTHUB_NAMESPACE", "a.example"), ("EVENTHUB_CREDENTIAL", "managed-identity")];
    let environment = [&common[..], &[("LONGSHORE_CHECKPOINT_CONTAINER", CONTAINER)]].concat();
    let settings = load(&environment).unwrap();
    assert!(settings.open_stores().unwrap().leases.is_some());
}

#[test]
fn a_folder_is_opened_without_leases() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    let folder = ("LONGSHORE_CHECKPOINT_FOLDER", folder.to_str().unwrap());
    let settings = load(&[(KEY, BOUND), folder]).unwrap();
    let stores = settings.open_stores().unwrap();
    assert!(stores.leases.is_none());
    let error = settings.open_stores().unwrap_err().to_string();
    assert!(error.contains("stop it first"), "{error}");
    drop(stores);
    settings.open_stores().unwrap();
}

#[test]
fn a_container_that_nothing_opens_is_refused_and_no_signature_shown() {
    let container = "LONGSHORE_CHECKPOINT_CONTAINER";
    for (more, said) in [
        (&[(container, CONTAINER)][..], "go with LONGSHORE_CHECKPOINT_CREDENTIAL"),
        (&[(container, "canary")], "(hidden) (environment): it must read https://ACCOUNT"),
        (
            &[
                (container, "https://acc.blob.core.windows.net/state%3Fsv=1%26sig=canary"),
                ("LONGSHORE_CHECKPOINT_CREDENTIAL", "developer"),
            ],
            "(hidden) (environment): its path must hold no signature",
        ),
        (
            &[(container, SIGNED), ("LONGSHORE_CHECKPOINT_FOLDER", "a")],
            "LONGSHORE_CHECKPOINT_FOLDER = a (environment): it must not be given beside",
        ),
        (
            &[(container, SIGNED), ("LONGSHORE_CHECKPOINT_CREDENTIAL", "developer")],
            "it must go with LONGSHORE_CHECKPOINT_CONTAINER without a signature",
        ),
        (
            &[("LONGSHORE_CHECKPOINT_CREDENTIAL", "developer")],
            "it must go with LONGSHORE_CHECKPOINT_CONTAINER without a signature",
        ),
    ] {
        let said_is = problem(load(&[&[(KEY, BOUND)], more].concat()));
        assert!(said_is.contains(said), "{said_is}");
    }
    let settings = load(&[(KEY, BOUND), (container, SIGNED)]).unwrap();
    let shown = format!("{settings:?} {:?}", settings.open_stores().unwrap());
    assert!(!shown.contains("canary") && shown.contains(CONTAINER), "{shown}");
}

#[test]
fn lease_times_that_do_not_go_together_are_named_with_the_bound() {
    const EXPIRY: &str = "LONGSHORE_LEASE_EXPIRY";
    const HEARTBEAT: &str = "LONGSHORE_HEARTBEAT_INTERVAL";
    const LOOK: &str = "LONGSHORE_LOOK_INTERVAL";
    let settings = load(&[(KEY, BOUND), (EXPIRY, "1m"), (LOOK, "30s")]).unwrap();
    assert_eq!(settings.lease_options().lease_expiry, Duration::from_secs(60));
    type Given = &'static [(&'static str, &'static str)];
    type Problems = &'static [&'static str];
    let cases: [(Given, Problems); 9] = [
        (
            &[(HEARTBEAT, "11s")],
            &["LONGSHORE_HEARTBEAT_INTERVAL = 11s (environment): it must be at most a third of \
               LONGSHORE_LEASE_EXPIRY, which is 30s by default"],
        ),
        (
            &[(EXPIRY, "14s"), (LOOK, "1s")],
            &["LONGSHORE_LEASE_EXPIRY = 14s (environment): it must be at least three times \
               LONGSHORE_HEARTBEAT_INTERVAL, which is 5s by default"],
        ),
        (
            &[(EXPIRY, "40s"), (HEARTBEAT, "20s")],
            &["LONGSHORE_LEASE_EXPIRY = 40s (environment): it must be at least three times \
               LONGSHORE_HEARTBEAT_INTERVAL, which is 20s (environment)"],
        ),
        (
            &[(LOOK, "1m")],
            &["LONGSHORE_LOOK_INTERVAL = 1m (environment): it must be at most half of \
               LONGSHORE_LEASE_EXPIRY, which is 30s by default"],
        ),
        (
            &[(EXPIRY, "18s")],
            &["LONGSHORE_LEASE_EXPIRY = 18s (environment): it must be at least twice \
               LONGSHORE_LOOK_INTERVAL, which is 10s by default"],
        ),
        (
            &[(LOOK, "21s"), (EXPIRY, "40s")],
            &["LONGSHORE_LOOK_INTERVAL = 21s (environment): it must be at most half of \
               LONGSHORE_LEASE_EXPIRY, which is 40s (environment)"],
        ),
        (
            &[(LOOK, "1m"), (HEARTBEAT, "11s")],
            &["LONGSHORE_HEARTBEAT_INTERVAL = 11s", "LONGSHORE_LOOK_INTERVAL = 1m"],
        ),
        (
            &[(EXPIRY, "14s")],
            &[
                "LONGSHORE_LEASE_EXPIRY = 14s (environment): it must be at least three times",
                "LONGSHORE_LEASE_EXPIRY = 14s (environment): it must be at least twice",
            ],
        ),
        // What the expiry is meant to be is not known.
        (&[(LOOK, "1m"), (EXPIRY, "soon")], &["LONGSHORE_LEASE_EXPIRY = soon"]),
    ];
    for (given, expected) in cases {
        let error = load(&[&[(KEY, BOUND)], given].concat()).unwrap_err();
        let said: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{said}");
        }
    }
}

#[test]
fn the_container_is_opened_by_the_credential_that_opened_the_vault() {
    let secret = "https://v.vault.azure.net/secrets/hub";
    let settings = load(&[
        ("EVENTHUB_CONNECTION_STRING_SECRET", secret),
        ("EVENTHUB_CREDENTIAL", "managed-identity"),
        ("LONGSHORE_CHECKPOINT_CONTAINER", CONTAINER),
    ]);
    let fetched = settings.unwrap().fetched_from(&Vault(BOUND)).now_or_never().unwrap().unwrap();
    assert!(fetched.open_stores().unwrap().leases.is_some());
}

#[test]
fn the_limits_of_transfer_workers_are_read_and_what_cannot_be_kept_is_refused() {
    let file = File::new(
        "LONGSHORE_REQUESTS_PER_SECOND_PER_HOST = 0.5\n\
         LONGSHORE_BYTES_PER_SECOND = \"20MB+2MB\"\n\
         LONGSHORE_CONNECTIONS_PER_HOST = 4\n",
    );
    let settings = file.load(&[(KEY, BOUND), ("LONGSHORE_REQUESTS_PER_SECOND", "50")]).unwrap();
    let mut limits = RateLimits::default();
    limits.requests_per_second = Some(Rate::new(50.0));
    limits.requests_per_second_per_host = Some(Rate::new(0.5));
    limits.bytes_per_second = Some(Rate::new(20e6).with_burst(2e6));
    assert_eq!(*settings.rate_limits(), limits);
    assert_eq!(settings.connections_per_host(), Some(4));
    let settings = load(&[(KEY, BOUND)]).unwrap();
    assert_eq!(*settings.rate_limits(), RateLimits::default());
    assert_eq!(settings.connections_per_host(), None);
    for (key, value, must) in [
        ("LONGSHORE_REQUESTS_PER_SECOND", "0", "from one an hour"),
        ("LONGSHORE_BYTES_PER_SECOND", "NaN", "from 1 to"),
        ("LONGSHORE_BYTES_PER_SECOND_PER_HOST", "1MB+2MB", "its burst"),
        ("LONGSHORE_REQUESTS_PER_SECOND_PER_HOST", "99999999", "to 1000000 a second"),
        ("LONGSHORE_CONNECTIONS_PER_HOST", "0", "from 1 to 1000000"),
    ] {
        let problem = problem(load(&[(KEY, BOUND), (key, value)]));
        assert!(problem.starts_with(&format!("{key} = {value} ")), "{problem}");
        assert!(problem.contains(must), "{problem}");
    }
}

#[test]
fn how_downloads_ask_is_read_and_no_secret_is_repeated() {
    let credentials = File::new("[\"https://files.example.com\"]\nbearer = \"hush\"\n");
    let path = credentials.path().to_str().unwrap().to_owned();
    let settings = load(&[
        (KEY, BOUND),
        ("LONGSHORE_DOWNLOAD_READ_TIMEOUT", "45s"),
        ("LONGSHORE_DOWNLOAD_MAX_BYTES", "1000"),
        ("LONGSHORE_DOWNLOAD_REDIRECTS", "refuse"),
        ("LONGSHORE_DOWNLOAD_PROXY", "http://me:hush@proxy:3128"),
        ("LONGSHORE_DOWNLOAD_CREDENTIALS", &path),
    ])
    .unwrap();
    let mut limits = DownloadLimits::default();
    limits.read_timeout = Duration::from_secs(45);
    limits.max_bytes = 1_000;
    assert_eq!(settings.download_limits(), limits);
    assert_eq!(settings.http_options().redirects(), Redirects::Refuse);
    assert!(settings.http_options().proxy().is_some());
    let debug = format!("{settings:?}");
    assert!(!debug.contains("hush"), "{debug}");
    assert_eq!(load(&[(KEY, BOUND)]).unwrap().download_limits(), DownloadLimits::default());
    let odd = File::new("[\"https://h\"]\ntoken = \"hush\"\n");
    let odd = odd.path().to_str().unwrap().to_owned();
    for (key, value, must) in [
        ("LONGSHORE_DOWNLOAD_ANSWER_TIMEOUT", "0s", "from 10ms"),
        ("LONGSHORE_DOWNLOAD_MAX_BYTES", "0", "1 bytes or more"),
        ("LONGSHORE_DOWNLOAD_REDIRECTS", "some", "follow or refuse"),
        ("LONGSHORE_DOWNLOAD_PROXY", "socks5://me:hush@p:1", "http://host:port"),
        ("LONGSHORE_DOWNLOAD_CREDENTIALS", "/nowhere", "a file that can be read"),
        ("LONGSHORE_DOWNLOAD_CREDENTIALS", &odd, "https://h"),
    ] {
        let problem = problem(load(&[(KEY, BOUND), (key, value)]));
        assert!(problem.contains(key) && problem.contains(must), "{problem}");
        assert!(!problem.contains("hush"), "{problem}");
    }
}

#[test]
fn what_is_wrong_is_one_a_line_and_a_value_breaks_no_line() {
    let wrong =
        [("EVENTHUB_PROTOCOL", "quic\nINFO all is well"), ("LONGSHORE_LOST_PARTITION", "x")];
    let error = load(&[&[(KEY, BOUND), ("LONGSHORE_COLOUR", "blue")], &wrong[..]].concat());
    let error = error.unwrap_err();
    let expected = "the configuration cannot be used:\n  \
         EVENTHUB_PROTOCOL = quic\\nINFO all is well (environment): it must be websocket or tcp\n  \
         LONGSHORE_LOST_PARTITION = x (environment): it must be cancel or finish\n  \
         LONGSHORE_COLOUR (environment) is not a key";
    assert_eq!(error.to_string(), expected);
    assert_eq!(format!("{error:?}"), expected);
    let alone = load(&[(KEY, BOUND), wrong[1]]).unwrap_err().to_string();
    assert_eq!(
        alone,
        "the configuration cannot be used: LONGSHORE_LOST_PARTITION = x (environment): it must be \
         cancel or finish"
    );
    let long = "x".repeat(10_000);
    let said = problem(load(&[(KEY, BOUND), ("EVENTHUB_PROTOCOL", &long)]));
    assert!(said.len() < 300 && said.contains("…"), "{said}");
}

#[test]
fn quotes_and_line_ends_of_an_env_file_are_left_out() {
    for written in [format!("\"{BOUND}\""), format!("'{BOUND}'"), format!("\"{BOUND}\"\r\n")] {
        let settings = load(&[(KEY, &written), ("LONGSHORE_BATCH_TIMEOUT", "\"250ms\"")]).unwrap();
        assert_eq!(settings.entity().unwrap().as_str(), "orders");
        assert_eq!(settings.consumer_options().batch_timeout, Duration::from_millis(250));
        let [warning] = settings.warnings() else { panic!("{:?}", settings.warnings()) };
        let names = "EVENTHUB_CONNECTION_STRING, LONGSHORE_BATCH_TIMEOUT (environment)";
        assert!(warning.ends_with(names), "{warning}");
        assert!(!warning.contains("Y2FuYXJ5"), "{warning}");
    }
    // A secret that is mounted from a file ends in a line break.
    let settings =
        load(&[(KEY, &format!("{BOUND}\n")), ("EVENTHUB_CONSUMER_GROUP", "\"\"")]).unwrap();
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    assert_eq!(settings.consumer_group().as_str(), "$Default", "empty quotes are nothing");
    let said = problem(load(&[(KEY, BOUND), ("EVENTHUB_PROTOCOL", "\"tcp")]));
    assert!(said.contains("= \"tcp (environment): it must be websocket or tcp"), "{said}");
}

#[test]
fn a_table_that_is_not_ours_says_where_its_keys_belong() {
    for (text, said) in [
        (
            "[eventhub]\nconnection_string = \"canary\"\n",
            "[eventhub] (file:1) is not a table; EVENTHUB_CONNECTION_STRING stands by itself: write it \
             above the first table of the file",
        ),
        (
            "[longshore]\nmax_batch_size = 5\n",
            "[longshore] (file:1) is not a table; LONGSHORE_MAX_BATCH_SIZE stands by itself: write it \
             above the first table of the file",
        ),
        (
            "longshore.max-batch-size = 5\n",
            "[longshore] (file:1) is not a table; LONGSHORE_MAX_BATCH_SIZE stands by itself: write it \
             above the first table of the file",
        ),
        (
            "[longshore.worker.download]\ninput = \"a\"\n",
            "[longshore] (file:1) is not a table; did you mean [worker.NAME]?",
        ),
        (
            "[Worker.download]\ninput = \"a\"\n",
            "[Worker] (file:1) is not a table; did you mean [worker.NAME]?",
        ),
        (
            "[worker]\ninput = \"a\"\n",
            "worker.input (file:2): it is a key of a table that has a name: write [worker.NAME] above it",
        ),
        (
            "[worker.download]\nLONGSHORE_MAX_BATCH_SIZE = 5\n",
            "worker.download.LONGSHORE_MAX_BATCH_SIZE (file:2) is not a key; LONGSHORE_MAX_BATCH_SIZE \
             stands by itself: write it above the first table of the file",
        ),
        (
            "[topics]\nEVENTHUB_PROTOCOL = \"tcp\"\n",
            "topics.EVENTHUB_PROTOCOL (file:2): EVENTHUB_PROTOCOL stands by itself: write it above the \
             first table of the file",
        ),
        (
            "[topics.a]\nENTITY = \"a\"\n",
            "topics.a.ENTITY (file:2) is not a key; did you mean topics.a.entity?",
        ),
        (
            "[topics.a.namespace]\nhost = \"a\"\n",
            "topics.a.namespace (file:1): it must be text: the name of a table [namespaces.NAME]",
        ),
        (
            "eventhub_protocol = \"tcp\"\n",
            "eventhub_protocol (file:1) is not a key; did you mean EVENTHUB_PROTOCOL?",
        ),
    ] {
        let file = File::new(text);
        let shown = problem(file.load(&[(KEY, BOUND)]));
        assert_eq!(shown.replace(&file.path().display().to_string(), "file"), said, "{text}");
    }
}

#[test]
fn a_variable_in_another_case_is_named() {
    let settings = load(&[(KEY, BOUND), ("longshore_max_batch_size", "5")]).unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "longshore_max_batch_size (environment) is not a key; did you mean LONGSHORE_MAX_BATCH_SIZE?"
        ]
    );
}

#[test]
fn words_may_be_in_another_case_and_bytes_may_have_a_unit() {
    let settings = load(&[
        (KEY, BOUND),
        ("EVENTHUB_PROTOCOL", "TCP"),
        ("LONGSHORE_ORDERING", "PER_KEY"),
        ("LONGSHORE_START_POSITION", "Latest"),
        ("LONGSHORE_POSITION_LOST", "Stop"),
        ("LONGSHORE_LOST_PARTITION", "Finish"),
        ("LONGSHORE_OWNER_LEVEL", "None"),
        ("LONGSHORE_MAX_TAKEOVERS", "Unlimited"),
        ("LONGSHORE_HANDLER_TIMEOUT", "None"),
        ("LONGSHORE_MEMORY_BUDGET_BYTES", "512MiB"),
        ("LONGSHORE_DOWNLOAD_MAX_BYTES", "2GB"),
    ]);
    let settings = settings.unwrap();
    let options = settings.consumer_options();
    assert_eq!(settings.namespace().unwrap().protocol(), Protocol::Tcp);
    assert_eq!(options.ordering, longshore::config::Ordering::PerKey);
    assert_eq!(options.start_position, longshore::event::StartPosition::Latest);
    assert_eq!(options.position_lost, longshore::config::PositionLost::Stop);
    assert_eq!(options.lost_partition, longshore::config::LostPartition::Finish);
    assert_eq!(options.owner_level, longshore::config::OwnerLevel::None);
    assert_eq!((options.max_takeovers, options.handler_timeout), (None, None));
    assert_eq!(options.memory_budget_bytes, 512 << 20);
    assert_eq!(settings.download_limits().max_bytes, 2_000_000_000);
    let words = ("EVENTHUB_CREDENTIAL", "Managed_Identity");
    assert!(load(&[words, ("EVENTHUB_NAMESPACE", "a.example")]).is_ok());
}

#[test]
fn a_namespace_may_be_an_address_and_what_is_mixed_up_is_said() {
    let credential = ("EVENTHUB_CREDENTIAL", "developer");
    for address in ["sb://a.example/", "https://a.example:443/", "A.example"] {
        assert!(load(&[("EVENTHUB_NAMESPACE", address), credential]).is_ok(), "{address}");
    }
    let said = problem(load(&[("EVENTHUB_NAMESPACE", BOUND), credential]));
    assert_eq!(
        said,
        "EVENTHUB_NAMESPACE = (hidden) (environment): this is a connection string: set \
         EVENTHUB_CONNECTION_STRING"
    );
    let said = problem(load(&[(KEY, "sb://hub.servicebus.windows.net/")]));
    assert_eq!(
        said,
        "EVENTHUB_CONNECTION_STRING = (hidden) (environment): this is a host, not a connection \
         string: set EVENTHUB_NAMESPACE and EVENTHUB_CREDENTIAL"
    );
    let storage = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=canary";
    let said = problem(load(&[(KEY, storage)]));
    assert!(said.contains("it is the connection string of a storage account"), "{said}");
}
