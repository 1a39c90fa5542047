//! Which worker a partition belongs to: a rendezvous hash, bounded by an even share.
//!
//! Every worker ranks all workers for a partition by a hash of the two names; the highest that
//! has room gets it. Workers that see the same members come to the same answer without a word,
//! and where a member comes or goes only its share moves (Thaler and Ravishankar, "Using
//! Name-Based Mappings to Increase Hit Rates", 1998).

use std::collections::BTreeMap;

use crate::event::PartitionId;
use crate::lease::OwnerId;

/// How much `owner` is the one for `partition`. All workers of a group must compute the same.
pub fn weight(owner: &OwnerId, partition: &PartitionId) -> u64 {
    // FNV-1a over both names with a byte between them that is in no name, then the finaliser of
    // SplitMix64, because FNV leaves names that differ in their last letter close together.
    let bytes = owner.as_str().bytes().chain([0xff]).chain(partition.as_str().bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// How many partitions each worker has, and how many it should have.
#[derive(Clone, Debug)]
pub struct Shares {
    counts: BTreeMap<OwnerId, usize>,
    floor: usize,
    ceiling: usize,
}

impl Shares {
    /// An even share of `partitions` for each of `owners`, who have none yet.
    pub fn new(partitions: usize, owners: impl IntoIterator<Item = OwnerId>) -> Self {
        let counts: BTreeMap<OwnerId, usize> = owners.into_iter().map(|owner| (owner, 0)).collect();
        let divisor = counts.len().max(1);
        Self { floor: partitions / divisor, ceiling: partitions.div_ceil(divisor), counts }
    }

    /// What every worker should have at least.
    pub fn floor(&self) -> usize {
        self.floor
    }

    /// What every worker should have at most.
    pub fn ceiling(&self) -> usize {
        self.ceiling
    }

    /// Whether it has a share.
    pub fn has(&self, owner: &OwnerId) -> bool {
        self.counts.contains_key(owner)
    }

    /// How many it has.
    pub fn count(&self, owner: &OwnerId) -> usize {
        self.counts.get(owner).copied().unwrap_or(0)
    }

    /// It has one more. Who has no share is not counted.
    pub fn add(&mut self, owner: &OwnerId) {
        if let Some(count) = self.counts.get_mut(owner) {
            *count += 1;
        }
    }

    /// It has one less.
    pub fn remove(&mut self, owner: &OwnerId) {
        if let Some(count) = self.counts.get_mut(owner) {
            *count = count.saturating_sub(1);
        }
    }

    /// The worker among `candidates` that has room and ranks highest for `partition`.
    pub fn place<'a>(
        &self,
        partition: &PartitionId,
        candidates: impl IntoIterator<Item = &'a OwnerId>,
    ) -> Option<&'a OwnerId> {
        candidates
            .into_iter()
            .filter(|owner| self.has(owner) && self.count(owner) < self.ceiling)
            .max_by_key(|owner| weight(owner, partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(count: usize) -> Vec<OwnerId> {
        (0..count).map(|number| OwnerId::new(format!("worker-{number}"))).collect()
    }

    fn placed(owners: &[OwnerId], partitions: usize) -> Vec<OwnerId> {
        let mut shares = Shares::new(partitions, owners.iter().cloned());
        (0..partitions)
            .map(|number| {
                let partition = PartitionId::from(number.to_string());
                let owner = shares.place(&partition, owners).expect("room").clone();
                shares.add(&owner);
                owner
            })
            .collect()
    }

    #[test]
    fn shares_are_even_whatever_the_hash_says() {
        for (workers, partitions) in [(1, 4), (3, 16), (7, 32), (64, 1_024), (5, 3)] {
            let owners = owners(workers);
            let placed = placed(&owners, partitions);
            for owner in &owners {
                let count = placed.iter().filter(|placed| *placed == owner).count();
                assert!(count <= partitions.div_ceil(workers), "{workers} {partitions}");
            }
        }
    }

    #[test]
    fn without_the_bound_the_hash_spreads_and_moves_only_one_share() {
        let owners = owners(8);
        let best = |owners: &[OwnerId], number: usize| {
            let partition = PartitionId::from(number.to_string());
            owners.iter().max_by_key(|owner| weight(owner, &partition)).expect("some").clone()
        };
        let before: Vec<_> = (0..1_024).map(|number| best(&owners, number)).collect();
        for owner in &owners {
            let count = before.iter().filter(|placed| *placed == owner).count();
            assert!((64..=192).contains(&count), "{count} of an ideal 128");
        }
        let after: Vec<_> = (0..1_024).map(|number| best(&owners[1..], number)).collect();
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == owners[0]);
        }
    }

    #[test]
    fn who_has_no_share_is_given_none() {
        let owners = owners(2);
        let shares = Shares::new(4, [owners[0].clone()]);
        assert_eq!(shares.place(&"0".into(), &owners), Some(&owners[0]));
        assert_eq!(shares.place(&"0".into(), &owners[1..]), None);
    }
}
