//! Lines of the list of `longshore transfer`.

use longshore::transfer::task::DownloadTask;

use crate::secrets;

#[path = "../../crates/cli/src/transfer/line.rs"]
#[allow(dead_code, unreachable_pub, reason = "the command's own, of which this reads lines")]
mod line;

/// A line is a task that a worker reads as the same, with the path and the size that are known of it; or what
/// is said of it is short and shows no secret.
pub(crate) fn list_lines(bytes: &[u8]) {
    let bytes = bytes.trim_ascii();
    let key = line::Key::of(bytes);
    match line::read(bytes, &key) {
        Ok(task) => {
            let read = DownloadTask::from_json(&task.json);
            let is_same =
                |read: DownloadTask| read.path.as_str() == task.path && read.size == task.size;
            assert!(read.is_ok_and(is_same), "{task:?}");
        }
        Err(fault) => {
            assert!(fault.chars().count() <= 500, "{fault}");
            assert!(!secrets::are_shown(bytes, &fault), "{fault}");
        }
    }
    assert!(bytes.starts_with(line::kept(bytes)) && line::kept(bytes).len() <= line::KEPT_BYTES);
}
