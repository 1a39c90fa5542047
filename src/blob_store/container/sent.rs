//! What is known of the blocks of a blob that are staged or on their way: a few bytes each, for a large file
//! has thousands of them, and many files move at once.

/// By the numbers of blocks. See the [module](self).
#[derive(Default)]
pub(super) struct Sent {
    crc64s: Vec<Option<u64>>,
    /// The states of the hash behind them; empty where none is known.
    sha256_states: Vec<[u8; 32]>,
    count: usize,
}

/// A block that is staged or on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SentBlock {
    pub(super) number: usize,
    pub(super) crc64: u64,
    pub(super) sha256_state: [u8; 32],
}

impl Sent {
    pub(super) fn insert(&mut self, block: SentBlock) {
        let SentBlock { number, crc64, sha256_state } = block;
        if self.crc64s.len() <= number {
            self.crc64s.resize(number + 1, None);
        }
        if sha256_state != [0; 32] && self.sha256_states.len() <= number {
            self.sha256_states.resize(number + 1, [0; 32]);
        }
        if let Some(state) = self.sha256_states.get_mut(number) {
            *state = sha256_state;
        }
        if let Some(known) = self.crc64s.get_mut(number) {
            self.count += usize::from(known.replace(crc64).is_none());
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// In their order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = SentBlock> {
        self.crc64s.iter().enumerate().filter_map(|(number, crc64)| {
            let sha256_state = self.sha256_states.get(number).copied().unwrap_or_default();
            Some(SentBlock { number, crc64: (*crc64)?, sha256_state })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_any_order_are_known_in_theirs() {
        let mut sent = Sent::default();
        let block = |number, state| SentBlock {
            number,
            crc64: number as u64 + 10,
            sha256_state: [state; 32],
        };
        for (number, state) in [(4, 0), (1, 0), (2, 7), (1, 0), (5, 8), (0, 0)] {
            sent.insert(block(number, state));
        }
        let blocks: Vec<SentBlock> = sent.blocks().collect();
        assert_eq!(blocks, [block(0, 0), block(1, 0), block(2, 7), block(4, 0), block(5, 8)]);
        assert_eq!(sent.count(), 5);
    }
}
