//! One checkpoint from two blobs: ours, and that of an SDK that keeps the case of its names.
//!
//! The other blob counts only where it was written later, by the service's clock, and is further
//! ahead. So what is left there from before a reset does not undo the reset, and nobody moves a
//! checkpoint of ours back.
//!
//! A blob under the path without the port of a local broker counts only where there is neither: it
//! may be that of a broker on another port.

use tracing::warn;

use super::{KIND, metadata};
use crate::blob_container::Found;
use crate::blob_container::names::{self, Spelling};
use crate::checkpoint::{Checkpoint, CheckpointKey, StoredCheckpoint, VersionToken};
use crate::error::{Error, ErrorClass};
use crate::event::{Partition, Position};

/// Begins the version of a value that is only in another SDK's blob: ours is to be created.
pub(super) const NOT_OURS: &str = "not-ours:";

/// What is stored for one partition.
#[derive(Default)]
pub(super) struct Blobs {
    pub(super) ours: Option<Found>,
    pub(super) others: Option<Found>,
    pub(super) without_port: Option<Found>,
}

impl Blobs {
    /// The one of a spelling.
    pub(super) fn of(&mut self, spelling: Spelling) -> &mut Option<Found> {
        match spelling {
            Spelling::Lower => &mut self.ours,
            Spelling::AsGiven => &mut self.others,
            Spelling::WithoutPort => &mut self.without_port,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ours.is_none() && self.others.is_none() && self.without_port.is_none()
    }

    /// The checkpoint they make together; `None` if there is no blob.
    pub(super) fn joined(
        self,
        operation: &'static str,
        key: &CheckpointKey,
    ) -> Option<Result<StoredCheckpoint, Error>> {
        let read = |found: &Found, spelling| {
            metadata::decode(&found.metadata)
                .map_err(|fault| unreadable(operation, key, spelling, &fault))
        };
        let Some(ours) = self.ours else {
            let others = self.others.map(|others| (others, Spelling::AsGiven));
            let without_port = self.without_port.map(|found| (found, Spelling::WithoutPort));
            let (found, spelling) = others.or(without_port)?;
            let version = VersionToken(format!("{NOT_OURS}{}", found.version.0));
            let checkpoint = read(&found, spelling);
            return Some(checkpoint.map(|checkpoint| StoredCheckpoint { checkpoint, version }));
        };
        let mut checkpoint = match read(&ours, Spelling::Lower) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return Some(Err(error)),
        };
        if let Some(others) = self.others.filter(|others| others.modified > ours.modified) {
            match read(&others, Spelling::AsGiven) {
                Ok(newer) => advance(&mut checkpoint, newer.watermark),
                Err(error) => warn!(%error, "the checkpoint of another SDK is passed over"),
            }
        }
        Some(Ok(StoredCheckpoint { checkpoint, version: ours.version }))
    }
}

/// Moves a checkpoint forward to where another SDK came; never back.
fn advance(checkpoint: &mut Checkpoint, further: Option<Position>) {
    let number = |position: &Option<Position>| position.as_ref().map(|at| at.sequence_number);
    let to = number(&further);
    if to > number(&checkpoint.watermark) {
        checkpoint.settled_above.retain(|run| Some(run.last) > to);
        if let (Some(run), Some(to)) = (checkpoint.settled_above.first_mut(), to) {
            run.first.0 = run.first.0.max(to.0.saturating_add(1));
        }
        checkpoint.watermark = further;
    }
}

fn unreadable(
    operation: &'static str,
    key: &CheckpointKey,
    spelling: Spelling,
    fault: &str,
) -> Error {
    let folder = names::folder(&key.scope, KIND, spelling);
    let file = names::file(&key.partition, spelling);
    let message = format!(
        "the blob {folder}{file} cannot be read as a checkpoint: {fault}; correct it, write over it \
         with `longshore checkpoints set --force`, or delete it to begin at the configured start \
         position"
    );
    Error::new(ErrorClass::BadData, operation, message)
        .with_partition(&Partition::new(key.scope.entity.clone(), key.partition.clone()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::checkpoint::{CheckpointScope, LeaseEpoch, SettledRun, WriteId};
    use crate::event::SequenceNumber;

    fn key() -> CheckpointKey {
        CheckpointKey {
            scope: CheckpointScope {
                namespace: "ns.example".to_owned(),
                entity: "Orders".into(),
                consumer_group: "$Default".into(),
            },
            partition: "3".into(),
        }
    }

    fn found(metadata: crate::blob_container::Metadata, version: &str, seconds: u64) -> Found {
        Found {
            metadata,
            version: VersionToken(version.to_owned()),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    fn ours(seconds: u64) -> (Checkpoint, Found) {
        let run =
            |first, last| SettledRun { first: SequenceNumber(first), last: SequenceNumber(last) };
        let checkpoint = Checkpoint {
            watermark: Some(Position::at(100)),
            settled_above: vec![run(105, 110), run(118, 130), run(140, 140)],
            lease_epoch: LeaseEpoch(5),
            write_id: WriteId(6),
            ..Checkpoint::default()
        };
        let found = found(metadata::encode(&checkpoint), "ours", seconds);
        (checkpoint, found)
    }

    fn others(sequence_number: &str, seconds: u64) -> Option<Found> {
        let pairs = [("sequencenumber", sequence_number), ("offset", "4096")];
        let metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Some(found(metadata, "theirs", seconds))
    }

    /// With a blob that counts last.
    fn joined(ours: Option<Found>, others: Option<Found>) -> StoredCheckpoint {
        let blobs = Blobs { ours, others, without_port: self::others("7", 1) };
        blobs.joined("load the checkpoint", &key()).expect("some").expect("read")
    }

    #[test]
    fn a_later_blob_that_is_further_ahead_moves_ours() {
        let (before, blob) = ours(10);
        let StoredCheckpoint { checkpoint, version } = joined(Some(blob), others("120", 11));
        assert_eq!(version.0, "ours");
        let watermark = checkpoint.watermark.clone().expect("a position");
        assert_eq!(watermark.sequence_number, SequenceNumber(120));
        assert_eq!(watermark.offset, Some("4096".into()));
        let runs: Vec<_> =
            checkpoint.settled_above.iter().map(|run| (run.first.0, run.last.0)).collect();
        assert_eq!(runs, [(121, 130), (140, 140)]);
        assert_eq!((checkpoint.lease_epoch, checkpoint.write_id), (LeaseEpoch(5), WriteId(6)));
        assert_eq!(before.lease_epoch, LeaseEpoch(5));
    }

    #[test]
    fn an_older_one_a_lower_one_and_an_unreadable_one_do_not() {
        for others in [others("120", 10), others("120", 9), others("99", 11), others("x", 11)] {
            let (before, blob) = ours(10);
            assert_eq!(joined(Some(blob), others).checkpoint, before);
        }
    }

    #[test]
    fn alone_it_is_where_we_begin_and_ours_is_to_be_created() {
        let stored = joined(None, others("120", 1));
        assert!(stored.version.0.starts_with(NOT_OURS));
        assert_eq!(stored.checkpoint.watermark.map(|at| at.sequence_number.0), Some(120));
        let blobs = Blobs { ours: None, others: others("", 1), without_port: None };
        let error = blobs.joined("load the checkpoint", &key()).expect("some").expect_err("bad");
        assert_eq!(error.class(), ErrorClass::BadData);
        let text = error.to_string();
        assert!(text.contains("ns.example/Orders/$Default/checkpoint/3"), "{text}");
        assert!(Blobs::default().joined("load the checkpoint", &key()).is_none());
    }

    #[test]
    fn without_any_other_it_is_the_one_without_the_port() {
        let stored = joined(None, None);
        assert!(stored.version.0.starts_with(NOT_OURS));
        assert_eq!(stored.checkpoint.watermark.map(|at| at.sequence_number.0), Some(7));
    }
}
