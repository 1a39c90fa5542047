//! A server that does what servers do, and the file that comes of it.

use proptest::prelude::*;

use super::*;

fn strong(version: usize) -> Version {
    Version { etag: Some(format!("\"v{version}\"")), ..Version::default() }
}

fn answer(partial: Option<Option<ContentRange>>, length: Option<u64>, version: Version) -> Answer {
    let resource = "https://h/a".to_owned();
    Answer { partial, length, version, resource, has_ranges: true }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
struct Move {
    /// It has another version from now on.
    changes: bool,
    how: How,
    /// The body breaks after so many bytes.
    breaks_after: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// As RFC 9110 says.
    Rightly,
    /// It knows no ranges.
    IgnoresRange,
    /// It gives a part that begins elsewhere.
    OtherPart(u64),
    /// It gives less than was asked for.
    LessThanAsked(u64),
    /// It says 206 whatever it was asked for.
    Always206,
    NoSuchPart,
    /// It says no length.
    Chunked,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let how = prop_oneof![
        8 => Just(How::Rightly),
        1 => Just(How::IgnoresRange),
        1 => (0_u64..300).prop_map(How::OtherPart),
        2 => (1_u64..300).prop_map(How::LessThanAsked),
        1 => Just(How::Always206),
        1 => Just(How::NoSuchPart),
        2 => Just(How::Chunked),
    ];
    let one = (prop::bool::weighted(0.1), how, prop::option::of(0_u64..200))
        .prop_map(|(changes, how, breaks_after)| Move { changes, how, breaks_after });
    proptest::collection::vec(one, 1..40)
}

/// The version's bytes: no two versions have one in the same place.
fn content(version: usize, length: u64) -> Vec<u8> {
    (0..length).map(|index| (index as u8).wrapping_mul(7).wrapping_add(version as u8)).collect()
}

/// A file on its way.
struct Fetch {
    plan: FetchPlan,
    there: Vec<u8>,
    version: usize,
    lengths: Vec<u64>,
    validators: bool,
}

/// What one request came to.
#[derive(PartialEq, Debug)]
enum Came {
    Complete,
    GoesOn,
    Failed,
}

impl Fetch {
    fn length(&self) -> u64 {
        self.lengths[self.version % self.lengths.len()]
    }

    /// One request, and its body.
    fn request(&mut self, step: &Move) -> Came {
        self.version += usize::from(step.changes);
        let (length, whole) = (self.length(), content(self.version, self.length()));
        let version = if self.validators { strong(self.version) } else { Version::default() };
        let asked = match self.plan.ask() {
            Ask::Rest { from, validator } if version.validator().as_ref() == Some(validator) => {
                Some(from)
            }
            _ => None,
        };
        let part = |first: u64, end: u64| {
            let range = ContentRange { first, last: end - 1, total: Some(length) };
            (Some(Some(range)), whole[first as usize..end as usize].to_vec())
        };
        let (partial, body) = match (step.how, asked) {
            (How::NoSuchPart, Some(_)) => {
                self.plan.on_no_such_part();
                return Came::GoesOn;
            }
            (How::OtherPart(first), Some(_)) if first < length => part(first, length),
            (How::LessThanAsked(bytes), Some(from)) if from < length => {
                part(from, length.min(from + bytes))
            }
            (How::Always206, None) if length > 0 => part(length / 2, length),
            (How::IgnoresRange, _) | (_, None) => (None, whole.clone()),
            (_, Some(from)) if from < length => part(from, length),
            (_, Some(_)) => {
                self.plan.on_no_such_part();
                return Came::GoesOn;
            }
        };
        let says_length = !matches!(step.how, How::Chunked);
        let length = says_length.then_some(body.len() as u64);
        match self.plan.on_answer(answer(partial, length, version)) {
            Ok(Body::Follows) => {}
            Ok(Body::BeginsAnew) => self.there.clear(),
            Err(Misfit::OtherPart) => return Came::GoesOn,
            Err(Misfit::NotAskedFor) => return Came::Failed,
        }
        assert_eq!(self.plan.received(), self.there.len() as u64);
        let comes = step.breaks_after.map_or(body.len(), |after| body.len().min(after as usize));
        self.there.extend_from_slice(&body[..comes]);
        self.plan.on_bytes(comes as u64);
        if step.breaks_after.is_some_and(|after| after < body.len() as u64) {
            return match self.plan.on_break() {
                AfterBreak::GoOn(pause) => {
                    assert!(comes > 0 && pause <= MAX_PAUSE && self.plan.can_go_on());
                    Came::GoesOn
                }
                AfterBreak::Failed => Came::Failed,
            };
        }
        match self.plan.on_end() {
            End::Complete => Came::Complete,
            End::More => Came::GoesOn,
            End::WrongLength { .. } => panic!("this server does not lie: {step:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_is_complete_is_one_version_whole(
        moves in moves(),
        lengths in proptest::collection::vec(0_u64..300, 1..4),
        validators in any::<bool>(),
    ) {
        let mut fetch =
            Fetch { plan: FetchPlan::default(), there: Vec::new(), version: 0, lengths, validators };
        for step in &moves {
            if fetch.request(step) == Came::Complete {
                prop_assert_eq!(&fetch.there, &content(fetch.version, fetch.length()));
                return Ok(());
            }
        }
        // A server that does right at last is enough, whatever was there before.
        let right = Move { changes: false, how: How::Rightly, breaks_after: None };
        let came = (0..3).find(|_| fetch.request(&right) == Came::Complete);
        prop_assert!(came.is_some(), "{:?}", fetch.plan);
        prop_assert_eq!(&fetch.there, &content(fetch.version, fetch.length()));
    }
}

#[test]
fn every_break_with_a_gain_goes_on_and_small_ones_ever_more_slowly() {
    let mut plan = FetchPlan::default();
    let whole = answer(None, Some(10_000_000), strong(1));
    assert_eq!(plan.on_answer(whole), Ok(Body::BeginsAnew));
    assert_eq!(plan.on_break(), AfterBreak::Failed, "nothing came");
    let mut pauses = Vec::new();
    let mut go_on = |plan: &mut FetchPlan, bytes| {
        let from = plan.received();
        if from > 0 {
            let range = ContentRange { first: from, last: 9_999_999, total: None };
            let rest = answer(Some(Some(range)), None, Version::default());
            assert_eq!(plan.on_answer(rest), Ok(Body::Follows));
        }
        plan.on_bytes(bytes);
        match plan.on_break() {
            AfterBreak::GoOn(pause) => pauses.push(pause.as_millis()),
            AfterBreak::Failed => panic!("it had a gain of {bytes}"),
        }
    };
    for bytes in [1, 1, 1, 1, 1, 1, 1, 1, SMALL_GAIN_BYTES, 1] {
        go_on(&mut plan, bytes);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 0, 100]);
    assert_eq!(plan.on_break(), AfterBreak::Failed, "no body since the last one");
}

#[test]
fn a_body_that_is_shorter_or_longer_than_was_said_is_no_file() {
    for bytes in [0, 9, 11] {
        let mut plan = FetchPlan::default();
        let whole = answer(None, Some(10), Version::default());
        assert_eq!(plan.on_answer(whole), Ok(Body::BeginsAnew));
        plan.on_bytes(bytes);
        assert_eq!(plan.on_end(), End::WrongLength { announced: 10 });
        assert!(!plan.can_go_on());
    }
}

#[test]
fn only_what_tells_versions_apart_byte_for_byte_is_a_validator() {
    let of = |etag: Option<&str>, changed: Option<&str>, age: Option<u64>| {
        let version = Version {
            etag: etag.map(str::to_owned),
            last_modified: changed.map(str::to_owned),
            age: age.map(Duration::from_secs),
        };
        version.validator().map(|validator| validator.as_str().to_owned())
    };
    assert_eq!(of(Some("\"a\""), None, None).as_deref(), Some("\"a\""));
    for weak in ["W/\"a\"", "a", "\"", ""] {
        assert_eq!(of(Some(weak), Some("then"), Some(9)), None, "{weak}");
    }
    assert_eq!(of(None, Some("then"), Some(1)).as_deref(), Some("then"));
    for age in [None, Some(0)] {
        assert_eq!(of(None, Some("then"), age), None, "{age:?}");
    }
}

/// A file of ten bytes of which four are there.
fn begun(version: Version, total: Option<u64>) -> FetchPlan {
    let mut plan = FetchPlan::default();
    assert_eq!(plan.on_answer(answer(None, total, version)), Ok(Body::BeginsAnew));
    plan.on_bytes(4);
    assert_eq!(plan.on_break(), AfterBreak::GoOn(FIRST_PAUSE));
    plan
}

#[test]
fn a_part_of_another_version_or_resource_or_without_an_end_is_not_joined() {
    let range = |total| Some(Some(ContentRange { first: 4, last: 9, total }));
    let weak = Version { etag: Some("W/\"v1\"".to_owned()), ..Version::default() };
    let dated = Version {
        last_modified: Some("then".to_owned()),
        age: Some(Duration::from_secs(9)),
        ..Version::default()
    };
    let now = Version {
        last_modified: Some("now".to_owned()),
        age: Some(Duration::ZERO),
        ..Version::default()
    };
    let elsewhere = |version| Answer {
        resource: "https://h/b".to_owned(),
        ..answer(range(Some(10)), Some(6), version)
    };
    for (ours, total, theirs) in [
        (strong(1), Some(10), answer(range(Some(10)), Some(6), strong(2))),
        (strong(1), Some(10), answer(range(Some(10)), Some(6), weak)),
        (dated.clone(), Some(10), answer(range(Some(10)), Some(6), now)),
        (dated, Some(10), answer(range(Some(10)), Some(6), strong(1))),
        (strong(1), Some(10), elsewhere(strong(1))),
        (strong(1), None, answer(range(None), Some(6), strong(1))),
        (strong(1), Some(10), answer(range(Some(10)), Some(7), strong(1))),
        (strong(1), Some(11), answer(range(Some(10)), Some(6), strong(1))),
    ] {
        let mut plan = begun(ours, total);
        assert_eq!(plan.on_answer(theirs.clone()), Err(Misfit::OtherPart), "{theirs:?}");
        assert_eq!(plan.ask(), Ask::Whole);
    }
    let mut plan = begun(strong(1), None);
    let rest = answer(range(Some(10)), Some(6), Version::default());
    assert_eq!(plan.on_answer(rest), Ok(Body::Follows));
    plan.on_bytes(6);
    assert_eq!((plan.on_end(), plan.is_joined()), (End::Complete, true));
}

#[test]
fn a_file_that_is_another_one_each_time_is_not_asked_for_without_end() {
    let mut plan = begun(strong(1), Some(10_000_000));
    for version in 2..5 {
        let whole = answer(None, Some(10_000_000), strong(version));
        assert_eq!(plan.on_answer(whole), Ok(Body::BeginsAnew));
        plan.on_bytes(1_000_000);
        assert_eq!(plan.on_break(), AfterBreak::Failed, "a failed attempt each");
    }
}

#[test]
fn a_content_range_is_read_as_the_rfc_writes_it() {
    let read =
        |text: &str| ContentRange::parse(text).map(|range| (range.first, range.last, range.total));
    assert_eq!(read("bytes 0-99/1000"), Some((0, 99, Some(1_000))));
    assert_eq!(read(" Bytes 5-5/* "), Some((5, 5, None)));
    for wrong in [
        "",
        "bytes",
        "bytes */1000",
        "bytes 9-8/10",
        "bytes 0-10/10",
        "bytes -5/10",
        "items 0-1/2",
        "bytes 0-1",
        "bytes +0-1/2",
        "bytes 0-18446744073709551615/*",
    ] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
}
