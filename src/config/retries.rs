//! How often an event is tried, and after which delays, by the class of its failure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{ErrorClass, InvalidConfig};
use crate::state::backoff::Backoff;

/// The shortest first delay after [`ErrorClass::Throttling`], unless that class has a policy: 4 s. Event Hubs asks
/// this of a client that it tells "server busy".
pub const MIN_THROTTLING_DELAY: Duration = Duration::from_secs(4);

/// The shortest first delay after [`ErrorClass::Auth`], unless that class has a policy: 10 s. A person has to
/// correct the credentials.
pub const MIN_AUTH_DELAY: Duration = Duration::from_secs(10);

/// The least value of the longest delay after [`ErrorClass::Auth`], unless that class has a policy: 5 min.
pub const MIN_LONGEST_AUTH_DELAY: Duration = Duration::from_secs(5 * 60);

/// How events are tried when their failure is of one class.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// How many times a handler gets the event before [`then`](Self::then) applies; see
    /// [`ConsumerOptions::max_attempts`](super::ConsumerOptions::max_attempts).
    pub max_attempts: u32,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// What happens to an event after the last attempt.
    pub then: AfterAttempts,
}

/// What happens to an event that failed as often as its policy allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum AfterAttempts {
    /// It is parked, if the consumer has a failure store; see
    /// [`ConsumerOptions::park_delays`](super::ConsumerOptions::park_delays).
    #[default]
    Park,
    /// It becomes a dead letter.
    DeadLetter,
}

impl RetryPolicy {
    /// This many attempts, with these delays between them; then the event is parked.
    pub const fn new(max_attempts: u32, backoff: Backoff) -> Self {
        Self { max_attempts, backoff, then: AfterAttempts::Park }
    }

    /// The same policy with another choice of what happens after the last attempt.
    #[must_use]
    pub const fn then(self, then: AfterAttempts) -> Self {
        Self { then, ..self }
    }
}

/// The policies that are set, by class.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RetryPolicies(BTreeMap<ErrorClass, RetryPolicy>);

impl RetryPolicies {
    /// Sets the policy of a class. A failure of a class that is not retryable
    /// ([`ErrorClass::is_retryable`]) makes a dead letter at once, whatever its policy is, unless the handler
    /// asks for a retry.
    pub fn set(&mut self, class: ErrorClass, policy: RetryPolicy) {
        self.0.insert(class, policy);
    }

    /// The policy of a class, where `common` is that of the others.
    pub(super) fn of(&self, class: ErrorClass, common: RetryPolicy) -> RetryPolicy {
        if let Some(policy) = self.0.get(&class) {
            return *policy;
        }
        let (initial, max) = match class {
            ErrorClass::Throttling => (MIN_THROTTLING_DELAY, MIN_THROTTLING_DELAY),
            ErrorClass::Auth => (MIN_AUTH_DELAY, MIN_LONGEST_AUTH_DELAY),
            _ => return common,
        };
        let Backoff { initial: first, max: longest, factor } = common.backoff;
        let backoff = Backoff { initial: first.max(initial), max: longest.max(max), factor };
        RetryPolicy { backoff, ..common }
    }

    pub(super) fn validate(&self) -> Result<(), InvalidConfig> {
        for policy in self.0.values() {
            super::backoff("retry_policy.backoff", &policy.backoff)?;
            if policy.max_attempts == 0 {
                let bound = "it must be at least 1";
                return Err(InvalidConfig::new("retry_policy.max_attempts", 0, bound));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConsumerOptions;

    #[test]
    fn who_is_busy_is_left_alone_for_longer_and_a_policy_of_its_own_counts() {
        let mut options = ConsumerOptions::default();
        let initial =
            |options: &ConsumerOptions, class| options.retry_policy(class).backoff.initial;
        assert_eq!(initial(&options, ErrorClass::Unknown), Duration::from_secs(1));
        assert_eq!(initial(&options, ErrorClass::Throttling), MIN_THROTTLING_DELAY);
        assert_eq!(initial(&options, ErrorClass::Auth), MIN_AUTH_DELAY);
        options.retry_backoff = Backoff::doubling(Duration::from_secs(20), Duration::from_secs(40));
        let auth = options.retry_policy(ErrorClass::Auth).backoff;
        assert_eq!(auth, Backoff::doubling(Duration::from_secs(20), MIN_LONGEST_AUTH_DELAY));
        let quick = Backoff::doubling(Duration::from_millis(1), Duration::from_millis(2));
        options.retry_policies.set(ErrorClass::Throttling, RetryPolicy::new(9, quick));
        assert_eq!(options.retry_policy(ErrorClass::Throttling), RetryPolicy::new(9, quick));
        assert_eq!(options.validate(), Ok(()));
        options.retry_policies.set(ErrorClass::Auth, RetryPolicy::new(0, quick));
        assert!(options.validate().is_err());
    }
}
