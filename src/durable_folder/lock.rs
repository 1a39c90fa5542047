//! The lock of a folder that one process uses at a time. It is the operating system's, and goes with
//! its process; the file is only where it is held, and names who has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::disk_error;
use crate::error::{Error, ErrorClass};
use crate::private_file;

/// Held locked by the process that uses a folder alone.
pub(super) const LOCK_FILE: &str = ".longshore.lock";

/// Whether two files are one; elsewhere than on Unix a file that is open cannot be replaced.
pub(super) fn is_same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        true
    }
}

/// Who looks at a lock has it for a moment; whoever wants it for good tries so often, with this pause.
const ATTEMPTS: u32 = 11;
const PAUSE: Duration = Duration::from_millis(20);

/// Locks the folder for this process.
pub(super) fn lock(root: &Path, operation: &'static str) -> Result<File, Error> {
    let path = root.join(LOCK_FILE);
    let failed = |error| disk_error(operation, &path, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = private_file::open(&mut options, &path).map_err(failed)?;
    let mut attempt = 1;
    loop {
        match file.try_lock() {
            Ok(()) => {
                // For the reader of a refusal only: a number that cannot be written does not matter.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                return Ok(file);
            }
            Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => {
                attempt += 1;
                thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(in_use(root, &owner(&mut file), operation));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::new(
                    ErrorClass::Permanent,
                    operation,
                    format!(
                        "the file system that holds {} does not take locks; choose a folder on a \
                         local disk",
                        root.display()
                    ),
                )
                .with_source(error));
            }
        }
    }
}

/// Who has the folder locked. It is asked by the lock itself, for a moment: what the file says stays
/// when its process is gone.
pub(super) fn user_of(root: &Path) -> io::Result<Option<String>> {
    let path = root.join(LOCK_FILE);
    let mut file = match private_file::open(OpenOptions::new().read(true), &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| None),
        Err(TryLockError::WouldBlock) => Ok(Some(owner(&mut file))),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Who wrote its number into the file.
fn owner(file: &mut File) -> String {
    let mut owner = String::new();
    let _ = file.read_to_string(&mut owner);
    match owner.trim() {
        "" => "another process".to_owned(),
        owner => format!("process {owner}"),
    }
}

/// That somebody else has the folder for itself.
pub(crate) fn in_use(root: &Path, owner: &str, operation: &'static str) -> Error {
    Error::new(
        ErrorClass::Permanent,
        operation,
        format!(
            "{} is in use by {owner}; stop it first: a folder is for one process at a time. Workers that share \
             partitions need a container",
            root.display()
        ),
    )
}
