//! A place in a log, and an age, as people write them on a command line.

use std::time::{Duration, SystemTime};

use longshore::event::StartPosition;
use longshore::settings::value::{duration, start_position};

const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;

/// Most days that an age may have.
const MAX_AGE_DAYS: u64 = 365 * 100;

/// What [`start_position`] takes, and how long ago: `1h`, `2d`.
pub(crate) fn position(text: &str) -> Option<StartPosition> {
    start_position(text).or_else(|| {
        let at = SystemTime::now().checked_sub(age(text).ok()?)?;
        Some(StartPosition::EnqueuedAt(at))
    })
}

/// How long ago: `30d`, `12h`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let Some(days) = text.strip_suffix('d') else {
        return duration(text)
            .map_err(|_| "write a number and a unit: 30d, 12h, 5m, 1s".to_owned());
    };
    let days: u64 = days.parse().map_err(|_| "write a number of days: 30d".to_owned())?;
    if days > MAX_AGE_DAYS {
        return Err(format!("it must be at most {MAX_AGE_DAYS}d"));
    }
    Ok(Duration::from_secs(days * SECONDS_OF_A_DAY))
}

#[cfg(test)]
mod tests {
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
