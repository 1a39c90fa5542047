//! A checkpoint as the metadata of a blob: two keys that every SDK and KEDA read, and one of ours.
//!
//! `offset` and `sequencenumber` are the watermark. `longshore` holds the rest, as
//! `v=1;base=42;epoch=…;reset=…;write=…;takeovers=…;incarnation=…;suspects=…;trial=…;enqueued=…;
//! at=…;settled=…`. `at` is there where the watermark is before the first event, which is not the
//! same as none: a reset to the beginning. A writer that does not know it drops it, or keeps it beside a position it does not
//! belong to. So what depends on the position counts only where `base` is the stored sequence
//! number and the version is known. Fields that are not known are passed over. The two counters
//! that must not go back, `epoch` and `reset`, count in any case, and keep their names in later
//! versions. A value that cannot be read costs what it holds, never the watermark.

use std::collections::BTreeMap;

use super::settled;
use crate::blob_container::Metadata;
use crate::checkpoint::{Checkpoint, LeaseEpoch, Trial, WriteId};
use crate::checkpoint_store::foreign;
use crate::event::{Incarnation, Position, SequenceNumber};
use crate::state::offset_search::BEFORE_ALL;
use crate::timestamp::{from_unix_millis, unix_millis};

/// Most bytes of metadata that Blob Storage takes, names and values together.
pub(super) const MAX_METADATA_BYTES: usize = 8 * 1024;

/// Counted with each name, for the service may.
const NAME_PREFIX: &str = "x-ms-meta-";

const OFFSET: &str = "offset";
const SEQUENCE_NUMBER: &str = "sequencenumber";
const OURS: &str = "longshore";
const VERSION: &str = "1";
const COPY: &str = "copy";

/// The metadata of a checkpoint, within [`MAX_METADATA_BYTES`].
pub(super) fn encode(checkpoint: &Checkpoint) -> Metadata {
    let watermark = checkpoint.watermark.as_ref();
    let (mut offset, base) = foreign::written(watermark);
    let before_all = watermark.filter(|at| at.sequence_number.0 < 0);
    if before_all.is_some() {
        offset = BEFORE_ALL.to_owned();
    }
    // Anything else cannot travel in a header; the number says where we are.
    if !is_header_value(&offset) {
        offset.clear();
    }
    let mut ours = format!(
        "v={VERSION};base={base};epoch={};reset={};write={};takeovers={}",
        checkpoint.lease_epoch.0,
        checkpoint.reset_generation,
        checkpoint.write_id.0,
        checkpoint.takeovers_without_progress,
    );
    if let Some(Incarnation(incarnation)) = checkpoint.incarnation {
        ours.push_str(&format!(";incarnation={incarnation}"));
    }
    if let Some(SequenceNumber(suspects)) = checkpoint.suspects_to {
        ours.push_str(&format!(";suspects={suspects}"));
    }
    if let Some(Trial { event, is_on, deaths }) = checkpoint.trial {
        ours.push_str(&format!(";trial={}:{}:{deaths}", event.0, u8::from(is_on)));
    }
    if let Some(time) = checkpoint.watermark.as_ref().and_then(|at| at.enqueued_time) {
        ours.push_str(&format!(";enqueued={}", unix_millis(time)));
    }
    if before_all.is_some() {
        ours.push_str(&format!(";at={base}"));
    }
    let mut metadata = Metadata::from([
        (OFFSET.to_owned(), offset),
        (SEQUENCE_NUMBER.to_owned(), base.to_string()),
        (OURS.to_owned(), ours),
    ]);
    let field = ";settled=";
    let room = MAX_METADATA_BYTES.saturating_sub(size(&metadata) + field.len());
    let settled = settled::encode(base, &checkpoint.settled_above, room);
    if let Some(ours) = metadata.get_mut(OURS)
        && !settled.is_empty()
    {
        ours.push_str(field);
        ours.push_str(&settled);
    }
    metadata
}

/// The position alone, for processors of other SDKs that look elsewhere; marked as a copy.
pub(super) fn copy(checkpoint: &Checkpoint) -> Metadata {
    let mut metadata = encode(checkpoint);
    metadata.insert(OURS.to_owned(), COPY.to_owned());
    metadata
}

/// Whether it is a copy that nobody has written since.
pub(super) fn is_copy(metadata: &Metadata) -> bool {
    value(metadata, OURS) == Some(COPY)
}

/// The checkpoint in a blob's metadata, whoever wrote it. Names are read in any case; keys that
/// are not known are ignored.
///
/// # Errors
/// If the position cannot be known.
pub(super) fn decode(metadata: &Metadata) -> Result<Checkpoint, String> {
    let sequence_number = match value(metadata, SEQUENCE_NUMBER).filter(|text| !text.is_empty()) {
        Some(text) => Some(text.parse::<i64>().map_err(|_| {
            format!("its {SEQUENCE_NUMBER} is {}, which is no 64-bit number", shortened(text))
        })?),
        None => None,
    };
    let watermark = foreign::read(value(metadata, OFFSET), sequence_number)?;
    let ours = value(metadata, OURS).map(Ours::parse).unwrap_or_default();
    Ok(ours.checkpoint(watermark, sequence_number))
}

/// The fields of our key, by name.
#[derive(Default)]
struct Ours<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Ours<'a> {
    fn parse(text: &'a str) -> Self {
        Self(text.split(';').filter_map(|field| field.split_once('=')).collect())
    }

    fn field<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.0.get(name)?.parse().ok()
    }

    fn checkpoint(&self, watermark: Option<Position>, sequence_number: Option<i64>) -> Checkpoint {
        let checkpoint = Checkpoint {
            watermark,
            lease_epoch: LeaseEpoch(self.field("epoch").unwrap_or_default()),
            reset_generation: self.field("reset").unwrap_or_default(),
            ..Checkpoint::default()
        };
        let Some(base) = sequence_number.filter(|number| self.belongs_to(*number)) else {
            return checkpoint;
        };
        let watermark = match checkpoint.watermark {
            None if base < 0 && self.field("at") == Some(base) => {
                Some(Position { offset: Some(BEFORE_ALL.into()), ..Position::at(base) })
            }
            watermark => watermark,
        };
        let settled = self.0.get("settled").and_then(|text| settled::decode(base, text));
        let enqueued_time = self.field("enqueued").map(from_unix_millis);
        Checkpoint {
            watermark: watermark.map(|position| Position { enqueued_time, ..position }),
            settled_above: settled.unwrap_or_default(),
            incarnation: self.field("incarnation").map(Incarnation),
            write_id: WriteId(self.field("write").unwrap_or_default()),
            takeovers_without_progress: self.field("takeovers").unwrap_or_default(),
            suspects_to: self.field("suspects").map(SequenceNumber),
            trial: self.0.get("trial").and_then(|text| trial(text)),
            lease_epoch: checkpoint.lease_epoch,
            reset_generation: checkpoint.reset_generation,
        }
    }

    fn belongs_to(&self, sequence_number: i64) -> bool {
        self.0.get("v") == Some(&VERSION) && self.field("base") == Some(sequence_number)
    }
}

/// A trial: its event, whether it is on, and the deaths.
fn trial(text: &str) -> Option<Trial> {
    let mut parts = text.split(':');
    let event = SequenceNumber(parts.next()?.parse().ok()?);
    let is_on = parts.next()?.parse::<u8>().ok()? != 0;
    Some(Trial { event, is_on, deaths: parts.next()?.parse().ok()? })
}

fn value<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a str> {
    let exact = metadata.get(name);
    exact
        .or_else(|| {
            metadata.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        })
        .map(|value| value.trim())
}

fn is_header_value(text: &str) -> bool {
    text.trim() == text && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn size(metadata: &Metadata) -> usize {
    metadata.iter().map(|(key, value)| NAME_PREFIX.len() + key.len() + value.len()).sum()
}

/// Enough of a value to find it, quoted so that nothing in it steers a terminal.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 40;
    let mut shown: String = text.chars().take(MAX_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::SettledRun;

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn run(first: i64, last: i64) -> SettledRun {
        SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) }
    }

    prop_compose! {
        fn checkpoints(max_runs: usize)(
            watermark in proptest::option::of((
                0..1_i64 << 40,
                proptest::option::of("[0-9a-z:@ -]{0,20}[0-9a-z]"),
                proptest::option::of(0..1_i64 << 42),
            )),
            gaps in proptest::collection::vec((2..9_i64, 0..9_i64), 0..max_runs),
            incarnation in proptest::option::of(any::<i64>()),
            reset_generation in any::<u64>(),
            epoch in any::<u64>(),
            write_id in any::<u64>(),
            takeovers_without_progress in any::<u32>(),
            suspects_to in proptest::option::of(any::<i64>().prop_map(SequenceNumber)),
            trial in proptest::option::of((any::<i64>(), any::<bool>(), any::<u32>())),
        ) -> Checkpoint {
            let watermark = watermark.map(|(number, offset, millis)| Position {
                sequence_number: SequenceNumber(number),
                offset: offset.map(|offset| offset.trim().into()),
                enqueued_time: millis.map(from_unix_millis),
            });
            let mut end = watermark.as_ref().map_or(-1, |position| position.sequence_number.0);
            let settled_above = gaps.into_iter().map(|(gap, length)| {
                let first = end + gap;
                end = first + length;
                run(first, end)
            }).collect();
            Checkpoint {
                watermark,
                settled_above,
                incarnation: incarnation.map(Incarnation),
                reset_generation,
                lease_epoch: LeaseEpoch(epoch),
                write_id: WriteId(write_id),
                takeovers_without_progress,
                suspects_to,
                trial: trial.map(|(event, is_on, deaths)| Trial {
                    event: SequenceNumber(event), is_on, deaths,
                }),
            }
        }
    }

    proptest! {
        #[test]
        fn a_checkpoint_is_read_as_it_was_written(checkpoint in checkpoints(300)) {
            let metadata = encode(&checkpoint);
            prop_assert!(size(&metadata) <= MAX_METADATA_BYTES);
            prop_assert_eq!(decode(&metadata), Ok(checkpoint));
        }

        #[test]
        fn overflow_drops_only_the_highest(checkpoint in checkpoints(20_000)) {
            let metadata = encode(&checkpoint);
            prop_assert!(size(&metadata) <= MAX_METADATA_BYTES);
            let read = decode(&metadata).expect("readable");
            let cut = read.settled_above.last().map(|run| run.last);
            let kept: Vec<_> = checkpoint.settled_above.iter()
                .filter(|run| Some(run.first) <= cut)
                .map(|run| SettledRun { last: run.last.min(cut.unwrap_or(run.last)), ..*run })
                .collect();
            prop_assert_eq!(&read.settled_above, &kept);
            let full = Checkpoint { settled_above: checkpoint.settled_above.clone(), ..read };
            prop_assert_eq!(full, checkpoint);
        }

        #[test]
        fn a_foreign_position_costs_what_belonged_to_ours_and_no_counter(
            checkpoint in checkpoints(50), number in 0..1_i64 << 40,
        ) {
            let mut kept = encode(&checkpoint);
            prop_assume!(kept[SEQUENCE_NUMBER] != number.to_string());
            kept.insert(SEQUENCE_NUMBER.to_owned(), number.to_string());
            kept.insert(OFFSET.to_owned(), "4096".to_owned());
            let watermark = Some(Position { offset: Some("4096".into()), ..Position::at(number) });
            let counters = Checkpoint {
                watermark: watermark.clone(),
                lease_epoch: checkpoint.lease_epoch,
                reset_generation: checkpoint.reset_generation,
                ..Checkpoint::default()
            };
            prop_assert_eq!(decode(&kept), Ok(counters));

            let mut replaced = kept;
            replaced.remove(OURS);
            prop_assert_eq!(decode(&replaced), Ok(Checkpoint { watermark, ..Checkpoint::default() }));
        }

        #[test]
        fn nothing_in_our_key_can_harm_the_watermark(ours in "\\PC{0,60}", tail in "[a-z]{1,9}=\\PC{0,9}") {
            for ours in [ours.clone(), format!("v=1;base=7;{ours};{tail}")] {
                let read = decode(&metadata(&[(SEQUENCE_NUMBER, "7"), (OFFSET, "9"), (OURS, &ours)]));
                let position = read.expect("readable").watermark.expect("a position");
                prop_assert_eq!(position.sequence_number, SequenceNumber(7));
            }
        }
    }

    #[test]
    fn the_overflow_test_overflows() {
        let settled_above: Vec<_> = (1..40_000).map(|n| run(n * 9, n * 9 + 4)).collect();
        let full = Checkpoint { settled_above, ..Checkpoint::default() };
        let metadata = encode(&full);
        let size = size(&metadata);
        assert!((MAX_METADATA_BYTES - 8..=MAX_METADATA_BYTES).contains(&size), "{size}");
        let kept = decode(&metadata).expect("readable").settled_above;
        assert!((2_000..39_000).contains(&kept.len()), "{}", kept.len());
    }

    #[test]
    fn what_the_other_sdks_write_is_read() {
        let at = |number, offset: Option<&str>| {
            Some(Position { offset: offset.map(Into::into), ..Position::at(number) })
        };
        let id = ("clientidentifier", "abc");
        for (pairs, watermark) in [
            (&[("offset", "4096"), ("sequencenumber", "42")][..], at(42, Some("4096"))),
            (&[("Offset", "4096"), ("SequenceNumber", " 42 "), id], at(42, Some("4096"))),
            (&[("offset", ""), ("sequencenumber", "42"), id], at(42, None)),
            (&[("sequencenumber", "42")], at(42, None)),
            (&[("offset", "0:1:aB"), ("sequencenumber", "0")], at(0, Some("0:1:aB"))),
            (&[("offset", "-1"), ("sequencenumber", "-1")], None),
            (&[("offset", ""), ("sequencenumber", "")], None),
            (&[], None),
        ] {
            let read = decode(&metadata(pairs)).expect("readable");
            assert_eq!(read, Checkpoint { watermark, ..Checkpoint::default() }, "{pairs:?}");
        }
    }

    #[test]
    fn a_position_that_cannot_be_known_is_refused() {
        let huge = "9".repeat(4_000);
        for (pairs, fault) in [
            (&[("offset", "4096"), ("sequencenumber", "")][..], "no sequence number"),
            (&[("offset", "4096")], "no sequence number"),
            (&[("sequencenumber", "forty-two")], "\"forty-two\", which is no 64-bit number"),
            (&[("sequencenumber", "9223372036854775808")], "no 64-bit number"),
            (&[("sequencenumber", "4.2")], "no 64-bit number"),
            (&[("sequencenumber", &huge)], "999…\", which"),
            (&[("sequencenumber", "1\u{1b}[2J")], "1\\u{1b}[2J"),
        ] {
            let refused = decode(&metadata(pairs)).expect_err("refused");
            assert!(refused.contains(fault) && refused.len() < 200, "{refused}");
        }
    }

    #[test]
    fn the_time_of_an_event_goes_with_its_number() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_764_080_000_123_456);
        let watermark = Some(Position { enqueued_time: Some(time), ..Position::at(42) });
        let mut written = encode(&Checkpoint { watermark, ..Checkpoint::default() });
        assert!(written[OURS].ends_with(";enqueued=1764080000123"), "{written:?}");
        let time = |metadata: &Metadata| {
            let watermark = decode(metadata).expect("readable").watermark;
            watermark.expect("a position").enqueued_time.map(unix_millis)
        };
        assert_eq!(time(&written), Some(1_764_080_000_123));
        written.insert(SEQUENCE_NUMBER.to_owned(), "43".to_owned());
        assert_eq!(time(&written), None);
        let earlier = "v=1;base=42;epoch=9;reset=0;write=4;takeovers=0";
        assert_eq!(time(&metadata(&[("sequencenumber", "42"), (OURS, earlier)])), None);
    }

    #[test]
    fn before_the_first_event_is_a_place_that_others_begin_at_and_not_the_same_as_none() {
        let reset = Checkpoint { watermark: Some(Position::at(-1)), ..Checkpoint::default() };
        let written = encode(&reset);
        assert_eq!((&*written[OFFSET], &*written[SEQUENCE_NUMBER]), ("-1", "-1"));
        let place = Position { offset: Some("-1".into()), ..Position::at(-1) };
        let read = decode(&written).expect("readable").watermark;
        assert_eq!(read, Some(place.clone()));
        // And as it was looked up, behind which retention took what was there.
        for place in [place, Position { offset: Some("-1".into()), ..Position::at(41) }] {
            let located = Checkpoint { watermark: Some(place), ..Checkpoint::default() };
            assert_eq!(decode(&encode(&located)), Ok(located));
        }
        assert_eq!(decode(&encode(&Checkpoint::default())), Ok(Checkpoint::default()));
    }

    #[test]
    fn a_copy_is_the_position_until_somebody_else_writes_it() {
        let position = Position { offset: Some("4096".into()), ..Position::at(42) };
        let full = Checkpoint {
            watermark: Some(position.clone()),
            settled_above: vec![run(44, 50)],
            lease_epoch: LeaseEpoch(9),
            ..Checkpoint::default()
        };
        let mut copied = copy(&full);
        assert!(is_copy(&copied) && !is_copy(&encode(&full)));
        let alone = Checkpoint { watermark: Some(position), ..Checkpoint::default() };
        assert_eq!(decode(&copied), Ok(alone));
        copied.remove(OURS);
        assert!(!is_copy(&copied));
    }

    #[test]
    fn a_later_version_keeps_the_counters_and_nothing_else() {
        let ours = "v=2;base=42;epoch=9;reset=3;incarnation=5;write=4;settled=zz";
        let read = decode(&metadata(&[("sequencenumber", "42"), (OURS, ours)])).expect("readable");
        let expected = Checkpoint {
            watermark: Some(Position::at(42)),
            lease_epoch: LeaseEpoch(9),
            reset_generation: 3,
            ..Checkpoint::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn every_key_is_numbers_that_others_can_parse() {
        let none = encode(&Checkpoint::default());
        assert_eq!((&*none[OFFSET], &*none[SEQUENCE_NUMBER]), ("-1", "-1"));
        let watermark = Some(Position { offset: Some("ä\n".into()), ..Position::at(7) });
        let odd = encode(&Checkpoint { watermark, ..Checkpoint::default() });
        assert_eq!((&*odd[OFFSET], &*odd[SEQUENCE_NUMBER]), ("", "7"));
        assert!(odd.values().all(|value| is_header_value(value)));
    }
}
