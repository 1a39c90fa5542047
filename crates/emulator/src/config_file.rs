//! A broker's configuration in a TOML file; `example.toml` has all there is.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::broker::{MAX_PARTITIONS, validate_hub};
use super::throughput::MAX_UNITS;
use super::{EmulatorBuilder, EmulatorError, HubOptions, MAX_MESSAGE_BYTES};

/// The smallest limit of a message: less than this has no room for what the protocol adds.
const MIN_MESSAGE_BYTES: usize = 1024;
const MAX_RETENTION_SECONDS: i64 = 90 * 24 * 3600;
const MIN_RETENTION_BYTES: i64 = 1024;
const MAX_GROUP_CHARS: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    check_tokens: Option<bool>,
    max_message_bytes: Option<i64>,
    throughput_units: Option<i64>,
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
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.into()))?;
    let config = parse(&text).map_err(|why| failed(why.into()))?;
    settle(config, builder).map_err(|error| failed(error.into()))
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
    if config.check_tokens == Some(true) {
        builder = builder.require_tokens();
    }
    if let Some(bytes) = config.max_message_bytes {
        let bytes = usize::try_from(bytes).map_err(|_| message_bytes(bytes))?;
        builder = builder.max_message_bytes(bytes);
    }
    if let Some(units) = config.throughput_units {
        let units = u32::try_from(units).map_err(|_| throughput_units(units))?;
        builder = builder.throughput_units(units);
    }
    if !config.keys.is_empty() {
        builder =
            builder.shared_access_keys(config.keys.into_iter().map(|key| (key.name, key.key)));
    }
    for (number, hub) in config.hubs.into_iter().enumerate() {
        builder = builder.hub_with(hub.settle(&format!("hubs[{number}]"))?);
    }
    validate(&builder)?;
    Ok(builder)
}

impl Hub {
    fn settle(self, at: &str) -> Result<HubOptions, EmulatorError> {
        let key = |name: &str| format!("{at}.{name}");
        let allowed = 1..=i64::from(MAX_PARTITIONS);
        let partitions = in_range(&key("partitions"), self.partitions, allowed)? as u32;
        validate_hub(&self.name, partitions)?;
        let mut options = HubOptions::new(self.name, partitions);
        if let Some(groups) = self.consumer_groups {
            for group in &groups {
                validate_group(&key("consumer_groups"), group)?;
            }
            options = options.consumer_groups(groups);
        }
        if let Some(seconds) = self.retention_seconds {
            let allowed = 1..=MAX_RETENTION_SECONDS;
            let seconds = in_range(&key("retention_seconds"), seconds, allowed)?;
            options = options.retention_age(Duration::from_secs(seconds.unsigned_abs()));
        }
        if let Some(bytes) = self.retention_bytes {
            let allowed = MIN_RETENTION_BYTES..=i64::MAX;
            let bytes = in_range(&key("retention_bytes"), bytes, allowed)?;
            options = options.retention_bytes(bytes.unsigned_abs());
        }
        Ok(options)
    }
}

fn setting(
    key: impl Into<String>,
    value: impl Display,
    allowed: impl Into<String>,
) -> EmulatorError {
    EmulatorError::Setting { key: key.into(), value: value.to_string(), allowed: allowed.into() }
}

fn in_range(key: &str, value: i64, allowed: RangeInclusive<i64>) -> Result<i64, EmulatorError> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let range = match (allowed.start(), allowed.end()) {
        (least, &i64::MAX) => format!("{least} or more"),
        (least, most) => format!("from {least} to {most}"),
    };
    Err(setting(key, value, range))
}

fn validate_group(key: &str, group: &str) -> Result<(), EmulatorError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid = (1..=MAX_GROUP_CHARS).contains(&group.len()) && group.chars().all(plain);
    if valid || group.eq_ignore_ascii_case("$Default") {
        return Ok(());
    }
    let allowed =
        format!("a name of 1 to {MAX_GROUP_CHARS} letters, digits, '.', '-' and '_', or $Default");
    Err(setting(key, format!("'{group}'"), allowed))
}

fn message_bytes(value: impl Display) -> EmulatorError {
    let allowed = format!("from {MIN_MESSAGE_BYTES} to {MAX_MESSAGE_BYTES}");
    setting("max_message_bytes", value, allowed)
}

fn throughput_units(value: impl Display) -> EmulatorError {
    setting("throughput_units", value, format!("from 1 to {MAX_UNITS}"))
}

/// Checks what a file and a builder set alike.
pub(super) fn validate(builder: &EmulatorBuilder) -> Result<(), EmulatorError> {
    let settings = builder.settings();
    if !(MIN_MESSAGE_BYTES..=MAX_MESSAGE_BYTES).contains(&settings.max_message_bytes) {
        return Err(message_bytes(settings.max_message_bytes));
    }
    if let Some(units) = settings.throughput_units
        && !(1..=MAX_UNITS).contains(&units)
    {
        return Err(throughput_units(units));
    }
    if settings.keys.is_empty() {
        return Err(setting("keys", "none", "at least one key"));
    }
    for (number, key) in settings.keys.iter().enumerate() {
        // A connection string ends a value at the semicolon.
        for (name, text) in [("name", &key.name), ("key", &key.key)] {
            if text.is_empty() || text.contains(';') {
                let key = format!("keys[{number}].{name}");
                return Err(setting(key, "(not shown)", "text without ';', not empty"));
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
        assert_eq!(builder.settings().max_message_bytes, 262_144);
        assert_eq!(builder.settings().throughput_units, Some(2));
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
            ("throughput_units = 41".to_owned(), "throughput_units = 41: it must be from 1 to 40"),
            ("partition = 4".to_owned(), "line 1: unknown field `partition`"),
            ("[[hubs]\n".to_owned(), "line 1: "),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_key_is_in_no_error() {
        for text in [
            "[[keys]]\nname = \"n\"\nkey = \"canary;\"",
            "[[keys]]\nname = \"n\"\nkey = \"canary\" x",
            "[[keys]]\nname = 5\nkey = \"canary\"",
            "[[keys]]\nname = \"n\"\nkey = [\"canary\"]",
        ] {
            let error = read(text).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
