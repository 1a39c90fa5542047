//! Messages of publishers, taken apart just far enough to store them.
//!
//! An event is stored as the bytes its consumers will get. Publishing replaces the broker's own
//! annotations in it and touches nothing else; the rest is copied as it came:
//!
//! ```text
//! published   [header] [delivery annotations] [annotations] [properties … body … footer]
//! stored      [header]                        [annotations + position] [properties … body … footer]
//! ```
//!
//! Invariant: every section of a [`Prepared`] event was checked, so a consumer that reads it later
//! cannot be handed malformed AMQP by another client.

use bytes::{BufMut, Bytes, BytesMut};

use super::refusal::{ARGUMENT_ERROR, DECODE_ERROR, MESSAGE_SIZE_EXCEEDED, Refusal};
use super::wire;

/// The message format of a batch: one encoded message in each data section.
pub(super) const BATCH_FORMAT: u32 = 0x8001_3700;

/// The longest partition key, as in the service.
const MAX_KEY_CHARS: usize = 128;
/// What the events of one delivery may come to in memory. A batch of tiny events is many times what
/// arrived: each has its annotations, and the key of all.
const MAX_KEPT_BYTES: usize = 32 * 1024 * 1024;

const HEADER: u64 = 0x70;
const ANNOTATIONS: u64 = 0x72;
const DATA: u64 = 0x75;
const AMQP_VALUE: u64 = 0x77;
const FOOTER: u64 = 0x78;

const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
const OFFSET: &str = "x-opt-offset";
const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
const PARTITION_KEY: &str = "x-opt-partition-key";

/// An event that lacks only its position in a partition.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    header: Bytes,
    /// The publisher's annotations as encoded pairs, the broker's own left out.
    pairs: BytesMut,
    pair_items: u32,
    rest: Bytes,
    /// Where in `rest` a body belongs, if there is none.
    body_at: Option<usize>,
}

impl Prepared {
    /// About how many bytes the stored event will have.
    pub(super) fn size_hint(&self) -> usize {
        self.header.len() + self.pairs.len() + self.rest.len() + 160
    }

    /// About how much memory it takes until it is stored.
    fn kept_bytes(&self) -> usize {
        size_of::<Self>() + self.pairs.capacity() + self.size_hint()
    }

    /// Appends the event as consumers will get it.
    pub(super) fn encode(&self, out: &mut BytesMut, sequence: i64, offset: i64, enqueued_ms: i64) {
        out.put_slice(&self.header);
        wire::put_descriptor(out, ANNOTATIONS as u8);
        wire::put_map(out, self.pair_items + 6, |out| {
            wire::put_symbol(out, SEQUENCE_NUMBER);
            wire::put_long(out, sequence);
            wire::put_symbol(out, OFFSET);
            put_decimal(out, offset);
            wire::put_symbol(out, ENQUEUED_TIME);
            wire::put_timestamp(out, enqueued_ms);
            out.put_slice(&self.pairs);
        });
        let body_at = self.body_at.map(|at| at.min(self.rest.len()));
        let (before, behind) = self.rest.split_at(body_at.unwrap_or_default());
        out.put_slice(before);
        if body_at.is_some() {
            // Clients expect a body section; the standard requires one, before the footer.
            wire::put_descriptor(out, DATA as u8);
            wire::put_binary(out, &[]);
        }
        out.put_slice(behind);
    }
}

/// Writes `value` as the decimal text of an AMQP string, without an allocation.
fn put_decimal(out: &mut BytesMut, value: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    let digits = &digits[at..];
    out.put_slice(&[0xa1, digits.len() as u8]);
    out.put_slice(digits);
}

/// What one delivery of a publisher holds.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) events: Vec<Prepared>,
    /// Routes the events when the link names no partition.
    pub(super) partition_key: Option<Vec<u8>>,
    /// About how much memory the events take until they are stored.
    pub(super) kept_bytes: usize,
}

/// Reads a delivery: a batch when its message format says so, otherwise one event.
pub(super) fn prepare(message: Bytes, format: Option<u32>) -> Result<Publication, Refusal> {
    let sections = scan(&message)?;
    let partition_key = match sections.annotations {
        Some((from, to)) => partition_key(&message[from..to])?,
        None => None,
    };
    if format != Some(BATCH_FORMAT) {
        let event = assemble(&message, &sections, None)?;
        let kept_bytes = event.kept_bytes();
        return Ok(Publication { events: vec![event], partition_key, kept_bytes });
    }
    let (mut events, mut kept_bytes) = (Vec::new(), 0);
    let count = sections.data.len();
    for (from, to) in &sections.data {
        let inner = message.slice(*from..*to);
        let sections = scan(&inner)?;
        let event = assemble(&inner, &sections, partition_key.as_deref())?;
        kept_bytes += event.kept_bytes();
        if kept_bytes > MAX_KEPT_BYTES {
            return Err(Refusal::new(
                MESSAGE_SIZE_EXCEEDED,
                format!(
                    "a batch of {} events is too many small ones for this broker: with their \
                     annotations they are more than {MAX_KEPT_BYTES} bytes",
                    count
                ),
            ));
        }
        events.push(event);
    }
    if events.is_empty() {
        return Err(Refusal::new(DECODE_ERROR, "a batch without events"));
    }
    Ok(Publication { events, partition_key, kept_bytes })
}

type Range = (usize, usize);

#[derive(Debug, Default)]
struct Sections {
    header: Option<Range>,
    /// The map, without its descriptor.
    annotations: Option<Range>,
    rest_from: usize,
    /// Contents of the data sections.
    data: Vec<Range>,
    has_body: bool,
    /// Where the footer begins, or would.
    footer_from: usize,
}

fn scan(message: &[u8]) -> Result<Sections, Refusal> {
    let mut sections = Sections::default();
    let mut previous = 0;
    let mut at = 0;
    while at < message.len() {
        let (code, descriptor_len) = wire::descriptor(&message[at..])?;
        let end = at + wire::check(&message[at..])?;
        let value = at + descriptor_len;
        let repeats = code == previous && matches!(code, DATA | 0x76);
        if !(HEADER..=FOOTER).contains(&code) || (code <= previous && !repeats) {
            return Err(Refusal::new(
                DECODE_ERROR,
                format!("message section {code:#x} is unknown or out of order"),
            ));
        }
        match code {
            HEADER => sections.header = Some((at, end)),
            ANNOTATIONS => sections.annotations = Some((value, end)),
            DATA => {
                let content = wire::as_octets(&message[value..end])
                    .ok_or_else(|| Refusal::new(DECODE_ERROR, "a data section without binary"))?;
                sections.data.push((end - content.len(), end));
            }
            _ => {}
        }
        if code <= ANNOTATIONS {
            sections.rest_from = end;
        }
        sections.has_body |= (DATA..=AMQP_VALUE).contains(&code);
        if code < FOOTER {
            sections.footer_from = end;
        }
        previous = code;
        at = end;
    }
    Ok(sections)
}

fn assemble(
    message: &Bytes,
    sections: &Sections,
    batch_key: Option<&[u8]>,
) -> Result<Prepared, Refusal> {
    let mut pairs = BytesMut::new();
    let mut pair_items = 0;
    let mut has_key = false;
    if let Some((from, to)) = sections.annotations {
        let mut items = wire::Items::new(&message[from..to])?;
        while let (Some(key), Some(value)) = (items.next_item()?, items.next_item()?) {
            let name = wire::as_octets(key).unwrap_or_default();
            if [SEQUENCE_NUMBER, OFFSET, ENQUEUED_TIME].map(str::as_bytes).contains(&name) {
                continue;
            }
            has_key |= name == PARTITION_KEY.as_bytes();
            pairs.put_slice(key);
            pairs.put_slice(value);
            pair_items += 2;
        }
    }
    if let (Some(key), false) = (batch_key, has_key) {
        wire::put_symbol(&mut pairs, PARTITION_KEY);
        wire::put_string(&mut pairs, &String::from_utf8_lossy(key));
        pair_items += 2;
    }
    Ok(Prepared {
        header: match sections.header {
            Some((from, to)) => message.slice(from..to),
            None => Bytes::new(),
        },
        pairs,
        pair_items,
        rest: message.slice(sections.rest_from..),
        body_at: (!sections.has_body)
            .then(|| sections.footer_from.saturating_sub(sections.rest_from)),
    })
}

fn partition_key(annotations: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let mut items = wire::Items::new(annotations)?;
    while let (Some(key), Some(value)) = (items.next_item()?, items.next_item()?) {
        if wire::as_octets(key) == Some(PARTITION_KEY.as_bytes()) {
            let key = wire::as_octets(value).map(<[u8]>::to_vec);
            let chars =
                key.as_deref().map_or(0, |key| String::from_utf8_lossy(key).chars().count());
            if chars > MAX_KEY_CHARS {
                return Err(Refusal::new(
                    ARGUMENT_ERROR,
                    format!("a partition key of {chars} characters; it may have {MAX_KEY_CHARS}"),
                ));
            }
            return Ok(key);
        }
    }
    Ok(None)
}

/// The partition of a key: the same hash the service and its clients use (Jenkins lookup3).
pub(super) fn partition_of_key(key: &[u8], partitions: u32) -> u32 {
    let (c, b) = lookup3(key);
    let hash = i32::from((c ^ b) as u16 as i16);
    hash.unsigned_abs() % partitions.max(1)
}

fn lookup3(key: &[u8]) -> (u32, u32) {
    let word = |chunk: &[u8], at: usize| {
        (0..4).fold(0u32, |word, byte| {
            let value = chunk.get(at + byte).copied().unwrap_or(0);
            word | u32::from(value) << (8 * byte)
        })
    };
    let start = 0xdead_beef_u32.wrapping_add(key.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut left = key;
    while left.len() > 12 {
        a = a.wrapping_add(word(left, 0));
        b = b.wrapping_add(word(left, 4));
        c = c.wrapping_add(word(left, 8));
        for rotations in [[4, 6, 8], [16, 19, 4]] {
            a = a.wrapping_sub(c) ^ c.rotate_left(rotations[0]);
            c = c.wrapping_add(b);
            b = b.wrapping_sub(a) ^ a.rotate_left(rotations[1]);
            a = a.wrapping_add(c);
            c = c.wrapping_sub(b) ^ b.rotate_left(rotations[2]);
            b = b.wrapping_add(a);
        }
        left = &left[12..];
    }
    if left.is_empty() {
        return (c, b);
    }
    a = a.wrapping_add(word(left, 0));
    b = b.wrapping_add(word(left, 4));
    c = c.wrapping_add(word(left, 8));
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    c = (c ^ b).wrapping_sub(b.rotate_left(24));
    (c, b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use fe2o3_amqp_types::messaging::message::__private::Deserializable;
    use fe2o3_amqp_types::messaging::{Body, Message};
    use proptest::prelude::*;
    use serde_amqp::Value;

    fn section(code: u8, fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut out = BytesMut::new();
        wire::put_descriptor(&mut out, code);
        fill(&mut out);
        out
    }

    fn annotations(pairs: &[(&str, &str)]) -> BytesMut {
        section(0x72, |out| {
            wire::put_map(out, pairs.len() as u32 * 2, |out| {
                for (name, value) in pairs {
                    wire::put_symbol(out, name);
                    wire::put_string(out, value);
                }
            });
        })
    }

    fn data(content: &[u8]) -> BytesMut {
        section(0x75, |out| wire::put_binary(out, content))
    }

    fn stored(event: &Prepared) -> Message<Body<Value>> {
        let mut out = BytesMut::new();
        event.encode(&mut out, 12, 3456, 1_700_000_000_000);
        let Deserializable(message) = serde_amqp::from_slice(&out).unwrap();
        message
    }

    #[test]
    fn a_message_without_a_body_gets_one_before_its_footer() {
        let footer = section(0x78, |out| wire::put_map(out, 0, |_| {}));
        let properties = section(0x74, |out| wire::put_map(out, 0, |_| {}));
        for before in [BytesMut::new(), annotations(&[("a", "b")]), properties] {
            let message = [&before[..], &footer[..]].concat();
            let publication = prepare(message.into(), None).unwrap();
            let mut out = BytesMut::new();
            publication.events[0].encode(&mut out, 12, 3456, 1_700_000_000_000);
            let again = prepare(out.freeze(), None).unwrap();
            assert!(again.events[0].body_at.is_none() && again.events[0].rest.ends_with(&footer));
        }
    }

    fn annotation(message: &Message<Body<Value>>, name: &str) -> Option<Value> {
        message
            .message_annotations
            .as_ref()?
            .get(&name as &dyn fe2o3_amqp_types::messaging::annotations::AnnotationKey)
            .cloned()
    }

    #[test]
    fn positions_replace_what_the_publisher_claims() {
        let mut message = annotations(&[("x-opt-offset", "99"), ("mine", "kept")]);
        message.extend_from_slice(&data(b"body"));
        let publication = prepare(message.freeze(), None).unwrap();
        let message = stored(&publication.events[0]);
        let text = |value: &str| Some(Value::String(value.into()));
        assert_eq!(annotation(&message, OFFSET), text("3456"));
        assert_eq!(annotation(&message, "mine"), text("kept"));
        assert_eq!(annotation(&message, SEQUENCE_NUMBER), Some(Value::Long(12)));
    }

    #[test]
    fn the_key_of_a_batch_is_the_key_of_its_events() {
        let mut batch = annotations(&[("x-opt-partition-key", "k")]);
        batch.extend_from_slice(&data(&data(b"one")));
        let mut own = annotations(&[("x-opt-partition-key", "own")]);
        own.extend_from_slice(&data(b"two"));
        batch.extend_from_slice(&data(&own));
        let publication = prepare(batch.freeze(), Some(BATCH_FORMAT)).unwrap();
        assert_eq!(publication.partition_key.as_deref(), Some(&b"k"[..]));
        let keys: Vec<_> = publication
            .events
            .iter()
            .map(|event| annotation(&stored(event), PARTITION_KEY))
            .collect();
        let text = |value: &str| Some(Value::String(value.into()));
        assert_eq!(keys, [text("k"), text("own")]);
    }

    #[test]
    fn a_message_without_a_body_gets_an_empty_one() {
        let publication = prepare(annotations(&[("a", "b")]).freeze(), None).unwrap();
        match stored(&publication.events[0]).body {
            Body::Data(sections) => assert_eq!(sections[0].0.len(), 0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_batch_is_no_more_in_memory_than_it_may_be_and_a_key_no_longer() {
        let keyed = |key: usize, events: usize| {
            let mut batch = annotations(&[(PARTITION_KEY, &"k".repeat(key))]);
            for _ in 0..events {
                batch.extend_from_slice(&data(b""));
            }
            prepare(batch.freeze(), Some(BATCH_FORMAT))
        };
        assert_eq!(keyed(500_000, 1).unwrap_err().condition, ARGUMENT_ERROR);
        assert_eq!(keyed(129, 1).unwrap_err().condition, ARGUMENT_ERROR);
        assert_eq!(keyed(128, 200_000).unwrap_err().condition, MESSAGE_SIZE_EXCEEDED);
        let publication = keyed(128, 20_000).unwrap();
        assert_eq!(publication.events.len(), 20_000);
        assert!((20_000 * 300..MAX_KEPT_BYTES).contains(&publication.kept_bytes));
    }

    #[test]
    fn sections_out_of_order_and_batches_of_nothing_are_refused() {
        let mut message = data(b"x");
        message.extend_from_slice(&annotations(&[]));
        assert!(prepare(message.freeze(), None).is_err());
        assert!(prepare(annotations(&[]).freeze(), Some(BATCH_FORMAT)).is_err());
        assert!(prepare(data(b"no message").freeze(), Some(BATCH_FORMAT)).is_err());
    }

    #[test]
    fn keys_hash_as_in_the_service() {
        // Vectors of the .NET SDK's tests.
        for (key, hash) in [
            ("7", -15263i16),
            ("131", 30562),
            ("7149583486996073602", 12977),
            ("FWfAT", -22341),
            ("sOdeEAsyQoEuEFPGerWO", -6503),
            ("!c*_!I@1^c", 15372),
            ("p4*!jioeO/z-!-;w:dh", -3104),
            ("$0cb", 26269),
            ("-4189260826195535198", 453),
        ] {
            let (c, b) = lookup3(key.as_bytes());
            assert_eq!((c ^ b) as u16 as i16, hash, "{key}");
        }
    }

    /// The table that the library's own resolver is tested with.
    #[test]
    fn a_thousand_keys_of_every_kind_of_text_are_placed_as_in_the_service() {
        let table = include_str!("../../../tests/placement/keys.tsv");
        for line in table.lines() {
            let mut fields = line.split('\t');
            let hex = fields.next().unwrap();
            let hash: i64 = fields.next().unwrap().parse().unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let key: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            for partitions in [1, 3, 8, 32, 1_024] {
                let expected = (hash % i64::from(partitions)).unsigned_abs();
                let placed = partition_of_key(&key, partitions);
                assert_eq!(u64::from(placed), expected, "{hex} of {partitions}");
            }
        }
        assert_eq!(table.lines().count(), 1_000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_stored_readably(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            batch: bool,
        ) {
            if let Ok(publication) = prepare(bytes.into(), batch.then_some(BATCH_FORMAT)) {
                let mut out = BytesMut::new();
                publication.events[0].encode(&mut out, 0, 0, 0);
                prop_assert!(scan(&out).is_ok());
            }
        }
    }
}
