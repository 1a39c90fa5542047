//! Settings that a worker cannot run with: what is wrong is said first, with its place, and nothing is
//! begun.

use std::fs;
use std::path::Path;

use crate::command::{Ended, longshore, start};
use crate::stage::KEY;

const STRING: &str = "Endpoint=sb://localhost:1;SharedAccessKeyName=k;SharedAccessKey=Y2FuYXJ5LWtleQ==;\
                      UseDevelopmentEmulator=true";

/// A file that says all that has to be said, if a folder `files` may be made.
fn valid() -> String {
    format!(
        "[namespaces.pipeline]\n\
         connection_string = \"{STRING}\"\n\
         [topics.pending]\n\
         namespace = \"pipeline\"\n\
         entity = \"tasks\"\n\
         [topics.done]\n\
         namespace = \"pipeline\"\n\
         [worker.download]\n\
         input = \"pending\"\n\
         results = \"done\"\n\
         files = \"files\"\n"
    )
}

/// Runs the worker with the file `worker.toml` of a folder.
fn run(dir: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let mut command = longshore();
    command.args(["worker", "download"]).args(arguments).current_dir(dir);
    let ended = start(command.envs(environment.iter().copied())).end();
    let said = format!("{ended:?}");
    for secret in [KEY, "SharedAccessKey=", "canary"] {
        assert!(!said.contains(secret), "{ended:#?}");
    }
    ended
}

/// The lines that the worker says of a file, which it cannot run with.
#[track_caller]
fn refused(config: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("worker.toml"), config).unwrap();
    fs::write(dir.path().join("a-file"), "x").unwrap();
    let ended = run(dir.path(), environment, &["--config", "worker.toml"]).expect_code(2);
    assert_eq!(ended.stdout, "");
    let made = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(made, 2, "nothing is begun");
    let lines = ended.stderr.lines();
    lines.map(|line| line.strip_prefix("longshore: ").unwrap_or(line).to_owned()).collect()
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_was_probably_meant() {
    for (from, to, said) in [
        // A topic that is not there.
        (
            "input = \"pending\"",
            "input = \"pendin\"",
            "worker.download.input = pendin (worker.toml:9): it must be the name of a table \
             [topics.NAME]; did you mean pending?",
        ),
        // A key that is not known.
        (
            "entity = \"tasks\"",
            "entty = \"tasks\"",
            "topics.pending.entty (worker.toml:5) is not a key; did you mean topics.pending.entity?",
        ),
        ("files = ", "folder = ", "worker.download.folder (worker.toml:11) is not a key"),
        // A namespace that is not there.
        (
            "[topics.pending]\nnamespace = \"pipeline\"",
            "[topics.pending]\nnamespace = \"pipelines\"",
            "topics.pending.namespace = pipelines (worker.toml:4): it must be the name of a table \
             [namespaces.NAME]; did you mean pipeline?",
        ),
        (
            "files = \"files\"",
            "files = \"a-file\"",
            "worker.download.files = a-file (worker.toml:11): it must be a folder, and is a file",
        ),
        (
            "files = \"files\"",
            "files = \"http://acc.blob.core.windows.net/files?sv=1&sig=canary\"",
            "worker.download.files = (hidden) (worker.toml:11): http is for addresses of this \
             machine only",
        ),
        (
            "files = \"files\"",
            "files = \"https://acc.blob.core.windows.net/files\"",
            "worker.download.files = (hidden) (worker.toml:11): it must end in a shared access \
             signature: ?…&sig=…; or go with EVENTHUB_CREDENTIAL",
        ),
        (
            "results = \"done\"",
            "results = \"pending\"",
            "worker.download.results = pending: it must be another hub than the one that the worker \
             reads",
        ),
        (
            "results = \"done\"\n",
            "",
            "worker.download.results is not set: name the topic of its results",
        ),
        (
            "input = \"pending\"\n",
            "",
            "worker.download.input is not set: name the topic that it reads, or its hub in \
             EVENTHUB_ENTITY_DOWNLOAD or EVENTHUB_ENTITY_NAME",
        ),
        ("files = \"files\"\n", "", "worker.download.files is not set: say where its files go"),
        (
            "[worker.download]",
            "[workers.download]",
            "[workers] (worker.toml:8) is not a table; did you mean [worker.NAME]?",
        ),
    ] {
        let config = valid().replace(from, to);
        assert_ne!(config, valid(), "{from}");
        let lines = refused(&config, &[]);
        assert_eq!(lines.first().map(String::as_str), Some(said), "{lines:#?}");
    }
}

#[test]
fn variables_are_checked_as_the_file_is_and_win_over_it() {
    let lines = refused(&valid(), &[("LONGSHORE_WORKER_DOWNLOAD_INPUT", "nothing")]);
    assert_eq!(
        lines,
        [
            "LONGSHORE_WORKER_DOWNLOAD_INPUT = nothing (environment): it must be the name of a table \
          [topics.NAME]"
        ]
    );
    // A misspelt one may be why another is missing.
    let config = valid().replace("files = \"files\"\n", "");
    let lines = refused(&config, &[("LONGSHORE_WORKER_DOWNLOAD_FILE", "files")]);
    assert_eq!(
        lines,
        [
            "worker.download.files is not set: say where its files go",
            "LONGSHORE_WORKER_DOWNLOAD_FILE (environment) is not a key; did you mean \
             LONGSHORE_WORKER_DOWNLOAD_FILES?"
        ]
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let lines = refused(&format!("[namespaces.a]\nconnection_string = \"{STRING}\"\n"), &[]);
    let missing: Vec<_> = lines.iter().map(|line| line.split(" is not set").next()).collect();
    let named = ["input", "results", "files"].map(|key| format!("worker.download.{key}"));
    assert_eq!(missing, named.each_ref().map(|name| Some(name.as_str())));
}

#[test]
fn a_file_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(dir.path(), &[], &["--config", "no-such.toml", "--report", "json"]);
    let ended = ended.expect_code(2);
    let first = "no-such.toml cannot be read: No such file or directory (os error 2)";
    assert_eq!(ended.report()["problems"][0], first);
    assert!(ended.stderr.starts_with(&format!("longshore: {first}\n")), "{ended:#?}");
}

#[test]
fn order_and_a_limit_for_hosts_do_not_go_together() {
    let both = "LONGSHORE_ORDERING = \"per-key\"\nLONGSHORE_CONNECTIONS_PER_HOST = 2\n";
    let lines = refused(&format!("{both}{}", valid()), &[]);
    assert_eq!(
        lines,
        ["LONGSHORE_CONNECTIONS_PER_HOST must not be given beside LONGSHORE_ORDERING = per-key"]
    );
}

#[test]
fn a_place_of_failures_that_cannot_be_used_is_named_without_its_secret() {
    let lines = refused(&valid(), &[("LONGSHORE_FAILURES", "ftp://h/state?sv=1&sig=canary")]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("LONGSHORE_FAILURES = (hidden)"), "{lines:?}");
    let lines = refused(&valid(), &[("LONGSHORE_DEAD_LETTER_BODY", "none")]);
    assert!(lines[0].contains("keep or omit"), "{lines:?}");
}

#[test]
fn a_folder_that_cannot_be_had_is_told_in_the_report_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let config = valid().replace("files = \"files\"", "files = \"a-file/files\"");
    fs::write(dir.path().join("worker.toml"), config).unwrap();
    fs::write(dir.path().join("a-file"), "x").unwrap();
    let ended = run(dir.path(), &[], &["--config", "worker.toml", "--report", "json"]);
    let ended = ended.expect_code(1);
    let error = ended.report()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("a-file") && ended.stderr.contains(&error), "{ended:#?}");
}
