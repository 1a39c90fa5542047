//! The documentation is true as far as a machine can tell: its commands are understood, its files can be used, what it
//! names exists, and its links lead somewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore::config::Credentials;
use longshore::settings::{Settings, keys};
use longshore::telemetry::metrics;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every page: its path within the repository, and its text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = root();
    let mut pages = Vec::new();
    let mut folders = vec![root.join("docs"), root.join("crates/emulator/docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => pages.push(path),
            }
        }
    }
    pages.extend(
        ["README.md", "crates/cli/README.md", "crates/emulator/README.md"].map(|it| root.join(it)),
    );
    assert!(pages.len() > 15, "{pages:?}");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.strip_prefix(&root).unwrap().to_owned(), text)
    };
    pages.into_iter().map(read).collect()
}

/// The blocks of a page between fences: their language and their text.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let block: Vec<_> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
        blocks.push((language.to_owned(), block.join("\n")));
    }
    blocks
}

#[test]
fn every_block_is_of_a_language_that_something_checks() {
    for (path, text) in pages() {
        for (language, block) in blocks(&text) {
            let is_checked = match language.as_str() {
                // By the tests below; text is what a command prints.
                "sh" | "toml" | "python" | "promql" | "text" => true,
                // For compose, with an image of the reader's own.
                "yaml" => path.ends_with("crates/emulator/README.md"),
                // These pages are part of the documentation of their crates, which compiles them.
                "rust" | "rust,no_run" => [
                    "README.md",
                    "crates/emulator/README.md",
                    "docs/guarantees.md",
                    "docs/metrics.md",
                ]
                .map(Path::new)
                .contains(&path.as_path()),
                _ => false,
            };
            assert!(is_checked, "{}: nothing checks {language:?}:\n{block}", path.display());
        }
    }
}

/// The words of a line as a shell reads them, up to what ends its first command or is a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in line.chars() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None, ' ') => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            _ => word.push(letter),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    let ends =
        |word: &String| word.starts_with('#') || ["&", "&&", "|", ";"].contains(&word.as_str());
    let end = words.iter().position(ends).unwrap_or(words.len());
    words.truncate(end);
    words
}

#[test]
fn every_command_of_the_command_is_understood() {
    let mut seen = BTreeSet::new();
    for (path, text) in pages() {
        // Fenced, or indented as a block.
        let fenced = blocks(&text).into_iter().filter(|(language, _)| language == "sh");
        let fenced: Vec<_> = fenced
            .flat_map(|(_, block)| block.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let indented = text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned);
        for line in fenced.into_iter().chain(indented) {
            let words = words(&line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let arguments = match words.as_slice() {
                // The crate of that name, in the drawing of docs/architecture.md.
                ["longshore", "(src)", ..] => continue,
                ["longshore", arguments @ ..] => arguments,
                ["cargo", "run", "--release", "--", arguments @ ..] => arguments,
                _ => continue,
            };
            // Placeholders that must be of a form.
            let arguments: Vec<String> =
                arguments.iter().map(|word| word.replace("5f0c…", "0123456789abcdef")).collect();
            let asked = Command::new(env!("CARGO_BIN_EXE_longshore"))
                .args(&arguments)
                .arg("--help")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&asked.stderr);
            assert!(asked.status.success(), "{}: {line}\n{said}", path.display());
            seen.extend(arguments.first().cloned());
        }
    }
    let commands = [
        "checkpoints",
        "dead-letters",
        "demo",
        "emulator",
        "parked",
        "retry-scheduler",
        "send",
        "tail",
        "test",
        "transfer",
        "worker",
    ];
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        commands,
        "the documentation has an example of each"
    );
}

#[test]
fn every_file_of_settings_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let string = "Endpoint=sb://a.example/;SharedAccessKeyName=n;SharedAccessKey=Y2FuYXJ5";
    let mut loaded = 0;
    for (path, text) in pages() {
        // The broker has a file of its own, which its tests read.
        if path.starts_with("crates/emulator") {
            continue;
        }
        for (_, block) in blocks(&text).into_iter().filter(|(language, _)| language == "toml") {
            let place = format!("{}:\n{block}", path.display());
            if block.contains("[dependencies]") && !block.contains("\nlongshore = ") {
                // What goes with the library is what its own tests are built with.
                let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
                for line in block.lines().skip(1) {
                    assert!(manifest.lines().any(|ours| ours == line), "no {line} for {place}");
                }
                continue;
            }
            if block.contains("[dependencies]") {
                let features =
                    block.split_once("features = [").and_then(|(_, rest)| rest.split_once(']'));
                let (features, _) = features.expect(&place);
                let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
                for feature in features.split(',').map(|feature| feature.trim().trim_matches('"')) {
                    assert!(
                        manifest.contains(&format!("\n{feature} = [")),
                        "no {feature} in {place}"
                    );
                }
                continue;
            }
            if block.contains("bearer") {
                Credentials::from_toml(&block.replace('…', "x")).expect(&place);
                continue;
            }
            let file = dir.path().join("worker.toml");
            let block =
                block.replace("Endpoint=sb://…", string).replace("?SIGNATURE", "?sv=1&sig=x");
            fs::write(&file, &block).unwrap();
            // A part of a file is about what one worker adds.
            let is_whole = block.contains("EVENTHUB_") || block.contains("[namespaces.");
            let environment = (!is_whole).then_some(("EVENTHUB_CONNECTION_STRING", string));
            let settings = Settings::load(environment, Some(&file)).expect(&place);
            assert_eq!(settings.warnings(), [""; 0], "{place}");
            loaded += 1;
        }
    }
    assert!(loaded >= 4, "{loaded}");
}

#[test]
fn the_worker_in_python_is_python() {
    let page = fs::read_to_string(root().join("docs/migration.md")).unwrap();
    let (_, code) = blocks(&page).into_iter().find(|(language, _)| language == "python").unwrap();
    let check = "import ast, sys; ast.parse(sys.argv[1])";
    let checked =
        Command::new("python3").args(["-c", check, &code]).output().expect("python3 runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// The words of a text that begin so, and go on in capitals or not.
fn names<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_<>".contains(letter);
    text.split(move |letter| !is_part(letter)).filter(move |word| word.starts_with(prefix))
}

#[test]
fn every_variable_and_every_metric_that_is_named_exists() {
    // What only the tests, the benches and the command read.
    let others = ["LONGSHORE_WRITE_DOCS", "LONGSHORE_TRANSFER_TO", "LONGSHORE_HTTP_PROXY"];
    // docs/proof.md names those of the tests.
    for (path, text) in pages().into_iter().filter(|(path, _)| !path.ends_with("proof.md")) {
        for name in names(&text, "LONGSHORE_").chain(names(&text, "EVENTHUB_")) {
            let is_key = keys::ALL.iter().any(|key| {
                key.name == name
                    || key.aliases.contains(&name)
                    // A worker of the reader's, a variable of a table, or the beginning of several names.
                    || (name.ends_with('_') && key.name.starts_with(name))
            });
            let is_of_a_table = [
                "LONGSHORE_NAMESPACES_",
                "LONGSHORE_TOPICS_",
                "LONGSHORE_WORKER_",
                "EVENTHUB_ENTITY_",
            ]
            .iter()
            .any(|start| name.starts_with(start));
            let is_other = others.contains(&name)
                || name.starts_with("LONGSHORE_BENCH_")
                || name == "LONGSHORE_";
            assert!(is_key || is_of_a_table || is_other, "{}: there is no {name}", path.display());
        }
        for name in names(&text, "longshore_")
            .filter(|name| path.ends_with("metrics.md") || name.ends_with("_total"))
        {
            assert!(
                metrics::ALL.iter().any(|metric| metric.name == name),
                "{}: there is no {name}",
                path.display()
            );
        }
    }
}

/// A default as settings write it, in the words of the documentation.
fn as_documented(default: &str) -> String {
    if let Some((first, longest)) = default.split_once("..") {
        return format!("{}, doubled up to {}", as_documented(first), as_documented(longest));
    }
    if default.contains(", ") {
        return default.split(", ").map(as_documented).collect::<Vec<_>>().join(", ");
    }
    for (unit, word) in [("ms", "ms"), ("s", "s"), ("m", "min"), ("h", "h")] {
        let number = default
            .strip_suffix(unit)
            .filter(|number| number.bytes().all(|it| it.is_ascii_digit()));
        if let Some(number) = number.filter(|number| !number.is_empty()) {
            return format!("{number} {word}");
        }
    }
    let Ok(number) = default.parse::<u64>() else { return String::new() };
    for (shift, unit) in [(40, "TiB"), (20, "MiB")] {
        if number >= 1 << shift && number % (1 << shift) == 0 {
            return format!("{} {unit}", number >> shift);
        }
    }
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    }
}

#[test]
fn every_option_says_its_default_by_its_value() {
    let root = root();
    let sources = ["src/config.rs", "src/config/download.rs"]
        .map(|path| fs::read_to_string(root.join(path)).unwrap());
    let mut checked = 0;
    for key in keys::ALL {
        let Some(name) = key.name.strip_prefix("LONGSHORE_") else { continue };
        let field = |name: &str| format!("\n    pub {}: ", name.to_lowercase());
        let short = name.strip_prefix("DOWNLOAD_").unwrap_or(name);
        let of_downloads =
            sources[1].split_once(&field(short)).filter(|_| name != "CONNECT_TIMEOUT");
        let Some((before, _)) = sources[0].split_once(&field(name)).or(of_downloads) else {
            continue;
        };
        let docs = before.lines().rev().take_while(|line| line.trim_start().starts_with("///"));
        let mut docs: Vec<_> =
            docs.map(|line| line.trim().trim_start_matches('/').trim()).collect();
        docs.reverse();
        let docs = docs.join(" ");
        let expected = format!("Default: {}", as_documented(key.default));
        assert!(docs.contains(&expected), "{}: {expected:?} is not in {docs:?}", key.name);
        checked += 1;
    }
    assert!(checked >= 40, "{checked}");
}

#[test]
fn the_documentation_of_the_library_shows_no_inner_rooms_and_no_numbers_of_requirements() {
    let root = root();
    let lines_before = |file: &str, module: &str| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let (before, _) = text.split_once(&format!("\npub mod {module};")).expect(module);
        before.lines().last().unwrap().to_owned()
    };
    for (file, module) in [
        ("src/lib.rs", "state"),
        ("src/settings/mod.rs", "keys"),
        ("src/settings/mod.rs", "value"),
        ("src/transport/mod.rs", "partition_stream"),
    ] {
        assert_eq!(lines_before(file, module), "#[doc(hidden)]", "{module}");
    }
    let mut folders = vec![root.join("src"), root.join("crates/emulator/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("(requirement "), "{}", path.display());
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let root = root();
    for (path, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = match file {
                "" => root.join(&path),
                file => root.join(&path).parent().unwrap().join(file),
            };
            let found = fs::read_to_string(&target)
                .unwrap_or_else(|_| panic!("{}: {link}", path.display()));
            let Some(anchor) = anchor else { continue };
            let anchors = found.lines().filter(|line| line.starts_with('#')).map(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                title.replace(|letter: char| !letter.is_alphanumeric() && letter != '-', "")
            });
            assert!(anchors.into_iter().any(|it| it == anchor), "{}: {link}", path.display());
        }
    }
}
