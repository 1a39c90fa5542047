//! How large the WebSocket message is that is arriving, told from the headers of its frames.
//!
//! Whoever reads frames makes room for as much as a header says, before a byte of it is there. So what
//! a client may send is looked at before. No I/O.
//!
//! ```text
//! 0              1              2        + 0, 2 or 8      + 4
//! | fin, opcode  | mask, length | length ...   | mask ...  | payload |
//! ```

/// A header is no longer.
const MAX_HEADER_BYTES: usize = 14;

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub(super) struct MessageSizes {
    header: [u8; MAX_HEADER_BYTES],
    /// Of the header that is arriving.
    header_bytes: usize,
    /// Of the payload that is arriving.
    left_bytes: u64,
    /// Of the frames of a message whose last is to come.
    message_bytes: u64,
}

impl MessageSizes {
    /// Goes on over what arrived. False where a message is begun that has more than `most` bytes.
    pub(super) fn admit(&mut self, mut bytes: &[u8], most: usize) -> bool {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        while let Some((first, rest)) = bytes.split_first() {
            if self.left_bytes > 0 {
                let here = bytes.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
                self.left_bytes -= here as u64;
                bytes = &bytes[here..];
                continue;
            }
            if let Some(place) = self.header.get_mut(self.header_bytes) {
                *place = *first;
            }
            self.header_bytes += 1;
            bytes = rest;
            if self.header_bytes == self.wanted_bytes() && !self.on_header(most) {
                return false;
            }
        }
        true
    }

    /// The length of the header, as far as it is known.
    fn wanted_bytes(&self) -> usize {
        if self.header_bytes < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn on_header(&mut self, most: u64) -> bool {
        let [first, second, rest @ ..] = self.header;
        let bytes = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
            127 => rest.first_chunk().map_or(u64::MAX, |length| u64::from_be_bytes(*length)),
            short => u64::from(short),
        };
        self.header_bytes = 0;
        self.left_bytes = bytes;
        let (is_last, is_control) = (first & 0x80 != 0, first & 0x08 != 0);
        let message_bytes = match is_control {
            // It stands between the frames of a message.
            true => bytes,
            false => self.message_bytes.saturating_add(bytes),
        };
        if !is_control {
            self.message_bytes = if is_last { 0 } else { message_bytes };
        }
        message_bytes <= most
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A masked frame with so many bytes.
    fn frame(first: u8, bytes: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match bytes {
            ..126 => frame.push(0x80 | bytes as u8),
            126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(bytes as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(bytes as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[1, 2, 3, 4]);
        // What looks like headers is payload.
        frame.extend(std::iter::repeat_n(0xff, bytes));
        frame
    }

    const BINARY: u8 = 0x82;
    const FIRST_OF_MORE: u8 = 0x02;
    const MORE: u8 = 0x00;
    const LAST: u8 = 0x80;
    const PING: u8 = 0x89;

    #[test]
    fn a_message_is_refused_by_the_header_that_makes_it_too_large() {
        let mut sizes = MessageSizes::default();
        for (first, bytes) in [
            (BINARY, 1_000),
            (FIRST_OF_MORE, 600),
            (PING, 100),
            (MORE, 300),
            (LAST, 100),
            (BINARY, 0),
        ] {
            assert!(sizes.admit(&frame(first, bytes), 1_000), "{first:x} {bytes}");
        }
        assert!(sizes.admit(&frame(FIRST_OF_MORE, 600), 1_000));
        let header = &frame(LAST, 401)[..8];
        assert!(sizes.admit(&header[..7], 1_000) && !sizes.admit(&header[7..], 1_000));
        let claimed = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert!(!MessageSizes::default().admit(&claimed, 1_000));
    }

    proptest! {
        #[test]
        fn how_they_arrive_makes_no_difference(
            frames in vec((any::<u8>(), 0usize..70_000), 1..6),
            pieces in vec(1usize..300, 1..5),
            most in 0usize..100_000,
        ) {
            let bytes: Vec<u8> =
                frames.into_iter().flat_map(|(first, bytes)| frame(first, bytes)).collect();
            let at_once = MessageSizes::default().admit(&bytes, most);
            let (mut sizes, mut rest, mut admitted) = (MessageSizes::default(), &bytes[..], true);
            for piece in pieces.iter().cycle() {
                let (here, after) = rest.split_at((*piece).min(rest.len()));
                admitted = admitted && sizes.admit(here, most);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(admitted, at_once);
        }
    }
}
