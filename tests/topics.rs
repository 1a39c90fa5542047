//! Tables and variables name hubs of several namespaces, and what workers read and write of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use futures::FutureExt;
use futures::future::BoxFuture;
use longshore::Error;
use longshore::config::{
    AccessTier, CopyBy, ExistingFiles, FileTime, GoesAlong, MetadataOf, PrivateAddresses, Schemes,
};
use longshore::credential::{SecretAddress, SecretStore};
use longshore::secret::Secret;
use longshore::settings::{DeadLetterPlace, FailurePlace, FilesPlace, Settings, SettingsError};

const KEY: &str = "EVENTHUB_CONNECTION_STRING";

/// The connection string of a namespace, with a key that is shown nowhere.
fn string(namespace: &str) -> String {
    format!("Endpoint=sb://{namespace}.example/;SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5")
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

/// All that is wrong, with the file as `file`; no key is shown.
#[track_caller]
fn problems(file: &File, loaded: Result<Settings, SettingsError>) -> Vec<String> {
    let error = loaded.expect_err("a problem");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("Y2FuYXJ5") && !shown.contains("canary"), "{shown}");
    let path = file.path().display().to_string();
    error.problems().iter().map(|problem| problem.to_string().replace(&path, "file")).collect()
}

/// Two namespaces with a hub each, and a worker between them.
fn two() -> String {
    format!(
        "[namespaces.near]\n\
         connection_string = \"{}\"\n\
         [namespaces.far-away]\n\
         connection_string = \"{}\"\n\
         [topics.pending]\n\
         namespace = \"near\"\n\
         entity = \"downloads.pending\"\n\
         [topics.cached]\n\
         namespace = \"far-away\"\n\
         [worker.download]\n\
         input = \"pending\"\n\
         results = \"cached\"\n\
         files = \"/cache\"\n",
        string("near"),
        string("far")
    )
}

#[test]
fn a_topic_is_a_hub_of_one_of_several_namespaces() {
    let settings = File::new(&two()).load(&[]).unwrap();
    let place = |topic: &str| {
        let topic = settings.topic(topic).unwrap();
        (settings.namespace_of(topic).unwrap().host().to_owned(), topic.entity().to_string())
    };
    assert_eq!(place("pending"), ("near.example".to_owned(), "downloads.pending".to_owned()));
    assert_eq!(place("Cached"), ("far.example".to_owned(), "cached".to_owned()));
    let error = settings.topic("cachd").unwrap_err().to_string();
    assert!(error.contains("no table [topics.cachd]; did you mean cached?"), "{error}");
    let error = settings.namespace().unwrap_err().to_string();
    assert!(error.contains("EVENTHUB_CONNECTION_STRING is not set"), "{error}");

    let worker = settings.worker("download").unwrap();
    assert_eq!((worker.input.name(), worker.results.name()), ("pending", "cached"));
    assert_eq!(worker.files, FilesPlace::Folder("/cache".into()));
    let beside = FailurePlace::Folder("longshore-state/failures".into());
    let beside = DeadLetterPlace::Store(beside);
    assert_eq!(worker.dead_letters, beside);
    assert_eq!(settings.input_of("download").unwrap(), worker.input);
    let shown = format!("{settings:#?}");
    assert!(!shown.contains("Y2FuYXJ5") && shown.contains("far.example"), "{shown}");
}

#[test]
fn the_example_of_the_documentation_is_a_worker() {
    let text = include_str!("../docs/configuration.md");
    let mut blocks = text.split("```toml\n").filter_map(|block| block.split("```").next());
    let example = blocks.find(|block| block.contains("[worker.download]")).expect("an example");
    let settings = File::new(example).load(&[]).unwrap();
    let worker = settings.worker("download").unwrap();
    assert_eq!(worker.results.entity().as_str(), "cached-files");
    assert!(matches!(worker.dead_letters, DeadLetterPlace::Topic(_)), "{worker:?}");
}

#[test]
fn more_than_twenty_topics_over_several_namespaces() {
    // A namespace of the tier Standard has ten hubs at most.
    let namespaces = (0..4).map(|number| {
        format!(
            "[namespaces.n{number}]\nconnection_string = \"{}\"\n",
            string(&format!("n{number}"))
        )
    });
    let topics = (0..35)
        .map(|number| format!("[topics.stage-{number}]\nnamespace = \"n{}\"\n", number / 10));
    let settings = File::new(&namespaces.chain(topics).collect::<String>()).load(&[]).unwrap();
    assert_eq!(settings.topics().count(), 35);
    for number in 0..35 {
        let topic = settings.topic(&format!("stage-{number}")).unwrap();
        assert_eq!(topic.entity().as_str(), format!("stage-{number}"));
        let host = format!("n{}.example", number / 10);
        assert_eq!(settings.namespace_of(topic).unwrap().host(), host);
    }
}

#[test]
fn variables_alone_are_enough_and_win_over_the_file() {
    let near = string("near");
    let variables = [
        ("LONGSHORE_NAMESPACES_NEAR_CONNECTION_STRING", near.as_str()),
        ("LONGSHORE_TOPICS_DOWNLOADS_PENDING_NAMESPACE", "near"),
        ("LONGSHORE_TOPICS_DOWNLOADS_PENDING_ENTITY", "downloads-pending"),
        ("LONGSHORE_TOPICS_DONE_NAMESPACE", "NEAR"),
        ("LONGSHORE_TOPICS_DONE_ENTITY", "done"),
        ("LONGSHORE_WORKER_DOWNLOAD_INPUT", "downloads-pending"),
        ("LONGSHORE_WORKER_DOWNLOAD_RESULTS", "done"),
        ("LONGSHORE_WORKER_DOWNLOAD_FILES", "/cache"),
        ("LONGSHORE_WORKER_DOWNLOAD_DEAD_LETTERS", "/letters"),
    ];
    let settings = Settings::load(variables, None).unwrap();
    assert!(settings.warnings().is_empty(), "{:?}", settings.warnings());
    let worker = settings.worker("download").unwrap();
    assert_eq!(worker.input.entity().as_str(), "downloads-pending");
    assert_eq!(worker.dead_letters, DeadLetterPlace::Folder("/letters".into()));

    let other = string("other");
    let settings = File::new(&two()).load(&[
        ("LONGSHORE_NAMESPACES_FAR_AWAY_CONNECTION_STRING", &other),
        ("LONGSHORE_TOPICS_CACHED_ENTITY", "elsewhere"),
        ("LONGSHORE_WORKER_DOWNLOAD_FILES", ""),
    ]);
    let settings = settings.unwrap();
    let worker = settings.worker("download").unwrap();
    assert_eq!(worker.results.entity().as_str(), "elsewhere");
    assert_eq!(worker.results.name(), "cached");
    assert_eq!(settings.namespace_of(&worker.results).unwrap().host(), "other.example");
    assert_eq!(worker.files, FilesPlace::Folder("/cache".into()), "an empty variable is none");
}

#[test]
fn the_keys_of_one_hub_go_on_to_work_and_may_stand_beside_topics() {
    let common = string("common");
    let file = File::new(
        "EVENTHUB_ENTITY_DOWNLOAD = \"tasks\"\n\
         topics.done.entity = \"results\"\n\
         [worker.download]\n\
         results = \"done\"\n\
         files = \"cache\"\n",
    );
    let settings = file.load(&[(KEY, &common)]).unwrap();
    let worker = settings.worker("download").unwrap();
    assert_eq!(worker.input.entity(), &settings.entity_of("download").unwrap());
    for topic in [&worker.input, &worker.results] {
        assert_eq!(settings.namespace_of(topic).unwrap().host(), "common.example");
    }
    // A worker without a table reads what its variable says.
    let settings = Settings::load([(KEY, common.as_str()), ("EVENTHUB_ENTITY_NAME", "a")], None);
    assert_eq!(settings.unwrap().input_of("any").unwrap().entity().as_str(), "a");
}

#[test]
fn how_to_get_into_a_namespace_is_checked_for_each() {
    let near = string("near");
    let bound = format!("{near};EntityPath=orders");
    for (namespace, topic, said) in [
        ("", "", "namespaces.a.connection_string is not set: set it to the connection string"),
        (
            "host = \"b.example\"",
            "",
            "namespaces.a.credential is not set: say how to get into the namespace",
        ),
        (
            "host = \"b.example\"\ncredential = \"password\"",
            "",
            "namespaces.a.credential = password (file:3): it must be connection-string, developer",
        ),
        (
            "host = \"b.example\"\ncredential = \"connection-string\"",
            "",
            "namespaces.a.credential = connection-string (file:3): it must go with \
             namespaces.a.connection_string",
        ),
        (
            "host = \"two words\"",
            "",
            "namespaces.a.host = two words (file:2): it must be a host name",
        ),
        (
            "connection_string = \"canary\"",
            "",
            "namespaces.a.connection_string = (hidden) (file:2): ",
        ),
        (
            &format!("connection_string = \"{near}\"\nhost = \"b.example\""),
            "",
            "namespaces.a.host = b.example (file:3): it must be the namespace of \
             namespaces.a.connection_string, which is near.example",
        ),
        (
            &format!("connection_string = \"{near}\"\ncredential = \"developer\""),
            "",
            "namespaces.a.credential = developer (file:3): it must be connection-string beside \
             namespaces.a.connection_string",
        ),
        (
            &format!("connection_string = \"{bound}\""),
            "entity = \"parcels\"",
            "topics.t.entity = parcels (file:5): it must be the EntityPath of the connection string, \
             which is orders",
        ),
        (
            &format!("connection_string = \"{near}\""),
            "entity = \"two words\"",
            "topics.t.entity = two words (file:5): it must be 1 to 256 letters",
        ),
    ] {
        let file = File::new(&format!(
            "[namespaces.a]\n{namespace}\n[topics.t]\nnamespace = \"a\"\n{topic}\n"
        ));
        let problems = problems(&file, file.load(&[]));
        let real: Vec<_> = problems.iter().filter(|it| !it.contains("topics.t is not")).collect();
        assert!(real.len() <= 2 && real.iter().any(|it| it.starts_with(said)), "{said}: {real:#?}");
    }
    // What opens all opens those that say nothing else.
    let file = File::new(&format!(
        "EVENTHUB_CREDENTIAL = \"managed-identity\"\n\
         [namespaces.a]\n\
         host = \"A.example\"\n\
         [namespaces.b]\n\
         connection_string = \"{bound}\"\n\
         [topics]\n\
         one.namespace = \"a\"\n\
         two.namespace = \"b\"\n"
    ));
    let settings = file.load(&[]).unwrap();
    assert_eq!(settings.topic("two").unwrap().entity().as_str(), "orders");
}

#[test]
fn names_that_cannot_be_told_apart_or_are_no_tables_are_refused() {
    for (text, said) in [
        (
            "[namespaces.a-b]\nhost = \"x\"\n[namespaces.A_b]\nhost = \"y\"\n",
            "[namespaces.A_b] (file:3): it must be another name than [namespaces.a-b] (file:1): in \
             variables both are A_B",
        ),
        ("[topics]\na = \"b\"\n", "topics.a (file:2): it must be a table, [topics.NAME]"),
        ("[topics.\"a b\"]\n", "[topics.\"a b\"] (file:1): it must have a name of letters"),
        ("[topics.a]\nentity = [1]\n", "topics.a.entity (file:2): it must be text"),
        ("[topic.a]\n", "[topic] (file:1) is not a table; did you mean [topics.NAME]?"),
        ("[other]\n", "[other] (file:1) is not a table"),
        ("worker = \"a\"\n", "worker (file:1) is not a key"),
    ] {
        let file = File::new(text);
        let problems = problems(&file, file.load(&[(KEY, &string("common"))]));
        assert!(problems.iter().any(|it| it.starts_with(said)), "{said}: {problems:#?}");
    }
}

#[test]
fn a_misspelt_variable_is_named_with_what_was_probably_meant() {
    let common = string("common");
    let settings = Settings::load(
        [
            (KEY, common.as_str()),
            ("EVENTHUB_ENTITY_NAME", "a"),
            ("LONGSHORE_TOPICS_DONE_ENTITTY", "done"),
            ("LONGSHORE_NAMESPACES_A_CONECTION_STRING", "Y2FuYXJ5"),
            ("LONGSHORE_TOPICS_DONE_COLOUR", "blue"),
        ],
        None,
    )
    .unwrap();
    assert_eq!(
        settings.warnings(),
        [
            "LONGSHORE_NAMESPACES_A_CONECTION_STRING (environment) is not a key; did you mean \
             LONGSHORE_NAMESPACES_A_CONNECTION_STRING?",
            "LONGSHORE_TOPICS_DONE_COLOUR (environment) is not a key",
            "LONGSHORE_TOPICS_DONE_ENTITTY (environment) is not a key; did you mean \
             LONGSHORE_TOPICS_DONE_ENTITY?",
        ]
    );
    // A topic that only variables name needs its hub's name as well: theirs is not spelled like it.
    let error =
        Settings::load([(KEY, common.as_str()), ("LONGSHORE_TOPICS_A_NAMESPACE", "b")], None);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("LONGSHORE_TOPICS_A_NAMESPACE = b (environment): it must be"),
        "{error}"
    );
    let near = string("near");
    let named = [
        ("LONGSHORE_NAMESPACES_B_CONNECTION_STRING", near.as_str()),
        ("LONGSHORE_TOPICS_A_NAMESPACE", "b"),
    ];
    let error = Settings::load(named, None).unwrap_err().to_string();
    assert!(error.contains("topics.a.entity is not set: name the hub"), "{error}");
}

#[test]
fn letters_and_results_do_not_come_back_to_their_worker() {
    let file = |more: &str| {
        let text = two().replace("results = \"cached\"\n", more);
        // The same hub under another name, of a namespace under another name.
        File::new(&format!(
            "{text}[namespaces.again]\n\
             connection_string = \"{}\"\n\
             [topics.same]\n\
             namespace = \"again\"\n\
             entity = \"Downloads.Pending\"\n",
            string("near")
        ))
    };
    for (more, said) in [
        ("results = \"pending\"\n", "worker.download.results = pending: it must be another hub"),
        ("results = \"same\"\n", "worker.download.results = same: it must be another hub"),
        (
            "results = \"cached\"\ndead_letters = \"same\"\n",
            "worker.download.dead_letters = same: it must be another hub",
        ),
    ] {
        let error = file(more).load(&[]).unwrap().worker("download").unwrap_err();
        assert!(error.problems()[0].to_string().starts_with(said), "{error}");
    }
    let settings = file("results = \"cached\"\ndead_letters = \"cached\"\n").load(&[]).unwrap();
    let DeadLetterPlace::Topic(topic) = settings.worker("download").unwrap().dead_letters else {
        panic!("it is a topic");
    };
    assert_eq!(topic.name(), "cached");
}

#[test]
fn an_address_is_a_secret_and_a_container_where_files_may_be_in_one() {
    let with = |lines: &str| File::new(&two().replace("files = \"/cache\"\n", lines));
    let signed = "https://acc.blob.core.windows.net/files?sv=1&sig=canary";
    for (key, address, said) in [
        (
            "files",
            "acc.blob.core.windows.net/files?sv=1&SIG=canary",
            "it must read https://ACCOUNT",
        ),
        ("files", "s3://user:canary@bucket/files", "it must have no user"),
        (
            "source",
            "http://canary.example/files?sig=canary",
            "http is for addresses of this machine",
        ),
        ("files", "https://acc.blob.core.windows.net/files", "or go with EVENTHUB_CREDENTIAL"),
        ("dead_letters", signed, "it must be a folder"),
        ("dead_letters", "sig=canary", "it must be a folder"),
    ] {
        let file = with(&format!("{key} = \"{address}\"\n"));
        let problems = problems(&file, file.load(&[]));
        let hidden = format!("worker.download.{key} = (hidden) (file:13): ");
        assert!(problems[0].starts_with(&hidden) && problems[0].contains(said), "{problems:#?}");
    }

    let file = with(&format!("files = \"{signed}\"\nsource = \"/cache\"\n"));
    let settings = file.load(&[]).unwrap();
    let places = settings.worker_with_source("download").unwrap();
    assert_eq!(places.files.to_string(), "https://acc.blob.core.windows.net/files");
    assert_eq!(places.source.as_ref().unwrap().to_string(), "/cache");
    let shown = format!("{settings:?} {places:?} {:?}", places.files.open(3, 1 << 20).unwrap());
    assert!(!shown.contains("canary") && shown.contains("acc.blob"), "{shown}");

    // The credential that opens everything else opens a container without a signature.
    let container = "https://acc.blob.core.windows.net/files";
    let file = with(&format!("files = \"{container}\"\n"));
    let settings = file.load(&[("EVENTHUB_CREDENTIAL", "managed-identity")]).unwrap();
    assert_eq!(settings.worker("download").unwrap().files.to_string(), container);
}

#[test]
fn what_goes_along_is_chosen_for_each_worker() {
    let with = |lines: &str| File::new(&two().replace("files = \"/cache\"\n", lines));
    let container = "files = \"https://acc.blob.core.windows.net/files?sv=1&sig=canary\"\n";
    let along = |lines: &str, vars: &[(&str, &str)]| {
        Ok::<_, longshore::settings::SettingsError>(
            with(lines).load(vars)?.worker("download")?.along,
        )
    };
    assert_eq!(along(container, &[]).unwrap(), GoesAlong::new());
    let all = format!("{container}metadata = \"both\"\ntime = \"source\"\n");
    let chosen = along(&all, &[("LONGSHORE_WORKER_DOWNLOAD_TIER", "Cool")]).unwrap();
    let expected = GoesAlong::new().with_metadata(MetadataOf::Both).with_time(FileTime::Source);
    assert_eq!(chosen, expected.with_tier(Some(AccessTier::Cool)));
    let copy = |lines: &str| with(lines).load(&[]).unwrap().worker("download").unwrap().copy;
    assert_eq!(copy(container), CopyBy::Worker);
    assert_eq!(copy(&format!("{container}copy = \"service\"\n")), CopyBy::Service);
    let time = along("files = \"/cache\"\ntime = \"source\"\n", &[]).unwrap();
    assert_eq!(time, GoesAlong::new().with_time(FileTime::Source));
    for (lines, said) in [
        ("tier = \"cool\"\n", "worker.download.tier: it is for files that go to a container"),
        (
            "metadata = \"task\"\n",
            "worker.download.metadata: it is for files that go to a container",
        ),
        ("copy = \"service\"\n", "worker.download.copy: it is for files that go to a container"),
        ("tier = \"cooler\"\n", "it must be hot, cool, cold or archive"),
    ] {
        let error = along(&format!("files = \"/cache\"\n{lines}"), &[]).unwrap_err();
        assert!(error.problems()[0].to_string().contains(said), "{error}");
    }
}

#[test]
fn two_brokers_of_this_machine_are_two_namespaces() {
    let load = |second: u16| {
        let string = |port: u16| {
            format!(
                "Endpoint=sb://localhost:{port};SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5;\
                 UseDevelopmentEmulator=true"
            )
        };
        let file = File::new(&format!(
            "[namespaces]\n\
             a.connection_string = \"{}\"\n\
             b.connection_string = \"{}\"\n\
             [topics]\n\
             one = {{ namespace = \"a\", entity = \"tasks\" }}\n\
             two = {{ namespace = \"b\", entity = \"tasks\" }}\n\
             [worker.download]\n\
             input = \"one\"\n\
             results = \"two\"\n\
             files = \"/cache\"\n",
            string(5673),
            string(second)
        ));
        file.load(&[]).unwrap().worker("download")
    };
    assert_eq!(load(5674).unwrap().results.name(), "two");
    let error = load(5673).unwrap_err().to_string();
    assert!(error.contains("it must be another hub"), "{error}");
}

#[test]
fn a_worker_whose_table_is_misspelt_is_told_which_there_is() {
    let file = File::new(&two().replace("[worker.download]", "[worker.downlaod]"));
    let error = file.load(&[]).unwrap().worker("download").unwrap_err();
    let first = error.problems()[0].to_string();
    assert!(first.starts_with("worker.download.input is not set"), "{first}");
    assert!(first.ends_with("; did you mean [worker.downlaod]?"), "{first}");
    assert_eq!(error.problems().len(), 3, "{error}");
}

#[test]
fn what_downloads_may_ask_for_is_a_choice() {
    let common = string("common");
    let settings = |more: &[(&str, &str)]| {
        Settings::load([&[(KEY, common.as_str())], more].concat(), None).unwrap()
    };
    let strict = settings(&[]);
    assert_eq!(strict.schemes(), Schemes::HttpsOnly);
    assert_eq!(strict.private_addresses(), PrivateAddresses::Refuse);
    assert_eq!(strict.existing_files(), ExistingFiles::Replace);
    assert_eq!(strict.transfer_options().handler_timeout, None, "a file takes as long as it takes");
    let open = settings(&[
        ("LONGSHORE_DOWNLOAD_SCHEMES", "http-and-https"),
        ("LONGSHORE_DOWNLOAD_PRIVATE_ADDRESSES", "allow"),
        ("LONGSHORE_DOWNLOAD_EXISTING", "verify"),
        ("LONGSHORE_HANDLER_TIMEOUT", "1h"),
    ]);
    assert_eq!(open.schemes(), Schemes::HttpAndHttps);
    assert_eq!(open.private_addresses(), PrivateAddresses::Allow);
    assert_eq!(open.existing_files(), ExistingFiles::Verify);
    assert_eq!(&open.transfer_options(), open.consumer_options());
}

#[derive(Debug)]
struct Vault;

impl SecretStore for Vault {
    fn fetch<'a>(&'a self, address: &'a SecretAddress) -> BoxFuture<'a, Result<Secret, Error>> {
        let path = if address.name() == "bound" { ";EntityPath=orders" } else { "" };
        let text = format!("{}{path}", string(address.name()));
        async move { Ok(Secret::new(text)) }.boxed()
    }
}

#[tokio::test]
async fn the_connection_strings_of_all_namespaces_come_from_a_vault() {
    let text = |second: &str| {
        format!(
            "EVENTHUB_CREDENTIAL = \"managed-identity\"\n\
             EVENTHUB_CONNECTION_STRING_SECRET = \"https://v.vault.azure.net/secrets/common\"\n\
             [namespaces.a]\n\
             connection_string_secret = \"https://v.vault.azure.net/secrets/{second}\"\n\
             [topics]\n\
             one.namespace = \"a\"\n\
             two = {{}}\n"
        )
    };
    let settings = File::new(&text("first")).load(&[]).unwrap();
    let error = settings.namespace_of(settings.topic("one").unwrap()).unwrap_err().to_string();
    assert!(error.contains("https://v.vault.azure.net/secrets/first: fetch it first"), "{error}");
    let settings = settings.fetched_from(&Vault).await.unwrap();
    let host = |topic: &str| {
        let namespace = settings.namespace_of(settings.topic(topic).unwrap()).unwrap();
        namespace.host().to_owned()
    };
    assert_eq!(
        (host("one"), host("two")),
        ("first.example".to_owned(), "common.example".to_owned())
    );

    let bound = File::new(&text("bound")).load(&[]).unwrap();
    let error = bound.fetched_from(&Vault).await.unwrap_err().to_string();
    assert!(error.contains("the topic one and the EntityPath = orders"), "{error}");
}

#[test]
fn dead_letters_and_files_are_opened_where_they_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let file = File::new(&format!(
        "{}dead_letters = \"{}\"\n",
        two().replace("/cache", &at("cache")),
        at("letters")
    ));
    let settings = file.load(&[]).unwrap();
    let worker = settings.worker("download").unwrap();
    settings.open_dead_letters(&worker.dead_letters).unwrap();
    worker.files.open(1, 1 << 20).unwrap();
    for name in ["letters", "cache"] {
        assert!(Path::new(&at(name)).is_dir(), "{name}");
    }
    let topic = settings.topic("cached").unwrap().clone();
    let sink = settings.open_dead_letters(&DeadLetterPlace::Topic(topic)).unwrap();
    assert!(!format!("{sink:?}").contains("Y2FuYXJ5"));
}
