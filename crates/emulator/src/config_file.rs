//! A broker's configuration in a TOML file; `example.toml` has all there is.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::broker::validate_hub;
use super::config_keys::{self as keys, refused};
use super::{EmulatorBuilder, EmulatorError, HubOptions, private};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: Option<String>,
    advertise: Option<String>,
    allow_anyone: Option<bool>,
    check_tokens: Option<bool>,
    max_message_bytes: Option<i64>,
    throughput_units: Option<i64>,
    max_memory_bytes: Option<i64>,
    #[serde(default)]
    keys: Vec<Key>,
    #[serde(default)]
    hubs: Vec<Hub>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hub {
    name: String,
    partitions: i64,
    consumer_groups: Option<Vec<String>>,
    retention_seconds: Option<i64>,
    retention_bytes: Option<i64>,
}

/// Applies the file to `builder`. Blocks.
pub(super) fn apply(
    path: &Path,
    builder: EmulatorBuilder,
) -> Result<EmulatorBuilder, EmulatorError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| EmulatorError::ConfigFile {
        path: path.to_owned(),
        source,
    };
    let text = private::read_named_text(path).map_err(|error| failed(error.into()))?;
    read(&text, builder).map_err(failed)
}

/// Applies the text of a file.
pub(super) fn read(
    text: &str,
    builder: EmulatorBuilder,
) -> Result<EmulatorBuilder, Box<dyn std::error::Error + Send + Sync>> {
    Ok(settle(parse(text)?, builder)?)
}

/// What is wrong is said by line; the line itself may hold a key.
fn parse(text: &str) -> Result<Config, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| before.matches('\n').count() + 1);
        line.map_or(String::new(), |line| format!("line {line}: ")) + error.message()
    })
}

fn settle(config: Config, mut builder: EmulatorBuilder) -> Result<EmulatorBuilder, EmulatorError> {
    if let Some(text) = config.listen {
        let address: IpAddr =
            text.parse().map_err(|_| refused(keys::LISTEN.name, &text, keys::LISTEN.allowed()))?;
        builder = builder.listen(address);
    }
    if let Some(host) = config.advertise {
        builder = builder.advertise(host);
    }
    if config.allow_anyone == Some(true) {
        builder = builder.allow_anyone();
    }
    if let Some(bytes) = config.max_message_bytes {
        builder = builder.max_message_bytes(keys::MAX_MESSAGE.in_range("", bytes)? as usize);
    }
    if let Some(units) = config.throughput_units {
        builder = builder.throughput_units(keys::THROUGHPUT.in_range("", units)? as u32);
    }
    if let Some(bytes) = config.max_memory_bytes {
        let bytes = keys::MAX_MEMORY.in_range("", bytes)?;
        builder = builder.max_memory_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    if !config.keys.is_empty() {
        builder =
            builder.shared_access_keys(config.keys.into_iter().map(|key| (key.name, key.key)));
    }
    // What is said about tokens comes before what keys alone stand for.
    builder = match config.check_tokens {
        Some(true) => builder.require_tokens(),
        Some(false) => builder.ignore_tokens(),
        None => builder,
    };
    for (number, hub) in config.hubs.into_iter().enumerate() {
        builder = builder.hub_with(hub.settle(&format!("hubs[{number}]."))?);
    }
    validate(&builder)?;
    Ok(builder)
}

impl Hub {
    fn settle(self, at: &str) -> Result<HubOptions, EmulatorError> {
        let partitions = keys::PARTITIONS.in_range(at, self.partitions)? as u32;
        validate_hub(&self.name, partitions)?;
        let mut options = HubOptions::new(self.name, partitions);
        if let Some(groups) = self.consumer_groups {
            for group in &groups {
                validate_group(&format!("{at}{}", keys::GROUPS.name), group)?;
            }
            options = options.consumer_groups(groups);
        }
        if let Some(seconds) = self.retention_seconds {
            let seconds = keys::RETENTION_SECONDS.in_range(at, seconds)?;
            options = options.retention_age(Duration::from_secs(seconds.unsigned_abs()));
        }
        if let Some(bytes) = self.retention_bytes {
            let bytes = keys::RETENTION_BYTES.in_range(at, bytes)?;
            options = options.retention_bytes(bytes.unsigned_abs());
        }
        Ok(options)
    }
}

fn validate_group(key: &str, group: &str) -> Result<(), EmulatorError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid = (1..=keys::MAX_GROUP_CHARS).contains(&group.len()) && group.chars().all(plain);
    if valid || group.eq_ignore_ascii_case("$Default") {
        return Ok(());
    }
    let most = keys::MAX_GROUP_CHARS;
    let allowed = format!("a name of 1 to {most} letters, digits, '.', '-' and '_', or $Default");
    Err(refused(key, format!("'{group}'"), allowed))
}

/// Checks what a file and a builder set alike.
pub(super) fn validate(builder: &EmulatorBuilder) -> Result<(), EmulatorError> {
    let settings = builder.settings();
    let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    keys::MAX_MESSAGE.in_range("", number(settings.max_message_bytes))?;
    keys::MAX_MEMORY.in_range("", number(settings.max_memory_bytes))?;
    if let Some(units) = settings.throughput_units {
        keys::THROUGHPUT.in_range("", units.into())?;
    }
    if settings.keys.is_empty() {
        return Err(refused("keys", "none", "at least one key"));
    }
    for (number, key) in settings.keys.iter().enumerate() {
        // A connection string ends a value at the semicolon, and a shell a line at its end.
        for (name, text) in [(keys::KEY_NAME.name, &key.name), (keys::KEY_VALUE.name, &key.key)] {
            if text.is_empty() || text.contains(|c: char| c == ';' || c.is_control()) {
                let key = format!("keys[{number}].{name}");
                return Err(refused(key, "(not shown)", "one line of text without ';', not empty"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::Emulator;
    use crate::settings::TokenCheck;

    fn read(text: &str) -> Result<EmulatorBuilder, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.toml");
        std::fs::write(&path, text).unwrap();
        apply(&path, Emulator::builder()).map_err(|error| {
            assert!(error.to_string().contains("broker.toml"), "{error}");
            std::error::Error::source(&error).unwrap().to_string()
        })
    }

    #[test]
    fn the_example_of_the_documentation_is_read() {
        let builder = read(include_str!("example.toml")).unwrap();
        assert_eq!(builder.settings().tokens, TokenCheck::Required);
        assert_eq!(builder.settings().max_message_bytes, 262_144);
        assert_eq!(builder.settings().throughput_units, Some(2));
        assert_eq!(builder.settings().max_memory_bytes, 268_435_456);
        let hub = HubOptions::new("orders", 4)
            .consumer_groups(["billing"])
            .retention_age(Duration::from_secs(3600))
            .retention_bytes(104_857_600);
        assert_eq!(builder.hubs(), [hub]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_what_is_allowed() {
        let hub = |more: &str| format!("[[hubs]]\nname = \"a\"\n{more}");
        for (text, said) in [
            (hub("partitions = 0"), "hubs[0].partitions = 0: it must be from 1 to 1024"),
            (hub("partitions = 1025"), "hubs[0].partitions = 1025: it must be from 1 to 1024"),
            (hub(""), "missing field `partitions`"),
            (hub("partitions = \"x\""), "line 3: invalid type"),
            (
                hub("partitions = 1\nretention_seconds = 0"),
                "hubs[0].retention_seconds = 0: it must be from 1 to 7776000",
            ),
            (
                hub("partitions = 1\nretention_bytes = -1"),
                "hubs[0].retention_bytes = -1: it must be 1024 or more",
            ),
            (
                hub("partitions = 1\nconsumer_groups = [\"a b\"]"),
                "hubs[0].consumer_groups = 'a b': it must be a name of 1 to 50",
            ),
            (
                "max_message_bytes = 2000000".to_owned(),
                "max_message_bytes = 2000000: it must be from 1024 to 1048576",
            ),
            ("max_message_bytes = -1".to_owned(), "it must be from 1024 to 1048576"),
            (
                "max_memory_bytes = 1024".to_owned(),
                "max_memory_bytes = 1024: it must be 1048576 or more",
            ),
            ("throughput_units = 41".to_owned(), "throughput_units = 41: it must be from 1 to 40"),
            ("listen = \"broker\"".to_owned(), "listen = broker: it must be an IP address"),
            ("partition = 4".to_owned(), "line 1: unknown field `partition`"),
            ("[[hubs]\n".to_owned(), "line 1: "),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn keys_are_checked_unless_the_file_says_otherwise() {
        let keys = "[[keys]]\nname = \"n\"\nkey = \"k\"\n";
        for (text, tokens) in [
            ("".to_owned(), TokenCheck::Ignored),
            (keys.to_owned(), TokenCheck::Required),
            (format!("check_tokens = false\n{keys}"), TokenCheck::Ignored),
            ("check_tokens = true".to_owned(), TokenCheck::Required),
        ] {
            assert_eq!(read(&text).unwrap().settings().tokens, tokens, "{text}");
        }
    }

    #[test]
    fn a_key_is_in_no_error() {
        for text in [
            "[[keys]]\nname = \"n\"\nkey = \"canary;\"",
            "[[keys]]\nname = \"n\"\nkey = \"canary\\n\"",
            "[[keys]]\nname = \"n\"\nkey = \"canary\" x",
            "[[keys]]\nname = 5\nkey = \"canary\"",
            "[[keys]]\nname = \"n\"\nkey = [\"canary\"]",
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
