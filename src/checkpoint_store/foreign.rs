//! A position as the other SDKs store it: an offset and a sequence number, either of which may
//! be missing or empty.
//!
//! "Nothing is settled yet" is written as `-1` and `-1`, the service's own name for the place
//! before the first event: some SDKs fail, for all partitions at once, on a checkpoint whose
//! sequence number is not a number.

use crate::event::Position;
use crate::state::offset_search::BEFORE_ALL as BEFORE_ALL_OFFSET;

const BEFORE_ALL: i64 = -1;

/// The offset and the sequence number to write. An unknown offset is empty, as .NET has it: the
/// processors of some SDKs cannot go on from it, so whoever writes looks the offset up first.
pub(super) fn written(watermark: Option<&Position>) -> (String, i64) {
    match watermark {
        None => (BEFORE_ALL_OFFSET.to_owned(), BEFORE_ALL),
        Some(Position { sequence_number, offset, .. }) => {
            let offset = offset.as_ref().map(|offset| offset.as_str().to_owned());
            (offset.unwrap_or_default(), sequence_number.0)
        }
    }
}

/// The position that was read; `None` if nothing is settled.
///
/// # Errors
/// If there is an offset alone: offsets are opaque, and positions are ordered by number.
pub(super) fn read(
    offset: Option<&str>,
    sequence_number: Option<i64>,
) -> Result<Option<Position>, String> {
    let offset = offset.filter(|offset| !offset.is_empty());
    match (offset, sequence_number) {
        (None, None) | (Some(BEFORE_ALL_OFFSET), Some(BEFORE_ALL)) => Ok(None),
        (Some(_), None) => Err("it has an offset and no sequence number".to_owned()),
        (offset, Some(number)) => {
            Ok(Some(Position { offset: offset.map(Into::into), ..Position::at(number) }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let with_offset = Position { offset: Some("4096".into()), ..Position::at(7) };
        for watermark in [None, Some(Position::at(0)), Some(Position::at(-1)), Some(with_offset)] {
            let (offset, number) = written(watermark.as_ref());
            assert_eq!(read(Some(&offset), Some(number)), Ok(watermark));
        }
    }

    #[test]
    fn an_offset_alone_is_no_position() {
        assert!(read(Some("4096"), None).is_err());
        assert_eq!(read(Some(""), None), Ok(None));
        assert_eq!(read(None, None), Ok(None));
    }
}
