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

use super::refusal::{DECODE_ERROR, Refusal};
use super::wire;

/// The message format of a batch: one encoded message in each data section.
pub(super) const BATCH_FORMAT: u32 = 0x8001_3700;

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
    has_body: bool,
}

impl Prepared {
    /// About how many bytes the stored event will have.
    pub(super) fn size_hint(&self) -> usize {
        self.header.len() + self.pairs.len() + self.rest.len() + 160
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
        out.put_slice(&self.rest);
        if !self.has_body {
            // Clients expect a body section; the standard requires one.
            wire::put_descriptor(out, DATA as u8);
            wire::put_binary(out, &[]);
        }
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
        return Ok(Publication { events: vec![event], partition_key });
    }
    let mut events = Vec::with_capacity(sections.data.len());
    for (from, to) in &sections.data {
        let inner = message.slice(*from..*to);
        let sections = scan(&inner)?;
        events.push(assemble(&inner, &sections, partition_key.as_deref())?);
    }
    if events.is_empty() {
        return Err(Refusal::new(DECODE_ERROR, "a batch without events"));
    }
    Ok(Publication { events, partition_key })
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
        has_body: sections.has_body,
    })
}

fn partition_key(annotations: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let mut items = wire::Items::new(annotations)?;
    while let (Some(key), Some(value)) = (items.next_item()?, items.next_item()?) {
        if wire::as_octets(key) == Some(PARTITION_KEY.as_bytes()) {
            return Ok(wire::as_octets(value).map(<[u8]>::to_vec));
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
