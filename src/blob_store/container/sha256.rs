//! A SHA-256 whose state can be kept and gone on with at a multiple of 64 bytes (FIPS 180-4).

use sha2::compress256;
use sha2::digest::generic_array::GenericArray;

/// What one step of the hash takes.
pub(super) const STEP_BYTES: u64 = 64;

/// The state before the first byte: FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct KeptSha256 {
    state: [u32; 8],
    bytes: u64,
    /// What is no whole step yet.
    rest: Vec<u8>,
}

impl Default for KeptSha256 {
    fn default() -> Self {
        Self { state: INITIAL, bytes: 0, rest: Vec::with_capacity(STEP_BYTES as usize) }
    }
}

impl KeptSha256 {
    /// Goes on where so many bytes had led to this state; `None` if they end within a step.
    pub(super) fn resume(state: [u8; 32], bytes: u64) -> Option<Self> {
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(state.chunks_exact(4)) {
            *word = u32::from_be_bytes(bytes.try_into().ok()?);
        }
        bytes.is_multiple_of(STEP_BYTES).then(|| Self { state: words, bytes, ..Self::default() })
    }

    /// The state, where what came so far ends with a step.
    pub(super) fn state(&self) -> Option<[u8; 32]> {
        self.rest.is_empty().then(|| bytes_of(&self.state))
    }

    pub(super) fn update(&mut self, mut part: &[u8]) {
        self.bytes += part.len() as u64;
        if !self.rest.is_empty() {
            let missing = (STEP_BYTES as usize - self.rest.len()).min(part.len());
            let (taken, left) = part.split_at(missing);
            self.rest.extend_from_slice(taken);
            part = left;
            if self.rest.len() as u64 == STEP_BYTES {
                compress256(&mut self.state, &[*GenericArray::from_slice(&self.rest)]);
                self.rest.clear();
            }
        }
        let mut steps = part.chunks_exact(STEP_BYTES as usize);
        for step in steps.by_ref() {
            compress256(&mut self.state, std::slice::from_ref(GenericArray::from_slice(step)));
        }
        self.rest.extend_from_slice(steps.remainder());
    }

    /// The hash of what came: padded as FIPS 180-4, 5.1.1 says.
    pub(super) fn finalize(&self) -> [u8; 32] {
        let mut last = Self { bytes: 0, ..self.clone() };
        last.update(&[0x80]);
        let zeros = (STEP_BYTES as usize * 2 - 8 - last.rest.len()) % STEP_BYTES as usize;
        last.update(&[0; STEP_BYTES as usize][..zeros]);
        last.update(&(self.bytes * 8).to_be_bytes());
        bytes_of(&last.state)
    }
}

fn bytes_of(state: &[u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, word) in bytes.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    proptest! {
        #[test]
        fn it_is_sha256_however_it_is_cut_and_wherever_it_is_kept(
            bytes in prop::collection::vec(any::<u8>(), 0..1_000),
            cuts in prop::collection::vec(0..1_000_usize, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut hash = KeptSha256::default();
            for part in cuts.windows(2) {
                hash.update(&bytes[part[0]..part[1]]);
                if let Some(state) = hash.state() {
                    hash = KeptSha256::resume(state, part[1] as u64).expect("whole steps");
                }
            }
            let expected: [u8; 32] = Sha256::digest(&bytes).into();
            prop_assert_eq!(hash.finalize(), expected);
        }
    }

    #[test]
    fn a_state_within_a_step_is_none() {
        let mut hash = KeptSha256::default();
        hash.update(b"abc");
        assert_eq!(hash.state(), None);
        assert!(KeptSha256::resume([0; 32], 3).is_none());
    }
}
