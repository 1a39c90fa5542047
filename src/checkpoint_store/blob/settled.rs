//! What is settled above the watermark, as text of a bounded length.
//!
//! Two notations, and the one that says more in the space there is, else the shorter one: `r`,
//! pairs of gap and length, for few runs; `b`, a bit for each number from the lowest on, for
//! many holes close together. Where neither fits, the highest numbers are left out: their events
//! are only handled again.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::checkpoint::SettledRun;
use crate::event::SequenceNumber;

/// Writes `runs`, ascending, as far as they are above `base` and fit into `max_chars`.
pub(super) fn encode(base: i64, runs: &[SettledRun], max_chars: usize) -> String {
    let runs = normal(base, runs);
    // The letter of the notation, then four characters for three bytes.
    let max_bytes = max_chars.saturating_sub(1) / 4 * 3;
    let (lengths, bits) = (as_lengths(base, &runs, max_bytes), as_bits(base, &runs, max_bytes));
    let shorter_bits = bits.bytes.len() < lengths.bytes.len();
    let (notation, chosen) = match bits.highest.cmp(&lengths.highest) {
        std::cmp::Ordering::Greater => ('b', bits),
        std::cmp::Ordering::Equal if shorter_bits => ('b', bits),
        _ => ('r', lengths),
    };
    if chosen.highest.is_none() {
        return String::new();
    }
    let mut text = String::from(notation);
    URL_SAFE_NO_PAD.encode_string(&chosen.bytes, &mut text);
    text
}

/// Reads what [`encode`] wrote over the same `base`; `None` if it did not write this.
pub(super) fn decode(base: i64, text: &str) -> Option<Vec<SettledRun>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let (notation, data) = text.split_at_checked(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(data).ok()?;
    match notation {
        "r" => from_lengths(base, &bytes),
        "b" => from_bits(base, &bytes),
        _ => None,
    }
}

/// One notation, and the highest number it got to.
struct Written {
    bytes: Vec<u8>,
    highest: Option<i64>,
}

/// Ascending runs above `base` with a gap between any two, as both ends of each.
fn normal(base: i64, runs: &[SettledRun]) -> Vec<(i64, i64)> {
    let mut normal: Vec<(i64, i64)> = Vec::with_capacity(runs.len());
    for run in runs.iter().filter(|run| run.last.0 > base && run.first <= run.last) {
        let (first, last) = (run.first.0.max(base.saturating_add(1)), run.last.0);
        match normal.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => normal.push((first, last)),
        }
    }
    normal
}

fn as_lengths(base: i64, runs: &[(i64, i64)], max_bytes: usize) -> Written {
    let mut written = Written { bytes: Vec::new(), highest: None };
    let mut end = base;
    for &(first, last) in runs {
        let before = written.bytes.len();
        push_varint(&mut written.bytes, first.abs_diff(end));
        push_varint(&mut written.bytes, last.abs_diff(first));
        if written.bytes.len() > max_bytes {
            written.bytes.truncate(before);
            break;
        }
        written.highest = Some(last);
        end = last;
    }
    written
}

fn from_lengths(base: i64, mut bytes: &[u8]) -> Option<Vec<SettledRun>> {
    let mut runs = Vec::new();
    let mut end = base;
    while !bytes.is_empty() {
        let first = end.checked_add_unsigned(take_varint(&mut bytes)?)?;
        let last = first.checked_add_unsigned(take_varint(&mut bytes)?)?;
        if first <= end {
            return None;
        }
        runs.push(run(first, last));
        end = last;
    }
    Some(runs)
}

fn as_bits(base: i64, runs: &[(i64, i64)], max_bytes: usize) -> Written {
    let mut written = Written { bytes: Vec::new(), highest: None };
    let Some(&(lowest, _)) = runs.first() else {
        return written;
    };
    push_varint(&mut written.bytes, lowest.abs_diff(base));
    let head = written.bytes.len();
    let room = max_bytes.saturating_sub(head).saturating_mul(8);
    for &(first, last) in runs {
        for number in first..=last {
            let Some(bit) = usize::try_from(number.abs_diff(lowest)).ok().filter(|bit| *bit < room)
            else {
                return written;
            };
            let byte = head + bit / 8;
            if written.bytes.len() <= byte {
                written.bytes.resize(byte + 1, 0);
            }
            if let Some(byte) = written.bytes.get_mut(byte) {
                *byte |= 1 << (bit % 8);
            }
            written.highest = Some(number);
        }
    }
    written
}

fn from_bits(base: i64, mut bytes: &[u8]) -> Option<Vec<SettledRun>> {
    let gap = take_varint(&mut bytes)?;
    let lowest = base.checked_add_unsigned(gap).filter(|_| gap > 0)?;
    let mut runs: Vec<SettledRun> = Vec::new();
    for bit in (0..bytes.len() * 8).filter(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1) {
        let number = lowest.checked_add_unsigned(u64::try_from(bit).ok()?)?;
        match runs.last_mut() {
            Some(before) if before.last.0 + 1 == number => before.last.0 = number,
            _ => runs.push(run(number, number)),
        }
    }
    Some(runs)
}

fn run(first: i64, last: i64) -> SettledRun {
    SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) }
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Ascending runs with gaps, from pairs of gap and length.
    fn runs_over(base: i64, pairs: &[(u64, u64)]) -> Vec<SettledRun> {
        let mut runs = Vec::new();
        let mut end = base;
        for (gap, length) in pairs {
            let Some(first) = end.checked_add_unsigned(gap + 2) else { break };
            let Some(last) = first.checked_add_unsigned(*length) else { break };
            runs.push(run(first, last));
            end = last;
        }
        runs
    }

    fn pairs() -> impl Strategy<Value = Vec<(u64, u64)>> {
        let pair = prop_oneof![
            8 => (0..4_u64, 0..4_u64),
            2 => (0..300_u64, 0..300_u64),
            1 => (0..u64::MAX / 8, 0..1_000_000_u64),
        ];
        proptest::collection::vec(pair, 0..300)
    }

    fn bases() -> impl Strategy<Value = i64> {
        prop_oneof![Just(-1_i64), 0..1_000_000_i64, Just(i64::MAX - 1_000), Just(i64::MAX)]
    }

    proptest! {
        #[test]
        fn what_fits_is_read_as_it_was(base in bases(), pairs in pairs()) {
            let runs = runs_over(base, &pairs);
            let text = encode(base, &runs, 1 << 20);
            prop_assert_eq!(decode(base, &text), Some(runs));
        }

        #[test]
        fn what_does_not_fit_costs_only_the_highest(
            base in bases(), pairs in pairs(), max_chars in 0..400_usize,
        ) {
            let runs = runs_over(base, &pairs);
            let text = encode(base, &runs, max_chars);
            prop_assert!(text.len() <= max_chars);
            let kept = decode(base, &text).expect("readable");
            let cut = kept.last().map(|run| run.last);
            let below: Vec<_> = runs
                .iter()
                .filter(|run| Some(run.first) <= cut)
                .map(|run| SettledRun { last: cut.map_or(run.last, |cut| run.last.min(cut)), ..*run })
                .collect();
            prop_assert_eq!(kept, below);
        }

        #[test]
        fn any_text_is_read_or_refused(base in any::<i64>(), text in "[rbx]?[A-Za-z0-9_-]{0,40}") {
            if let Some(runs) = decode(base, &text) {
                let mut end = base;
                for run in runs {
                    prop_assert!(run.first.0 > end && run.last >= run.first);
                    end = run.last.0;
                }
            }
        }
    }

    #[test]
    fn few_runs_are_lengths_and_many_holes_are_bits() {
        let far = [run(10, 20_000), run(50_000, 1_000_000)];
        assert!(encode(0, &far, 8_000).starts_with('r'));
        let holes: Vec<_> = (1..5_000).map(|n| run(n * 3, n * 3 + 1)).collect();
        let text = encode(0, &holes, 8_000);
        assert!(text.starts_with('b') && text.len() < 2_600, "{}", text.len());
        assert_eq!(decode(0, &text), Some(holes));
    }

    #[test]
    fn runs_that_touch_are_one_and_what_the_watermark_covers_is_left_out() {
        let runs = [run(1, 3), run(4, 12), run(13, 13), run(20, 20)];
        assert_eq!(decode(10, &encode(10, &runs, 100)), Some(vec![run(11, 13), run(20, 20)]));
    }
}
