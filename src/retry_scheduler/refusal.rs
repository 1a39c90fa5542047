//! Why an event is not published, in words and in one word.

use std::fmt;
use std::time::Duration;

use crate::error::{ErrorClass, OneLine};
use crate::event::Value;
use crate::outcome::Failure;
use crate::timestamp::rfc3339_millis;

/// Longest part of a value that is shown.
const SHOWN_CHARS: usize = 100;

/// Why an event is not published.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Refusal {
    /// No property names the target.
    NoTarget { property: String },
    /// A property is nothing of its kind.
    NotSuch { property: String, value: String, kind: &'static str },
    /// It is due later than may be.
    TooFar { due: i64, limit: Duration },
    /// It was tried as often as may be.
    UsedUp { count: f64, most: u32 },
    /// Its target is not among those that may be.
    NotAllowed { target: String },
    /// Its target is a hub that is read here.
    Loop { target: String },
    /// There is no such target.
    Unknown { target: String, why: String },
}

impl Refusal {
    /// A property whose value is not of this kind.
    pub(super) fn not(property: &str, value: &Value, kind: &'static str) -> Self {
        let mut text: String = value.to_string();
        if text.chars().nth(SHOWN_CHARS).is_some() {
            text = text.chars().take(SHOWN_CHARS).chain(['…']).collect();
        }
        Self::NotSuch { property: property.to_owned(), value: text, kind }
    }

    /// What the dead letter says.
    pub(super) fn failure(&self) -> Failure {
        let class = match self {
            Self::NoTarget { .. } | Self::NotSuch { .. } | Self::TooFar { .. } => {
                ErrorClass::BadData
            }
            _ => ErrorClass::Permanent,
        };
        let failure = Failure::new(class, self.to_string());
        match self {
            Self::NotAllowed { target } | Self::Loop { target } | Self::Unknown { target, .. } => {
                failure.at(target.as_str())
            }
            _ => failure,
        }
    }

    /// In one word, as the metric has it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoTarget { .. } => "no_target",
            Self::NotSuch { .. } => "bad_property",
            Self::TooFar { .. } => "too_far",
            Self::UsedUp { .. } => "attempts",
            Self::NotAllowed { .. } => "not_allowed",
            Self::Loop { .. } => "loop",
            Self::Unknown { .. } => "unknown_target",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTarget { property } => write!(
                f,
                "it has no property {property}, which names the hub that it goes to: give it one, or name \
                 the property that has it"
            ),
            Self::NotSuch { property, value, kind } => {
                write!(f, "its property {property} is '{}', which is not {kind}", OneLine(value))
            }
            Self::TooFar { due, limit } => {
                let days = limit.as_secs_f64() / 86_400.0;
                let due = rfc3339_millis(*due).unwrap_or_else(|| "beyond the year 9999".to_owned());
                write!(f, "it is due at {due}: an event may wait for at most {days} days")
            }
            Self::UsedUp { count, most } => {
                write!(f, "it was tried {count} times, and {most} are the most")
            }
            Self::NotAllowed { target } => {
                write!(f, "its target {target} is not among those that are allowed")
            }
            Self::Loop { target } => write!(
                f,
                "its target {target} is a hub that the scheduler reads: it would come back for ever"
            ),
            Self::Unknown { target, why } => {
                write!(f, "its target {target} cannot be published to: {why}")
            }
        }
    }
}
