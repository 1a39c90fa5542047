//! The times of the stages that a file has passed through, handed on from stage to stage.
//!
//! A stage is one hub of tasks and the worker that reads it. A result has the property [`STAGES`]: the times that
//! came with the task, and behind them those of its own stage. Code that makes the next task from a result copies
//! its properties, and so hands the times on. The next result has them in its
//! [`stages`](super::task::TransferResult::stages).
//!
//! The times say how long a task waited and how long the work took at each stage. They are hints: a value that is
//! not a list of times, or is too long, is ignored.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{Event, Value};
use crate::timestamp::from_rfc3339;

/// The property that holds the times: a JSON array of [`StageTimes`].
pub const STAGES: &str = "longshore_stages";

/// The most bytes of the property: 2,048. If a chain is longer, stages after the first are left out, the oldest
/// first.
pub const MAX_STAGES_BYTES: usize = 2_048;

/// When a stage began and ended with a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageTimes {
    /// The hub of its tasks.
    pub entity: String,
    /// When the task was enqueued, in RFC 3339.
    pub enqueued_at: String,
    /// When the successful attempt began, in RFC 3339.
    pub started_at: String,
    /// When the file was committed, in RFC 3339.
    pub finished_at: String,
}

/// The times of the stages before the one that has this task.
pub(super) fn earlier(task: &Event) -> Vec<StageTimes> {
    let text = task.properties().get(STAGES).and_then(Value::as_text);
    let text = text.filter(|text| text.len() <= MAX_STAGES_BYTES);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The property for the next stage: the times of this one, behind those before it.
pub(super) fn handed_on(earlier: &[StageTimes], this: &StageTimes) -> Value {
    let mut stages: Vec<_> = earlier.iter().chain([this]).collect();
    loop {
        // Texts, which JSON holds.
        let text = serde_json::to_string(&stages).unwrap_or_default();
        if text.len() <= MAX_STAGES_BYTES {
            return Value::from(text);
        }
        // The first says when it all began, and the last is this one.
        let left_out = usize::from(stages.len() > 2);
        stages.remove(left_out);
    }
}

/// From one time to another, both in RFC 3339; zero where the first is the later one.
pub(super) fn between(from: &str, to: &str) -> Option<Duration> {
    Some(from_rfc3339(to)?.duration_since(from_rfc3339(from)?).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{EventParts, Partition};

    fn times(entity: &str, number: u32) -> StageTimes {
        let at = |second: u32| format!("2026-01-31T12:{:02}:{second:02}.000Z", number % 60);
        StageTimes {
            entity: entity.to_owned(),
            enqueued_at: at(1),
            started_at: at(2),
            finished_at: at(3),
        }
    }

    fn task(stages: Value) -> Event {
        let partition = Arc::new(Partition::new("cached", "0"));
        let mut parts = EventParts::new(partition, 7, "task");
        parts.properties.insert(STAGES.to_owned(), stages);
        Event::from(parts)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_chain_of_any_length_keeps_its_first_and_its_last_stage(
            entities in proptest::collection::vec("[a-z]{1,200}", 1..30),
        ) {
            let mut property = Value::from("[]".to_owned());
            for (number, entity) in (0..).zip(&entities) {
                property = handed_on(&earlier(&task(property)), &times(entity, number));
                prop_assert!(property.as_text().is_some_and(|text| text.len() <= MAX_STAGES_BYTES));
            }
            let kept = earlier(&task(property));
            prop_assert_eq!(&kept.first().expect("one").entity, &entities[0]);
            prop_assert_eq!(&kept.last().expect("one").entity, &entities[entities.len() - 1]);
            let minutes: Vec<_> = kept.iter().map(|stage| stage.enqueued_at.clone()).collect();
            prop_assert!(minutes.is_sorted(), "{minutes:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_times_counts_as_none() {
        let long = serde_json::to_string(&vec![times("a", 1); 100]).expect("JSON");
        for hostile in ["", "[]", "{}", "[1]", "[{}]", "[[[", &long] {
            assert_eq!(earlier(&task(Value::from(hostile.to_owned()))), [], "{hostile}");
        }
        assert_eq!(earlier(&task(Value::Null)), []);
    }

    #[test]
    fn a_time_that_is_none_has_no_distance() {
        let at = "2026-01-31T12:00:00.500Z";
        assert_eq!(between("2026-01-31T12:00:00.000Z", at), Some(Duration::from_millis(500)));
        assert_eq!(between(at, "2026-01-31T12:00:00.000Z"), Some(Duration::ZERO));
        assert_eq!(between("then", at), None);
    }
}
