//! The keys, the file that is read and the documentation say the same.

use std::fmt::Write as _;

use super::*;
use crate::{Emulator, EmulatorBuilder, config_file};

/// The tables of the file: what each key is written after, what else the table needs, its keys.
const TABLES: &[(&str, &str, &[Key])] = &[
    ("", "", &[LISTEN, ADVERTISE, ALLOW_ANYONE, CHECK_TOKENS, MAX_MESSAGE, THROUGHPUT, MAX_MEMORY]),
    ("[[keys]]", "name = \"n\"\nkey = \"k\"\n", &[KEY_NAME, KEY_VALUE]),
    (
        "[[hubs]]",
        "name = \"h\"\npartitions = 1\n",
        &[HUB_NAME, PARTITIONS, GROUPS, RETENTION_SECONDS, RETENTION_BYTES],
    ),
];

const BEGIN: &str = "<!-- written by a test of src/config_keys.rs -->\n\n";
const END: &str = "<!-- end -->";

fn markdown() -> String {
    let mut text = format!("```toml\n{}```\n\n", include_str!("example.toml"));
    text.push_str("| key | type | what it decides | allowed | default |\n");
    text.push_str("| --- | --- | --- | --- | --- |\n");
    for (table, _, keys) in TABLES {
        for key in *keys {
            let kind = match key.kind {
                Kind::Flag => "boolean",
                Kind::Number { .. } => "integer",
                Kind::Text(_) => "string",
                Kind::Texts(_) => "array of strings",
            };
            let default = match key.default {
                None => "it must be there".to_owned(),
                Some(words) if words.starts_with('(') => words.trim_matches(['(', ')']).to_owned(),
                Some(literal) => format!("`{literal}`"),
            };
            let name = format!("{table} {}", key.name);
            let (name, help, allowed) = (name.trim(), key.help, key.allowed());
            let _infallible =
                writeln!(text, "| `{name}` | {kind} | {help} | {allowed} | {default} |");
        }
    }
    text
}

#[test]
fn the_documentation_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let written = std::fs::read_to_string(path).unwrap();
    let (before, rest) = written.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    if std::env::var_os("LONGSHORE_WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{}\n{END}{after}", markdown())).unwrap();
        return;
    }
    let right = format!("{}\n", markdown());
    assert_eq!(
        table, right,
        "run `LONGSHORE_WRITE_DOCS=1 cargo test -p longshore-emulator the_documentation_is_true`"
    );
}

fn read(text: &str) -> Result<EmulatorBuilder, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.toml");
    std::fs::write(&path, text).unwrap();
    config_file::apply(&path, Emulator::builder())
        .map_err(|error| std::error::Error::source(&error).unwrap().to_string())
}

/// A file with this value of a key, and what else its table needs.
fn with(table: &str, needed: &str, key: &Key, value: &str) -> String {
    let others = needed.lines().filter(|line| !line.starts_with(&format!("{} =", key.name)));
    let others: Vec<_> = others.collect();
    format!("{table}\n{}\n{} = {value}\n", others.join("\n"), key.name)
}

#[test]
fn the_keys_of_the_file_are_those_that_are_described() {
    for (table, needed, keys) in TABLES {
        let unknown = Key { name: "unknown", ..LISTEN };
        let error = read(&with(table, needed, &unknown, "1")).unwrap_err();
        let (_, expected) = error.split_once("expected ").expect(&error);
        let mut known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        // Tables within the table are described themselves.
        known.retain(|name| !TABLES.iter().any(|(table, ..)| *table == format!("[[{name}]]")));
        let described: Vec<&str> = keys.iter().map(|key| key.name).collect();
        assert_eq!(known, described);
    }
}

#[test]
fn types_and_ranges_are_those_that_are_described() {
    for (table, needed, keys) in TABLES {
        for key in *keys {
            let take = |value: &str| read(&with(table, needed, key, value)).map(|_| ());
            let (right, wrong): (Vec<String>, Vec<String>) = match key.kind {
                Kind::Flag => (vec!["true".into(), "false".into()], vec!["1".into()]),
                Kind::Number { least, most } => {
                    let more = most.checked_add(1).map(|more| more.to_string());
                    let wrong = [Some((least - 1).to_string()), more, Some("\"1\"".into())];
                    (
                        vec![least.to_string(), most.to_string()],
                        wrong.into_iter().flatten().collect(),
                    )
                }
                Kind::Text(_) => (vec!["\"10.0.0.1\"".into()], vec!["1".into()]),
                Kind::Texts(_) => (vec!["[]".into(), "[\"a\"]".into()], vec!["\"a\"".into()]),
            };
            for value in right {
                assert_eq!(take(&value), Ok(()), "{} = {value}", key.name);
            }
            for value in wrong {
                assert!(take(&value).is_err(), "{} = {value}", key.name);
            }
        }
    }
}

#[test]
fn defaults_are_those_that_are_described() {
    for (table, needed, keys) in TABLES {
        let without = read(&format!("{table}\n{needed}")).unwrap();
        for key in *keys {
            let Some(literal) = key.default.filter(|words| !words.starts_with('(')) else {
                continue;
            };
            let given = read(&with(table, needed, key, literal)).unwrap();
            if key.name == LISTEN.name {
                assert!(given.addresses().eq(without.addresses()));
                continue;
            }
            assert_eq!(format!("{given:?}"), format!("{without:?}"), "{}", key.name);
        }
        // What has no default must be there, and nothing else.
        for key in *keys {
            let others: String = needed
                .lines()
                .filter(|line| !line.starts_with(key.name))
                .fold(String::new(), |text, line| text + line + "\n");
            assert_eq!(read(&format!("{table}\n{others}")).is_err(), key.default.is_none());
        }
    }
}
