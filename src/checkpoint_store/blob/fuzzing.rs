//! What holds of checkpoints in the metadata of blobs, whoever wrote it.

use super::{metadata, settled};
use crate::blob_container::Metadata;
use crate::event::SequenceNumber;

/// What is read as a checkpoint is written within the limit of the service and read as the same, but for
/// an offset that no header may hold. Each line is a key, a colon and a value.
///
/// # Panics
/// Where that does not hold.
pub fn checkpoint_blobs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let found: Metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let Ok(read) = metadata::decode(&found) else { return };
    let mut end = read.watermark.as_ref().map_or(i64::MIN, |position| position.sequence_number.0);
    for run in &read.settled_above {
        assert!(run.first.0 > end && run.first <= run.last, "{read:?}");
        end = run.last.0;
    }
    let written = metadata::encode(&read);
    let bytes: usize = written.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes <= metadata::MAX_METADATA_BYTES);
    let again = metadata::decode(&written);
    let Ok(again) = &again else { unreachable!("{read:?}: {again:?}") };
    let number = |watermark: &Option<crate::event::Position>| {
        watermark.as_ref().map(|position| position.sequence_number)
    };
    assert_eq!(number(&again.watermark), number(&read.watermark));
    assert_eq!((again.lease_epoch, again.write_id), (read.lease_epoch, read.write_id));
    assert_eq!((again.reset_generation, again.trial), (read.reset_generation, read.trial));
    assert_eq!(metadata::decode(&metadata::encode(again)).as_ref(), Ok(again));
}

/// Any text is runs in order above its base, or refused; what is read is written in as many characters at
/// most, and read as the same. The first eight bytes are the base.
///
/// # Panics
/// Where that does not hold.
pub fn settled_runs(bytes: &[u8]) {
    let Some((base, text)) = bytes.split_first_chunk() else { return };
    let (base, Ok(text)) = (i64::from_le_bytes(*base), std::str::from_utf8(text)) else { return };
    let Some(runs) = settled::decode(base, text) else { return };
    let mut end = SequenceNumber(base);
    for run in &runs {
        assert!(run.first > end && run.first <= run.last);
        end = run.last;
    }
    let read = settled::decode(base, &settled::encode(base, &runs, 1 << 20)).unwrap_or_default();
    // Runs that touch are one.
    let numbers = |runs: &[crate::checkpoint::SettledRun]| {
        let mut all: Vec<(i64, i64)> = Vec::new();
        for run in runs {
            match all.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(run.first.0) => *last = run.last.0,
                _ => all.push((run.first.0, run.last.0)),
            }
        }
        all
    };
    assert_eq!(numbers(&read), numbers(&runs), "{text}");
}
