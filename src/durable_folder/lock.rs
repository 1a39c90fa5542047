//! The lock of a folder that one process uses at a time. It is the operating system's, and goes with
//! its process; the file is only where it is held, and names who has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::Path;

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

/// Locks the folder for this process.
pub(super) fn lock(root: &Path, operation: &'static str) -> Result<File, Error> {
    let path = root.join(LOCK_FILE);
    let failed = |error| disk_error(operation, &path, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = private_file::open(&mut options, &path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            // For the reader of a refusal only: a number that cannot be written does not matter.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            let owner = owner.trim();
            let owner = if owner.is_empty() {
                "another process".to_owned()
            } else {
                format!("process {owner}")
            };
            Err(Error::new(
                ErrorClass::Permanent,
                operation,
                format!(
                    "{} is in use by {owner}; stop it first: a worker has its folder for itself \
                     for as long as it runs. Or give each process a folder of its own",
                    root.display()
                ),
            ))
        }
        Err(TryLockError::Error(error)) => Err(Error::new(
            ErrorClass::Permanent,
            operation,
            format!(
                "the file system that holds {} does not take locks; choose a folder on a local \
                 disk",
                root.display()
            ),
        )
        .with_source(error)),
    }
}
