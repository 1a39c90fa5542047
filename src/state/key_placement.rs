//! Which partition a key belongs to.
//!
//! The service hashes the UTF-8 bytes of a key with lookup3 (`hashlittle2` of Bob Jenkins, 2006),
//! folds the two hashes to sixteen bits with a sign, and takes the remainder by the number of
//! partitions without its sign. A producer that does the same knows the partition of an event
//! before it is sent. The buffered producers of .NET, Java, JavaScript and Rust do.
//!
//! The buffered producer of Python differs twice: it hashes code points in place of bytes, and its
//! remainder of a negative hash is the one of its language. So keys that are not ASCII, and most of
//! those with a negative hash, go to another partition than the service would choose.
//! [`KeyPlacement::PythonBuffered`] follows it.
//!
//! What it does not do: know the partitions. Their order is the service's, and their number may
//! grow, which moves keys.

/// The rule by which keys are given to partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum KeyPlacement {
    /// The service's own rule, which every producer that names a key and no partition gets.
    #[default]
    Service,
    /// The rule of the buffered producer of Python, for workers that share keys with one.
    PythonBuffered,
}

impl KeyPlacement {
    /// The index of the partition of a key, among this many partitions. `None` if there are none.
    pub fn index(self, key: &str, partitions: usize) -> Option<usize> {
        let count = i32::try_from(partitions).ok().filter(|count| *count > 0)?;
        let hash = i32::from(self.hash(key));
        let index = match self {
            Self::Service => (hash % count).abs(),
            Self::PythonBuffered => hash.rem_euclid(count),
        };
        usize::try_from(index).ok()
    }

    fn hash(self, key: &str) -> i16 {
        let (first, second) = match self {
            Self::Service => lookup3(key.as_bytes()),
            Self::PythonBuffered => {
                let code_points: Vec<u32> = key.chars().map(u32::from).collect();
                lookup3(&code_points)
            }
        };
        ((first ^ second) & 0xffff) as u16 as i16
    }
}

/// Units of one block.
const BLOCK: usize = 12;

/// Both hashes, seeds zero. A unit is a byte; one that is larger is carried into its neighbours.
fn lookup3<U: Copy + Into<u32>>(units: &[U]) -> (u32, u32) {
    let start = 0xdead_beef_u32.wrapping_add(units.len() as u32);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = units;
    // The last block is not mixed but finished, also where it is a whole one.
    while rest.len() > BLOCK {
        let (block, more) = rest.split_at(BLOCK);
        a = a.wrapping_add(word(block, 0));
        b = b.wrapping_add(word(block, 4));
        c = c.wrapping_add(word(block, 8));
        (a, b, c) = mix(a, b, c);
        rest = more;
    }
    if rest.is_empty() {
        return (c, b);
    }
    a = a.wrapping_add(word(rest, 0));
    b = b.wrapping_add(word(rest, 4));
    c = c.wrapping_add(word(rest, 8));
    finish(a, b, c)
}

/// Up to four units from `at` on, the first one lowest.
fn word<U: Copy + Into<u32>>(block: &[U], at: usize) -> u32 {
    let units = block.iter().skip(at).take(4).zip([0, 8, 16, 24]);
    units.fold(0, |word, (unit, shift)| word.wrapping_add((*unit).into() << shift))
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(first);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(second);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(third);
        b = b.wrapping_add(a);
    }
    (a, b, c)
}

fn finish(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32) {
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
mod tests {
    use super::*;

    /// A thousand keys of every kind of text, and the hash of each by either rule. What wrote it
    /// is tests/placement/keys.py; tests/key_placement.rs asks the clients themselves.
    const KEYS: &str = include_str!("../../tests/placement/keys.tsv");

    #[test]
    fn keys_hash_as_in_the_service_and_as_in_python() {
        let mut keys = 0;
        for line in KEYS.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [hex, service, python] = fields[..] else { panic!("{line}") };
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
                .collect();
            let key = String::from_utf8(bytes).expect("text");
            assert_eq!(KeyPlacement::Service.hash(&key).to_string(), service, "{key:?}");
            assert_eq!(KeyPlacement::PythonBuffered.hash(&key).to_string(), python, "{key:?}");
            keys += 1;
        }
        assert_eq!(keys, 1_000);
    }

    #[test]
    fn the_remainder_of_a_negative_hash_is_where_the_rules_part() {
        // -15263 and 30562, which are vectors of .NET.
        for (key, partitions, service, python) in
            [("7", 8, 7, 1), ("7", 1, 0, 0), ("131", 8, 2, 2), ("131", 1_000, 562, 562)]
        {
            assert_eq!(KeyPlacement::Service.index(key, partitions), Some(service));
            assert_eq!(KeyPlacement::PythonBuffered.index(key, partitions), Some(python));
        }
        assert_eq!(KeyPlacement::Service.index("", 32), Some(0));
        assert_eq!(KeyPlacement::Service.index("7", 0), None);
    }
}
