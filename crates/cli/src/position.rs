//! A place in a log as people write it on a command line.

use std::time::SystemTime;

use super::dead_letters::filter::age;
use longshore::event::StartPosition;
use longshore::settings::value::start_position;

/// What [`start_position`] takes, and how long ago: `1h`, `2d`.
pub(crate) fn position(text: &str) -> Option<StartPosition> {
    start_position(text).or_else(|| {
        let at = SystemTime::now().checked_sub(age(text).ok()?)?;
        Some(StartPosition::EnqueuedAt(at))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longshore::event::SequenceNumber;

    use super::*;

    #[test]
    fn a_place_is_a_word_a_number_a_time_or_how_long_ago() {
        assert_eq!(position("earliest"), Some(StartPosition::Earliest));
        assert_eq!(position("17"), Some(StartPosition::SequenceNumber(SequenceNumber(17))));
        for (text, ago) in [("1h", 3_600), ("2d", 172_800), ("90s", 90)] {
            let Some(StartPosition::EnqueuedAt(at)) = position(text) else { panic!("{text}") };
            let is = SystemTime::now().duration_since(at).expect("before now");
            let off = is.saturating_sub(Duration::from_secs(ago));
            assert!(is >= Duration::from_secs(ago) && off < Duration::from_secs(60), "{text}");
        }
        for wrong in ["", "-1h", "h", "1", "yesterday"] {
            let is_number = wrong == "1";
            assert_eq!(position(wrong).is_some(), is_number, "{wrong}");
        }
    }
}
