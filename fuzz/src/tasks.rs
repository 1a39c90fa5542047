//! Tasks of workers, and the results that are tasks.

use longshore::blob_store::BlobName;
use longshore::transfer::task::{DownloadTask, TransferResult, UploadTask};

use crate::secrets;

/// A task that is read stays below its folder, and is read as the same where it is written again. What is
/// said of one that is none shows no secret.
pub(crate) fn tasks(bytes: &[u8]) {
    match DownloadTask::from_json(bytes) {
        Ok(task) => {
            stays(&task.path);
            let again = DownloadTask::from_json(&task.to_json());
            assert!(again.is_ok_and(|again| again == task), "{task:?}");
        }
        Err(fault) => assert!(!secrets::are_shown(bytes, &fault.to_string()), "{fault}"),
    }
    match UploadTask::from_json(bytes) {
        Ok(task) => {
            stays(&task.path);
            stays(task.target());
            let again = UploadTask::from_json(&task.to_json());
            assert!(again.is_ok_and(|again| again == task), "{task:?}");
        }
        Err(fault) => assert!(!secrets::are_shown(bytes, &fault.to_string()), "{fault}"),
    }
    if let Ok(result) = serde_json::from_slice::<TransferResult>(bytes) {
        let _times = (result.since_enqueued(), result.since_first_stage());
    }
}

/// Whether a path leads nowhere but below.
fn stays(path: &BlobName) {
    let parts = path.as_str().split('/');
    let mut climbing = parts.filter(|part| matches!(*part, "" | "." | ".."));
    assert_eq!(climbing.next(), None, "{path}");
    assert!(!path.as_str().chars().any(char::is_control), "{path:?}");
}
