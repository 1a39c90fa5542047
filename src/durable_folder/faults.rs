//! What a failure of the file system means, and what to do about it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, ErrorClass};

/// An error of the file system at `path`, by what the caller does about it.
pub(crate) fn disk_error(operation: &'static str, path: &Path, error: io::Error) -> Error {
    let class =
        if needs_help(error.kind()) { ErrorClass::Permanent } else { ErrorClass::Transient };
    Error::new(class, operation, explain(path, &error)).with_source(error)
}

/// Whether somebody has to do something before the same call can succeed.
fn needs_help(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::PermissionDenied
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::FileTooLarge
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
    )
}

/// What is wrong at `path`, and what to do, in one line.
pub(crate) fn explain(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            let file = file_in_the_way(path).unwrap_or(path).display();
            format!("{file} is a file; choose a folder, or move the file away")
        }
        ErrorKind::IsADirectory => {
            format!("{shown} is a folder where a file must be; move it away")
        }
        ErrorKind::PermissionDenied => format!(
            "this process may not use {shown}; change its owner or mode, or choose another folder"
        ),
        ErrorKind::StorageFull => {
            format!("the disk that holds {shown} is full; free space, or choose another folder")
        }
        ErrorKind::QuotaExceeded => {
            format!("the quota at {shown} is used up; raise it, or free space")
        }
        ErrorKind::ReadOnlyFilesystem => format!(
            "{shown} is on a read-only file system; mount it writable, or choose another folder"
        ),
        ErrorKind::FileTooLarge => format!(
            "a file of this size is beyond the limit at {shown}; raise the limit (ulimit -f), \
             or choose another file system"
        ),
        ErrorKind::InvalidFilename => {
            format!("the path {shown} is too long for the file system; choose a shorter folder")
        }
        ErrorKind::InvalidInput if path.symlink_metadata().is_ok() => {
            format!("{shown} cannot be used: {error}; move it away")
        }
        ErrorKind::InvalidInput => {
            format!("{shown:?} is not a path; name a folder")
        }
        _ => format!("the file system failed at {shown}"),
    }
}

/// The lowest part of `path` that exists and is not a folder.
fn file_in_the_way(path: &Path) -> Option<&Path> {
    path.ancestors().find(|part| fs::metadata(part).is_ok_and(|metadata| !metadata.is_dir()))
}
