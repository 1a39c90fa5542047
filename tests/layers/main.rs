//! Checks the arrows of docs/architecture.md: which module may import which, within the library and among the
//! crates, and that files do not import each other in a circle.

mod circles;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const VALUES: &[&str] = &[
    "checkpoint",
    "clock",
    "error",
    "event",
    "hex",
    "hub",
    "lanes",
    "lease",
    "outcome",
    "secret",
    "timestamp",
];
const PORTS: &[&str] =
    &["blob_store", "checkpoint_store", "dead_letter", "failure_store", "lease_store", "transport"];
const RUNTIME: &[&str] = &[
    "connection_test",
    "consumer",
    "producer",
    "retry_scheduler",
    "shutdown",
    "telemetry",
    "testing",
    "transfer",
];

/// What the root re-exports, which doc examples and macros may name.
const ROOT: &[&str] = &["ConsumerOptions", "Error", "ErrorClass"];

/// The crates, by where their sources are; and the crates of ours that each may import.
const CRATES: &[(&str, &[&str])] = &[
    ("src", &[]),
    ("crates/emulator/src", &[]),
    ("crates/cli/src", &["longshore", "longshore_emulator"]),
];

/// Modules of `src` that a file may import.
fn allowed(file: &str) -> BTreeSet<&'static str> {
    let module = file.split(['/', '.']).next().unwrap_or_default();
    let mut allowed: BTreeSet<&'static str> = VALUES.iter().copied().collect();
    let mut add = |modules: &[&'static str]| allowed.extend(modules.iter().copied());
    match module {
        _ if VALUES.contains(&module) => {}
        "state" => add(&["state"]),
        "config" => add(&["state", "config"]),
        "private_file" | "named_file" => {}
        // It keeps the file of a job.
        "replay" => {
            add(&["state", "config", "replay", "durable_folder", "private_file", "producer"]);
            add(PORTS);
        }
        "durable_folder" => add(&["private_file"]),
        "credential" => add(&["credential"]),
        "blob_container" => add(&["blob_container"]),
        // It ends in a namespace and in opened stores: see the test of adapters.
        "settings" => {
            add(&["state", "config", "credential", "settings", "transport", "named_file"]);
            add(&[
                "checkpoint_store",
                "lease_store",
                "dead_letter",
                "failure_store",
                "blob_store",
                "blob_container",
            ]);
        }
        // From settings to a consumer.
        "wiring" => {
            add(&["consumer", "settings"]);
            add(PORTS);
        }
        _ if PORTS.contains(&module) => {
            let own = PORTS.iter().copied().find(|port| *port == module);
            allowed.extend(own);
            if !file.ends_with("/mod.rs") || file.matches('/').count() > 1 {
                allowed.extend([
                    "state",
                    "config",
                    "credential",
                    "durable_folder",
                    "named_file",
                    "private_file",
                    "blob_container",
                ]);
                // An adapter may use another port, through its trait: see the test of adapters.
                allowed.extend(PORTS);
            }
        }
        _ if RUNTIME.contains(&module) => {
            add(&["state", "config"]);
            add(PORTS);
            add(RUNTIME);
            add(ROOT);
        }
        other => panic!("which layer is {other} of? Say so here"),
    }
    allowed
}

/// The adapters, which nothing of the library names but the settings and what wires them.
const ADAPTERS: &[&str] = &[
    "transport::event_hubs",
    "transport::memory",
    "checkpoint_store::blob",
    "checkpoint_store::file",
    "checkpoint_store::memory",
    "checkpoint_store::sdk",
    "dead_letter::folder",
    "dead_letter::hub",
    "dead_letter::memory",
    "failure_store::container",
    "failure_store::folder",
    "failure_store::memory",
    "blob_store::container",
    "blob_store::folder",
    "lease_store::blob",
    "lease_store::memory",
];

/// What settings lead to: a namespace (its place, its key and the way there), stores, and places of dead
/// letters.
const IN_SETTINGS: &[&str] = &[
    "transport::event_hubs",
    "blob_store::container",
    "blob_store::folder",
    "checkpoint_store::blob",
    "checkpoint_store::file",
    "dead_letter::folder",
    "dead_letter::hub",
    "failure_store::container",
    "failure_store::folder",
    "lease_store::blob",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file before its tests, comments left out.
fn code(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Calls `check` with the path and the code of each file below a folder, tests left out.
fn each_source_below(folder: &str, mut check: impl FnMut(&str, &str)) {
    let root = root().join(folder);
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 10, "the sources of {folder} were not found");
    for path in files {
        let name = path.strip_prefix(&root).expect("below it").to_string_lossy().into_owned();
        if !name.ends_with("tests.rs") {
            check(&name, &code(&fs::read_to_string(&path).expect("readable")));
        }
    }
}

fn each_source(mut check: impl FnMut(&str, &str)) {
    each_source_below("src", |name, code| {
        if name != "lib.rs" {
            check(name, code);
        }
    });
}

/// The first names after `crate::` in the code.
fn imports(code: &str) -> Vec<&str> {
    code.match_indices("crate::")
        .filter(|(at, _)| !code[..*at].ends_with("pub(in "))
        .map(|(at, prefix)| {
            let rest = &code[at + prefix.len()..];
            let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
            &rest[..end.unwrap_or(rest.len())]
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn every_import_follows_the_arrows() {
    let mut wrong = Vec::new();
    each_source(|file, code| {
        let allowed = allowed(file);
        for name in imports(code) {
            if !allowed.contains(name) {
                wrong.push(format!("{file} imports crate::{name}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_settings_name_adapters() {
    let mut wrong = Vec::new();
    each_source(|file, code| {
        for adapter in ADAPTERS {
            let own = file.starts_with(&adapter.replace("::", "/"));
            let is_place = IN_SETTINGS.contains(adapter) && file.starts_with("settings/");
            let is_wired = *adapter == "transport::event_hubs" && file == "wiring.rs";
            let is_tested = adapter.ends_with("::memory") && file.starts_with("testing/");
            if !own
                && !is_place
                && !is_wired
                && !is_tested
                && code.contains(&format!("crate::{adapter}"))
            {
                wrong.push(format!("{file} names {adapter}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The crates of the Azure SDKs and of their AMQP library, by how their names begin.
const SDKS: &[&str] = &[
    "azure_core",
    "azure_identity",
    "azure_messaging",
    "azure_security",
    "azure_storage",
    "fe2o3_amqp::",
];

/// Which files may name which of them.
const OVER_AN_SDK: &[(&str, &[&str])] = &[
    ("transport/event_hubs/", SDKS),
    ("blob_container/", &["azure_core", "azure_storage"]),
    ("blob_store/container/", &["azure_core"]),
    ("checkpoint_store/blob/", &["azure_core"]),
    ("checkpoint_store/sdk.rs", &["azure_core", "azure_messaging"]),
    ("credential/", &["azure_core", "azure_identity", "azure_security"]),
    ("failure_store/container.rs", &["azure_core"]),
    ("lease_store/blob.rs", &["azure_core"]),
];

#[test]
fn only_adapters_over_an_sdk_name_it() {
    let mut wrong = Vec::new();
    each_source(|file, code| {
        let allowed = OVER_AN_SDK.iter().find(|(place, _)| file.starts_with(place));
        for sdk in SDKS.iter().filter(|sdk| code.contains(**sdk)) {
            if !allowed.is_some_and(|(_, sdks)| sdks.contains(sdk)) {
                wrong.push(format!("{file} names {sdk}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_state_machines_know_no_clock_no_randomness_and_no_tasks() {
    each_source(|file, code| {
        if file.starts_with("state/") {
            for word in ["Instant::now", "SystemTime::now", "tokio", "async ", "rand::", "HashMap"]
            {
                assert!(!code.contains(word), "{file} uses {word}");
            }
        }
    });
}

#[test]
fn crates_import_only_what_is_below_them() {
    let ours = ["longshore", "longshore_emulator"];
    let mut wrong = Vec::new();
    for (folder, may) in CRATES {
        each_source_below(folder, |file, code| {
            for other in ours.iter().filter(|other| !may.contains(other)) {
                if code.contains(&format!("{other}::")) {
                    wrong.push(format!("{folder}/{file} imports {other}"));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for folder in
        ["consumer", "producer", "replay", "retry_scheduler", "state", "transfer", "transport"]
    {
        let circles = circles::below(&root().join("src"), folder);
        assert!(circles.is_empty(), "{folder}: {circles:#?}");
    }
}

#[test]
fn files_stay_short_enough_to_read() {
    for (folder, _) in CRATES {
        each_source_below(folder, |file, code| {
            let lines = code.lines().count();
            assert!(lines <= 560, "{folder}/{file} has {lines} lines");
        });
    }
}
