//! Who has a partition, to somebody who looks at the leases and has none.

use std::time::{Duration, SystemTime};

use crate::event::PartitionId;
use crate::lease::{Holder, LeaseListing, OwnerId, StoredOwnership};

/// The coarsest that a store tells time.
const STORE_TIME_UNIT: Duration = Duration::from_secs(1);

/// Whether a listing is enough to say whether the holder of a record is alive. It is for a record
/// that was there when the listing was made: a worker has its heartbeat before it takes anything.
pub fn is_covered_by(stored: &StoredOwnership, listing: &LeaseListing) -> bool {
    match stored.ownership.holder {
        Holder::Nobody | Holder::Foreign(_) => true,
        // Some stores tell time to the second.
        Holder::Worker(_) => stored.modified + STORE_TIME_UNIT < listing.now,
    }
}

/// Whose an owner is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnerKind {
    /// A worker of longshore.
    Worker,
    /// A processor of another SDK.
    Foreign,
}

/// Who has a partition by its record, alive or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its name.
    pub id: OwnerId,
    /// Whose it is.
    pub kind: OwnerKind,
    /// How long ago it was heard of: its heartbeat, or, of a foreign one, the record itself.
    /// `None` for a worker that has no heartbeat any more.
    pub silent_for: Option<Duration>,
    /// Whether its lease is good: nobody takes it.
    pub is_alive: bool,
    /// Whom it hands the partition to.
    pub hands_to: Option<OwnerId>,
}

/// Who has the partition; `None` where nobody does. Ages are differences on the store's clock.
pub fn owner_of(
    listing: &LeaseListing,
    partition: &PartitionId,
    lease_expiry: Duration,
    foreign_lease_expiry: Duration,
) -> Option<Owner> {
    let (_, stored) = listing.ownerships.iter().find(|(of, _)| of == partition)?;
    owner_by(stored, listing, lease_expiry, foreign_lease_expiry)
}

/// Who has a partition by this record, which may be newer than the listing; `None` where nobody
/// does.
pub fn owner_by(
    stored: &StoredOwnership,
    listing: &LeaseListing,
    lease_expiry: Duration,
    foreign_lease_expiry: Duration,
) -> Option<Owner> {
    let age = |then: SystemTime| listing.now.duration_since(then).unwrap_or_default();
    let hands_to = stored.ownership.target.clone();
    match &stored.ownership.holder {
        Holder::Nobody => None,
        Holder::Worker(id) => {
            let member = listing.members.iter().find(|member| member.member.owner == *id);
            let silent_for = member.map(|member| age(member.modified));
            let is_alive = silent_for.is_some_and(|age| age <= lease_expiry);
            Some(Owner { id: id.clone(), kind: OwnerKind::Worker, silent_for, is_alive, hands_to })
        }
        Holder::Foreign(id) => {
            let silent_for = age(stored.modified);
            let is_alive = silent_for < foreign_lease_expiry;
            let silent_for = Some(silent_for);
            Some(Owner { id: id.clone(), kind: OwnerKind::Foreign, silent_for, is_alive, hands_to })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::checkpoint::VersionToken;
    use crate::lease::{Member, Ownership, StoredMember};

    const EXPIRY: Duration = Duration::from_secs(30);
    const FOREIGN_EXPIRY: Duration = Duration::from_secs(120);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn listing(holder: Holder, record_age: u64, heartbeat_age: Option<u64>) -> LeaseListing {
        let now = 1_000;
        let owner = OwnerId::new("a");
        LeaseListing {
            now: at(now),
            ownerships: vec![(
                "0".into(),
                StoredOwnership {
                    ownership: Ownership { holder, target: None },
                    version: VersionToken("v".to_owned()),
                    modified: at(now - record_age),
                },
            )],
            members: heartbeat_age
                .map(|age| StoredMember {
                    member: Member { owner, wants: BTreeSet::new(), leaving: false },
                    modified: at(now - age),
                })
                .into_iter()
                .collect(),
        }
    }

    fn owner(listing: &LeaseListing) -> Option<(Option<u64>, bool)> {
        let owner = owner_of(listing, &"0".into(), EXPIRY, FOREIGN_EXPIRY)?;
        Some((owner.silent_for.map(|age| age.as_secs()), owner.is_alive))
    }

    #[test]
    fn a_worker_lives_by_its_heartbeat_and_a_foreign_owner_by_its_record() {
        let worker = || Holder::Worker(OwnerId::new("a"));
        assert_eq!(owner(&listing(worker(), 900, Some(30))), Some((Some(30), true)));
        assert_eq!(owner(&listing(worker(), 0, Some(31))), Some((Some(31), false)));
        assert_eq!(owner(&listing(worker(), 0, None)), Some((None, false)));
        let foreign = || Holder::Foreign(OwnerId::new("a"));
        assert_eq!(owner(&listing(foreign(), 119, Some(1))), Some((Some(119), true)));
        assert_eq!(owner(&listing(foreign(), 120, None)), Some((Some(120), false)));
    }

    #[test]
    fn a_lease_that_is_newer_than_the_listing_is_not_covered_by_it() {
        let covered = |holder: Holder, record_age| {
            let listing = listing(holder, record_age, None);
            is_covered_by(&listing.ownerships[0].1, &listing)
        };
        let id = || OwnerId::new("a");
        assert!(covered(Holder::Worker(id()), 2));
        assert!(!covered(Holder::Worker(id()), 1));
        assert!(covered(Holder::Foreign(id()), 0) && covered(Holder::Nobody, 0));
    }

    #[test]
    fn a_partition_that_was_released_or_never_owned_is_nobodys() {
        let released = listing(Holder::Nobody, 1, Some(1));
        assert_eq!(owner(&released), None);
        assert_eq!(owner_of(&released, &"1".into(), EXPIRY, FOREIGN_EXPIRY), None);
    }
}
