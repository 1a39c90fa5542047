//! The AMQP 1.0 type system as bytes: measuring, checking and writing values without building them.
//!
//! Every value that arrives passes [`check`] before anything else looks at it. A checked value has a
//! bounded nesting depth, and its sizes and counts agree with each other, so the codec behind cannot
//! be made to recurse or to allocate by a crafted input.
//!
//! Invariants:
//! - No function here panics or allocates in proportion to a number read from the input.
//! - Writers always use the four-byte list and map headers: the size is patched in afterwards, which
//!   costs a few bytes a frame and saves encoding twice.

use bytes::{BufMut, BytesMut};

/// A crafted value that is deeper would overflow the stack of the codec. Clients may nest 32 levels in a map of
/// annotations, which are within a section.
const MAX_DEPTH: u32 = 48;
/// Array elements may have no bytes at all, so their count is the only bound on what they expand to.
const MAX_EMPTY_ELEMENTS: usize = 1024;

/// The bytes are not an AMQP value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed AMQP value: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

const TRUNCATED: Malformed = Malformed("it ends too early");
const DISAGREE: Malformed = Malformed("size and content of a compound value disagree");

fn be_u32(bytes: &[u8]) -> Result<usize, Malformed> {
    match bytes {
        [a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        _ => Err(TRUNCATED),
    }
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), Malformed> {
    bytes.split_at_checked(at).ok_or(TRUNCATED)
}

/// Length of the first value of `bytes`, constructor included, after checking all of it.
pub(super) fn check(bytes: &[u8]) -> Result<usize, Malformed> {
    check_value(bytes, MAX_DEPTH)
}

fn check_value(bytes: &[u8], depth: u32) -> Result<usize, Malformed> {
    let (&code, rest) = bytes.split_first().ok_or(TRUNCATED)?;
    if code != 0 {
        return Ok(1 + check_payload(code, rest, depth)?);
    }
    let depth = deeper(depth)?;
    if rest.first() == Some(&0) {
        return Err(Malformed("a descriptor that is itself described"));
    }
    let descriptor = check_value(rest, depth)?;
    let (_, value) = split(rest, descriptor)?;
    Ok(1 + descriptor + check_value(value, depth)?)
}

fn deeper(depth: u32) -> Result<u32, Malformed> {
    depth.checked_sub(1).ok_or(Malformed("it is nested too deeply"))
}

/// Checks what follows the constructor `code` and returns its length.
fn check_payload(code: u8, bytes: &[u8], depth: u32) -> Result<usize, Malformed> {
    let fixed = match code {
        0x40..=0x45 => 0,
        0x50..=0x56 => 1,
        0x60 | 0x61 => 2,
        0x70..=0x74 => 4,
        0x80..=0x84 => 8,
        0x94 | 0x98 => 16,
        0xa0 | 0xa1 | 0xa3 => 1 + usize::from(*bytes.first().ok_or(TRUNCATED)?),
        0xb0 | 0xb1 | 0xb3 => 4 + be_u32(bytes)?,
        0xc0 | 0xc1 | 0xd0 | 0xd1 | 0xe0 | 0xf0 => return check_compound(code, bytes, depth),
        _ => return Err(Malformed("an unknown type code")),
    };
    if bytes.len() < fixed {
        return Err(TRUNCATED);
    }
    Ok(fixed)
}

fn check_compound(code: u8, bytes: &[u8], depth: u32) -> Result<usize, Malformed> {
    let depth = deeper(depth)?;
    let (header, body, count) = compound(code, bytes)?;
    let used = if code & 0xf0 == 0xe0 || code & 0xf0 == 0xf0 {
        check_array(body, count, depth)?
    } else {
        if count > body.len() {
            return Err(Malformed("more items than bytes"));
        }
        if code & 0x0f == 1 && count % 2 == 1 {
            return Err(Malformed("a map with a key and no value"));
        }
        let mut used = 0;
        for _ in 0..count {
            let (_, rest) = split(body, used)?;
            used += check_value(rest, depth)?;
        }
        used
    };
    if used != body.len() {
        return Err(DISAGREE);
    }
    Ok(header + body.len())
}

/// Header length, content and item count of a list, map or array whose constructor was read.
fn compound(code: u8, bytes: &[u8]) -> Result<(usize, &[u8], usize), Malformed> {
    let wide = matches!(code, 0xd0 | 0xd1 | 0xf0);
    let width = if wide { 4 } else { 1 };
    let read = |at: usize| -> Result<usize, Malformed> {
        let (_, rest) = split(bytes, at)?;
        if wide { be_u32(rest) } else { Ok(usize::from(*rest.first().ok_or(TRUNCATED)?)) }
    };
    // The size counts the bytes of the item count as well.
    let size =
        read(0)?.checked_sub(width).ok_or(Malformed("a compound value smaller than its count"))?;
    let count = read(width)?;
    let (_, rest) = split(bytes, 2 * width)?;
    let (body, _) = split(rest, size)?;
    Ok((2 * width, body, count))
}

fn check_array(body: &[u8], count: usize, depth: u32) -> Result<usize, Malformed> {
    if count == 0 {
        // Some writers give the constructor of the absent elements, some do not.
        return Ok(body.len());
    }
    let mut used = 0;
    if body.first() == Some(&0) {
        let (_, rest) = split(body, 1)?;
        if rest.first() == Some(&0) {
            return Err(Malformed("a descriptor that is itself described"));
        }
        used += 1 + check_value(rest, depth)?;
    }
    let (_, rest) = split(body, used)?;
    let code = *rest.first().ok_or(TRUNCATED)?;
    if code == 0 {
        return Err(Malformed("an array constructor described twice"));
    }
    used += 1;
    // Before they are counted off one by one.
    let most = match code {
        0x40..=0x45 => MAX_EMPTY_ELEMENTS,
        _ => body.len() - used,
    };
    if count > most {
        return Err(Malformed("an array of more elements than it can have"));
    }
    for _ in 0..count {
        let (_, rest) = split(body, used)?;
        used += check_payload(code, rest, depth)?;
    }
    Ok(used)
}

/// Descriptor code of a described value and the length of its descriptor; names are translated.
pub(super) fn descriptor(bytes: &[u8]) -> Result<(u64, usize), Malformed> {
    let not_described = Malformed("a described value was expected");
    let rest = match bytes {
        [0, rest @ ..] => rest,
        _ => return Err(not_described),
    };
    match rest {
        [0x53, code, ..] => Ok((u64::from(*code), 3)),
        [0x80, a, b, c, d, e, f, g, h, ..] => {
            Ok((u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10))
        }
        [0xa3, len, name @ ..] => {
            let len = usize::from(*len);
            let name = name.get(..len).ok_or(TRUNCATED)?;
            let code = match name {
                b"amqp:header:list" => 0x70,
                b"amqp:delivery-annotations:map" => 0x71,
                b"amqp:message-annotations:map" => 0x72,
                b"amqp:properties:list" => 0x73,
                b"amqp:application-properties:map" => 0x74,
                b"amqp:data:binary" => 0x75,
                b"amqp:amqp-sequence:list" => 0x76,
                b"amqp:amqp-value:*" => 0x77,
                b"amqp:footer:map" => 0x78,
                b"amqp:transfer:list" => 0x14,
                _ => return Err(Malformed("an unknown descriptor name")),
            };
            Ok((code, 3 + len))
        }
        _ => Err(not_described),
    }
}

/// The items of a checked list or map, as the bytes of each value.
#[derive(Debug, Clone)]
pub(super) struct Items<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Items<'a> {
    /// `bytes` starts with the constructor of a list or map.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (&code, rest) = bytes.split_first().ok_or(TRUNCATED)?;
        match code {
            0x45 => Ok(Self { rest: &[], left: 0 }),
            0xc0 | 0xc1 | 0xd0 | 0xd1 => {
                let (_, body, count) = compound(code, rest)?;
                Ok(Self { rest: body, left: count })
            }
            _ => Err(Malformed("a list or map was expected")),
        }
    }

    /// The next value, `None` after the last: a list may leave out trailing nulls.
    pub(super) fn next_item(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        if self.left == 0 {
            return Ok(None);
        }
        let (item, rest) = split(self.rest, check(self.rest)?)?;
        self.rest = rest;
        self.left -= 1;
        Ok(Some(item))
    }
}

/// A `uint` (or another small unsigned integer); `None` for null or an absent field.
pub(super) fn as_uint(item: Option<&[u8]>) -> Result<Option<u32>, Malformed> {
    Ok(Some(match item {
        None | Some([0x40]) => return Ok(None),
        Some([0x43]) => 0,
        Some([0x52, value]) => u32::from(*value),
        Some([0x70, a, b, c, d]) => u32::from_be_bytes([*a, *b, *c, *d]),
        Some(_) => return Err(Malformed("a uint was expected")),
    }))
}

/// A boolean; false for null or an absent field.
pub(super) fn as_bool(item: Option<&[u8]>) -> Result<bool, Malformed> {
    match item {
        None | Some([0x40] | [0x42] | [0x56, 0]) => Ok(false),
        Some([0x41] | [0x56, 1]) => Ok(true),
        Some(_) => Err(Malformed("a boolean was expected")),
    }
}

/// The content of a binary, string or symbol.
pub(super) fn as_octets(item: &[u8]) -> Option<&[u8]> {
    match item {
        [0xa0 | 0xa1 | 0xa3, _, content @ ..] => Some(content),
        [0xb0 | 0xb1 | 0xb3, _, _, _, _, content @ ..] => Some(content),
        _ => None,
    }
}

pub(super) fn put_null(out: &mut BytesMut) {
    out.put_u8(0x40);
}

pub(super) fn put_bool(out: &mut BytesMut, value: bool) {
    out.put_u8(if value { 0x41 } else { 0x42 });
}

pub(super) fn put_ushort(out: &mut BytesMut, value: u16) {
    out.put_u8(0x60);
    out.put_u16(value);
}

pub(super) fn put_uint(out: &mut BytesMut, value: u32) {
    match u8::try_from(value) {
        Ok(0) => out.put_u8(0x43),
        Ok(small) => out.put_slice(&[0x52, small]),
        Err(_) => {
            out.put_u8(0x70);
            out.put_u32(value);
        }
    }
}

pub(super) fn put_optional_uint(out: &mut BytesMut, value: Option<u32>) {
    match value {
        Some(value) => put_uint(out, value),
        None => put_null(out),
    }
}

pub(super) fn put_ulong(out: &mut BytesMut, value: u64) {
    out.put_u8(0x80);
    out.put_u64(value);
}

pub(super) fn put_long(out: &mut BytesMut, value: i64) {
    out.put_u8(0x81);
    out.put_i64(value);
}

pub(super) fn put_timestamp(out: &mut BytesMut, unix_millis: i64) {
    out.put_u8(0x83);
    out.put_i64(unix_millis);
}

fn put_variable(out: &mut BytesMut, short: u8, long: u8, content: &[u8]) {
    match u8::try_from(content.len()) {
        Ok(len) => out.put_slice(&[short, len]),
        Err(_) => {
            out.put_u8(long);
            out.put_u32(content.len() as u32);
        }
    }
    out.put_slice(content);
}

pub(super) fn put_binary(out: &mut BytesMut, content: &[u8]) {
    put_variable(out, 0xa0, 0xb0, content);
}

pub(super) fn put_string(out: &mut BytesMut, content: &str) {
    put_variable(out, 0xa1, 0xb1, content.as_bytes());
}

pub(super) fn put_symbol(out: &mut BytesMut, content: &str) {
    put_variable(out, 0xa3, 0xb3, content.as_bytes());
}

pub(super) fn put_descriptor(out: &mut BytesMut, code: u8) {
    out.put_slice(&[0x00, 0x53, code]);
}

/// Writes a list of `items` values; `fill` must write exactly that many.
pub(super) fn put_list(out: &mut BytesMut, items: u32, fill: impl FnOnce(&mut BytesMut)) {
    put_compound(out, 0xd0, items, fill);
}

/// Writes a map of `items` values, keys counted; `fill` must write exactly that many.
pub(super) fn put_map(out: &mut BytesMut, items: u32, fill: impl FnOnce(&mut BytesMut)) {
    put_compound(out, 0xd1, items, fill);
}

fn put_compound(out: &mut BytesMut, code: u8, items: u32, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(code);
    let size_at = out.len();
    out.put_u32(0);
    out.put_u32(items);
    fill(out);
    patch_u32(out, size_at, out.len() - size_at - 4);
}

/// Writes `value` over the four bytes at `at`, which a caller reserved.
pub(super) fn patch_u32(out: &mut BytesMut, at: usize, value: usize) {
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&(value as u32).to_be_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nested_lists_beyond_the_limit_are_refused() {
        let mut bytes = vec![0x45];
        for levels in 1..80 {
            assert_eq!(check(&bytes).is_ok(), levels <= MAX_DEPTH + 1, "{levels}");
            let mut outer = BytesMut::new();
            put_list(&mut outer, 1, |out| out.put_slice(&bytes));
            bytes = outer.to_vec();
        }
        assert_eq!(check(&bytes), Err(Malformed("it is nested too deeply")));
    }

    #[test]
    fn an_array_of_a_billion_nothings_is_refused() {
        let more = Err(Malformed("an array of more elements than it can have"));
        // Nothing but nothings, and something behind them: four billion are not counted off.
        assert_eq!(check(&[0xf0, 0, 0, 0, 5, 0x40, 0, 0, 0, 0x41]), more);
        assert_eq!(check(&[0xf0, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0x40, 0]), more);
        assert_eq!(check(&[0xf0, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0x50, 0]), more);
        assert_eq!(check(&[0xe0, 3, 2, 0x40, 0]), Err(DISAGREE));
        assert_eq!(check(&[0xe0, 2, 9, 0x40]), Ok(4));
    }

    #[test]
    fn lists_give_their_items_back() {
        let mut out = BytesMut::new();
        put_list(&mut out, 3, |out| {
            put_uint(out, 7);
            put_string(out, "seven");
            put_bool(out, true);
        });
        let mut items = Items::new(&out).unwrap();
        assert_eq!(as_uint(items.next_item().unwrap()), Ok(Some(7)));
        let text = items.next_item().unwrap().unwrap();
        assert_eq!(as_octets(text), Some(&b"seven"[..]));
        assert_eq!(as_bool(items.next_item().unwrap()), Ok(true));
        assert_eq!(items.next_item(), Ok(None));
        assert_eq!(check(&out), Ok(out.len()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_measured_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(len) = check(&bytes) {
                prop_assert!(len <= bytes.len());
            }
            if let Ok(mut items) = Items::new(&bytes) {
                while let Ok(Some(_)) = items.next_item() {}
            }
            let _ = descriptor(&bytes);
        }
    }
}
