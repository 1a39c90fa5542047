//! What holds of the files of checkpoints, whatever their bytes.

use super::{Checkpoint, CheckpointKey, CheckpointScope, Record};

/// A file that is read as a checkpoint holds one that can be: its runs are in order above the watermark,
/// and it is read as the same where it is written again.
///
/// # Panics
/// Where that does not hold.
pub fn checkpoint_files(bytes: &[u8]) {
    let scope = CheckpointScope {
        namespace: "ns.example".to_owned(),
        entity: "orders".into(),
        consumer_group: "$Default".into(),
    };
    let key = CheckpointKey { scope, partition: "0".into() };
    let Ok(Record { revision, checkpoint, .. }) = Record::from_json(bytes, &key) else { return };
    let mut end = checkpoint.watermark.as_ref().map(|position| position.sequence_number);
    for run in &checkpoint.settled_above {
        assert!(Some(run.first) > end && run.first <= run.last, "{checkpoint:?}");
        end = Some(run.last);
    }
    let again = Record::new(&key, revision, checkpoint.clone()).to_json(&key);
    let again = again.map(|bytes| Record::from_json(&bytes, &key));
    let is_same = |again: &Checkpoint| *again == checkpoint;
    assert!(
        matches!(&again, Ok(Ok(again)) if again.revision == revision && is_same(&again.checkpoint))
    );
}
