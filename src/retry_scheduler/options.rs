//! What the properties are called, and what limits there are.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{ConsumerOptions, MAX_DURATION, Ordering};
use crate::error::InvalidConfig;
use crate::event::EntityName;

/// Default of [`RetryProperties::target`].
pub const DEFAULT_TARGET_PROPERTY: &str = "target_topic";

/// Default of [`RetryProperties::due`].
pub const DEFAULT_DUE_PROPERTY: &str = "scheduled_retry_time";

/// Default of [`RetryProperties::delay`].
pub const DEFAULT_DELAY_PROPERTY: &str = "retry_delay_seconds";

/// Default of [`RetryProperties::attempts`].
pub const DEFAULT_ATTEMPTS_PROPERTY: &str = "retry_count";

/// Default of [`RetryProperties::key`].
pub const DEFAULT_KEY_PROPERTY: &str = "original_key";

/// Default of [`RetrySchedulerOptions::max_delay`]: 30 days.
pub const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Shortest limit for the time that an event may wait.
const MIN_MAX_DELAY: Duration = Duration::from_secs(1);

/// What the properties of an event are called. All but `attempts` are the scheduler's own: they are taken off when
/// the event is published.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RetryProperties {
    /// The hub that the event goes to, as text. Default [`DEFAULT_TARGET_PROPERTY`], `target_topic`.
    pub target: String,
    /// When it is due: a time of AMQP, RFC 3339 (without a zone it is UTC), or seconds or milliseconds since 1970, as a
    /// number or text. Without it, `delay` counts; without both it is due at once. Default [`DEFAULT_DUE_PROPERTY`],
    /// `scheduled_retry_time`.
    pub due: String,
    /// After how many seconds it is due, counted from when it was enqueued; a number or text. Default
    /// [`DEFAULT_DELAY_PROPERTY`], `retry_delay_seconds`.
    pub delay: String,
    /// How often it was tried. It is read where there is a limit
    /// ([`RetrySchedulerOptions::max_attempts`]), and stays with the event. Default [`DEFAULT_ATTEMPTS_PROPERTY`],
    /// `retry_count`.
    pub attempts: String,
    /// The partition key that it is published with; without it, that is the one it came with. Default
    /// [`DEFAULT_KEY_PROPERTY`], `original_key`.
    pub key: String,
}

impl Default for RetryProperties {
    fn default() -> Self {
        Self {
            target: DEFAULT_TARGET_PROPERTY.to_owned(),
            due: DEFAULT_DUE_PROPERTY.to_owned(),
            delay: DEFAULT_DELAY_PROPERTY.to_owned(),
            attempts: DEFAULT_ATTEMPTS_PROPERTY.to_owned(),
            key: DEFAULT_KEY_PROPERTY.to_owned(),
        }
    }
}

impl RetryProperties {
    /// # Errors
    /// A name that is empty, or that two properties have.
    fn validate(&self) -> Result<(), InvalidConfig> {
        let mut seen = BTreeSet::new();
        for (field, name) in [
            ("target_property", &self.target),
            ("due_property", &self.due),
            ("delay_property", &self.delay),
            ("attempts_property", &self.attempts),
            ("key_property", &self.key),
        ] {
            if name.is_empty() {
                return Err(InvalidConfig::new(field, "''", "it must be the name of a property"));
            }
            if !seen.insert(name) {
                return Err(InvalidConfig::new(field, name, "another property has that name"));
            }
        }
        Ok(())
    }
}

/// What a [`RetryScheduler`](super::RetryScheduler) goes by.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RetrySchedulerOptions {
    /// What the properties are called.
    pub properties: RetryProperties,
    /// How long an event may wait for its time: one that is due later is a dead letter. From a second to a year. Default
    /// [`DEFAULT_MAX_DELAY`], 30 days.
    pub max_delay: Duration,
    /// An event that says that it was tried so often, or oftener, is a dead letter. Default `None`: whoever publishes
    /// it counts.
    pub max_attempts: Option<u32>,
    /// The only targets that events may name; names are one whatever their case. Default `None`: all.
    pub allowed: Option<BTreeSet<EntityName>>,
}

impl Default for RetrySchedulerOptions {
    fn default() -> Self {
        Self {
            properties: RetryProperties::default(),
            max_delay: DEFAULT_MAX_DELAY,
            max_attempts: None,
            allowed: None,
        }
    }
}

impl RetrySchedulerOptions {
    /// Options for the consumer of a scheduler, made of these. Events have no order. The age at which a failure is final
    /// ([`ConsumerOptions::max_age`]) is counted from the first time that the event waited: so it is longer by
    /// [`max_delay`](Self::max_delay), a year at most; zero stays zero.
    #[must_use]
    pub fn fit(&self, mut options: ConsumerOptions) -> ConsumerOptions {
        options.ordering = Ordering::Unordered;
        if !options.max_age.is_zero() {
            options.max_age = options.max_age.saturating_add(self.max_delay).min(MAX_DURATION);
        }
        options
    }

    /// # Errors
    /// Names of properties that cannot be used, or a limit out of its range.
    pub(super) fn validate(&self) -> Result<(), InvalidConfig> {
        self.properties.validate()?;
        if !(MIN_MAX_DELAY..=MAX_DURATION).contains(&self.max_delay) {
            let value = format!("{:?}", self.max_delay);
            return Err(InvalidConfig::new("max_delay", value, "it must be from 1 s to 365 days"));
        }
        if self.max_attempts == Some(0) {
            return Err(InvalidConfig::new("max_attempts", 0, "it must be at least 1"));
        }
        if self.allowed.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(InvalidConfig::new("allowed", "none", "it must name a target"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_MAX_AGE;

    #[test]
    fn options_out_of_range_are_refused_with_their_name() {
        let refused = |change: fn(&mut RetrySchedulerOptions)| {
            let mut options = RetrySchedulerOptions::default();
            assert_eq!(options.validate(), Ok(()));
            change(&mut options);
            options.validate().expect_err("refused").field
        };
        assert_eq!(refused(|it| it.properties.key = String::new()), "key_property");
        assert_eq!(refused(|it| it.properties.due = "retry_count".to_owned()), "attempts_property");
        assert_eq!(refused(|it| it.max_delay = Duration::from_millis(1)), "max_delay");
        assert_eq!(refused(|it| it.max_delay = MAX_DURATION + Duration::from_secs(1)), "max_delay");
        assert_eq!(refused(|it| it.max_attempts = Some(0)), "max_attempts");
        assert_eq!(refused(|it| it.allowed = Some(BTreeSet::new())), "allowed");
    }

    #[test]
    fn the_consumer_gives_up_no_earlier_for_what_has_waited() {
        let options = RetrySchedulerOptions::default();
        let mut of_consumer = ConsumerOptions::default();
        of_consumer.ordering = Ordering::PerKey;
        let fitted = options.fit(of_consumer.clone());
        assert_eq!(fitted.max_age, DEFAULT_MAX_AGE + DEFAULT_MAX_DELAY);
        assert_eq!((fitted.ordering, fitted.validate()), (Ordering::Unordered, Ok(())));
        of_consumer.max_age = Duration::ZERO;
        assert_eq!(options.fit(of_consumer.clone()).max_age, Duration::ZERO);
        of_consumer.max_age = MAX_DURATION;
        assert_eq!(options.fit(of_consumer).max_age, MAX_DURATION);
    }
}
